"""Scores by name in a comparison's log: those of its control sets, and the ceilings of its rows."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from pydantic import TypeAdapter

from gbc.checkpoint import write_atomic
from gbc.errors import CorruptFile


def read(path: Path) -> dict[str, dict[str, float]]:
    """The scores in that file; empty if there is none yet.

    Raises:
        CorruptFile: it cannot be read.
    """
    if not path.exists():
        return {}
    try:
        return TypeAdapter(dict[str, dict[str, float]]).validate_json(path.read_bytes())
    except (OSError, ValueError) as fault:
        raise CorruptFile(f"{path}: damaged ({str(fault).splitlines()[0]}); remove it to measure them again") from None


def write(path: Path, scores: Mapping[str, Mapping[str, float]]) -> None:
    """Log the scores, so that nobody ever sees part of them."""
    write_atomic(path, json.dumps(scores, indent=1).encode())
