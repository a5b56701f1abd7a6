"""The record of `gpu_proof.py`: one JSON file that holds every part, and its Markdown.

    {"version": 1, "device": "cuda", "machine": {...}, "parts": {NAME: {"about", "columns", "state", "reason", "seconds",
     "limit", "commit", "rows"}}}

`state` is `complete`, `cut short` (by its limit), `failed`, or `interrupted` (the command itself was): that part runs again.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final, TypedDict

from gbc.checkpoint import write_atomic
from gbc.errors import BadInput
from tests.benchmarks.harness import Column, Row

VERSION: Final = 1
ENDED: Final = ("complete", "cut short", "failed")


class Part(TypedDict):
    """The record of one part."""

    about: str
    columns: list[list[str]]
    """Key, title and form of each column of its table."""
    state: str
    reason: str | None
    seconds: float
    limit: float
    commit: str | None
    rows: list[Row]


class Record:
    """The file, and what is in it."""

    def __init__(self, path: Path, device: str, machine: Mapping[str, Any], *, anew: bool = False) -> None:
        """Read what earlier runs left, unless `anew`.

        Raises:
            BadInput: the file is no such record, or of another device.
        """
        self.path, self.device, self.machine = path, device, dict(machine)
        self.parts: dict[str, Part] = {} if anew else self._earlier()

    def missing(self, names: Sequence[str]) -> list[str]:
        """Those parts that have not come to an end."""
        return [name for name in names if name not in self.parts or self.parts[name]["state"] not in ENDED]

    def put(self, name: str, part: Part) -> None:
        """Write the file anew with this part."""
        self.parts[name] = part
        whole = {"version": VERSION, "device": self.device, "machine": self.machine, "parts": self.parts}
        write_atomic(self.path, json.dumps(whole, indent=2, ensure_ascii=False).encode())

    def markdown(self, names: Sequence[str]) -> str:
        """All parts on record as Markdown, in this order: a line about the machine, then a table for each."""
        machine_name = self.machine.get("gpu") or "CPU only: no figure of a GPU"
        facts = [f"{key} {value}" for key, value in self.machine.items() if key != "gpu" and value is not None]
        sections = [f"**{machine_name}** ({', '.join(facts)}); `make gpu-proof`"]
        for name in names:
            if name in self.parts:
                sections.append(_section(name, self.parts[name]))
        return "\n\n".join(sections)

    def _earlier(self) -> dict[str, Part]:
        try:
            record = json.loads(self.path.read_text())
            version, device, machine, parts = (record[key] for key in ("version", "device", "machine", "parts"))
        except FileNotFoundError:
            return {}
        except (OSError, ValueError, KeyError, TypeError) as fault:
            raise BadInput(
                f"{self.path}: not a record of this command ({type(fault).__name__}); --again writes it anew"
            ) from None
        mine, theirs = (VERSION, self.device, self.machine.get("gpu")), (version, device, machine.get("gpu"))
        if mine != theirs:
            raise BadInput(
                f"{self.path}: is of {theirs[2] or theirs[1]}, and this is {mine[2] or mine[1]}; --json FILE for another file, "
                "or --again to write it anew"
            )
        return dict(parts)


def _section(name: str, part: Part) -> str:
    state = f"{part['state']} after {part['seconds']:.0f} s (limit {part['limit']:.0f} s)"
    if part["reason"]:
        state += f": {part['reason']}"
    lines = [f"`--only {name}`: {part['about']}. {state}."]
    if part["rows"]:
        columns = [Column(*column) for column in part["columns"]]
        empty: Row = {column.key: None for column in columns}
        cells = [[_cell(column.text(empty | row)) for column in columns] for row in part["rows"]]
        lines += ["", _line([column.title for column in columns]), _line(["---"] * len(columns)), *map(_line, cells)]
    return "\n".join(lines)


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _cell(text: str) -> str:
    """Text that keeps to its cell."""
    return " ".join(text.replace("|", "\\|").split())
