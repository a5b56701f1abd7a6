"""What a sweep keeps on disk: checkpoints as long as something may need them, then the history alone.

An open trial has its last two checkpoints. Of those that ended, the best (`search.policy.ranking.worth_keeping`) keep their
generator, and those that failed without a fault of their settings keep the place to go on from (`--retry-failed`). Everything
can be made again: training from the start gives the same numbers.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from gbc import checkpoint
from gbc.errors import BadInput, CorruptFile
from search.files import storage
from search.files.lock import LOCK
from search.files.paths import CHECKPOINT, HISTORY, PREVIOUS, SCRATCH, home_of, trial_folder
from search.files.storage import Place, Remote
from search.policy.ranking import worth_keeping
from search.spec.config import SweepConfig
from search.spec.trial_record import Entry

# Earlier versions wrote temporary files without the name of the process.
_NAMELESS: Final = re.compile(r"\.[a-z]+\.(ckpt|png|json|yaml)\.\w{8}")


@dataclass(frozen=True)
class Saved:
    """What the folder of a trial still knows of it."""

    settings: dict[str, Any]
    history: list[dict[str, Any]]
    """Its reports: `step` and the metrics."""
    file: str
    """The name of the file that said so."""


def saved(folder: Place) -> tuple[Saved | None, list[Place]]:
    """The longest record of a trial's reports in its folder, and the files that are damaged."""
    damaged: list[Place] = []
    for name in (CHECKPOINT, PREVIOUS, HISTORY):
        path = folder / name
        try:
            if not path.exists():
                continue
            state = json.loads(path.read_text()) if name == HISTORY else checkpoint.load(path)
            return Saved(state["settings"], state["history"], name), damaged
        except (CorruptFile, ValueError, KeyError, TypeError):
            damaged.append(path)
        except (BadInput, OSError):  # gone in the meantime, or of another version
            continue
    return None, damaged


class Keeper:
    """Deletes every checkpoint of a sweep that neither a run that goes on nor an export of what is worth keeping can need.

    A trial's history is written down before its last checkpoint goes. Safe to interrupt, and to repeat.
    """

    def __init__(self, home: Place, config: SweepConfig) -> None:
        """For one run of the sweep: which trials have nothing to delete any more is remembered, for a look costs requests."""
        self._home, self._config = home, config
        self._settled: set[int] = set()

    def tidy(self, entries: Sequence[Entry]) -> None:
        """Delete what the sweep can do without now."""
        best = {entry.number for entry in worth_keeping(self._config, entries)}
        for entry in entries:
            if not entry.finished or entry.number in self._settled:
                continue
            folder = trial_folder(self._home, entry.number)
            if entry.number in best or entry.can_go_on:
                if (folder / PREVIOUS).exists() and checkpoint.is_intact(folder / CHECKPOINT):
                    (folder / PREVIOUS).unlink()
                continue
            if (folder / CHECKPOINT).exists() or (folder / PREVIOUS).exists():
                _write_history(folder)
                for name in (CHECKPOINT, PREVIOUS):
                    (folder / name).unlink(missing_ok=True)
            # Once beaten, a trial is never among the best again.
            self._settled.add(entry.number)


def footprint(sweep: Path, config: SweepConfig | None = None) -> int:
    """Bytes that a sweep takes on disk, and in the storage that `config` names.

    A file with two names counts once. Ray's scratch files are not counted.

    Raises:
        BadInput: the storage cannot be asked.
    """
    home = sweep if config is None else home_of(config)
    if isinstance(home, Remote):
        return footprint(sweep) + sum(count for _, count in storage.files(home))
    if home != sweep:
        return footprint(sweep) + footprint(home)
    seen: dict[tuple[int, int], int] = {}
    for place, folders, files in os.walk(sweep):
        folders[:] = [name for name in folders if name != SCRATCH]
        for name in files:
            try:
                stat = os.lstat(os.path.join(place, name))
            except FileNotFoundError:  # replaced in the meantime
                continue
            seen[stat.st_dev, stat.st_ino] = stat.st_size
    return sum(seen.values())


def leftovers(sweep: Path, config: SweepConfig | None = None) -> list[Place]:
    """Temporary files of processes that are no more, and the scratch folder of a dead driver's Ray.

    In the storage that `config` names, which other machines write to as well, every temporary file: nobody may run the sweep.

    Raises:
        BadInput: the storage cannot be asked.
    """
    scratch, found = sweep / SCRATCH, list[Place]()
    if config is not None and config.places.storage is not None:
        found += [path for path, _ in storage.files(home_of(config)) if checkpoint.writer_pid(path) is not None]
    for path in sweep.rglob(".*"):
        if path.name == LOCK or scratch in path.parents:
            continue
        writer = checkpoint.writer_pid(path)
        if path == scratch or (writer is not None and not alive(writer)) or _NAMELESS.fullmatch(path.name):
            found.append(path)
    return sorted(found, key=str)


def alive(pid: int) -> bool:
    """Whether a process of this number runs on this machine."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):
        pass
    return True


def _write_history(folder: Place) -> None:
    found, _ = saved(folder)
    if found is not None and found.file != HISTORY:
        text = json.dumps({"settings": found.settings, "history": found.history})
        storage.write(folder / HISTORY, text.encode())
