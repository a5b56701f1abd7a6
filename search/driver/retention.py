"""Retention of files: a sweep keeps checkpoints as long as something may need them, then the history alone.

An open trial has its last two checkpoints. Of those that ended, the best (`search.policy.ranking.trials_to_keep`) keep their
generator, and those that failed without a fault of their settings keep the place to go on from (`--retry-failed`). Everything
can be made again: training from the start gives the same numbers.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gbc import checkpoint
from gbc.errors import DIVERGED, BadInput, CorruptFile
from records.trial import TrialRecord
from search.files import storage
from search.files.lock import LOCK
from search.files.paths import CHECKPOINT, HISTORY, PREVIOUS, SCRATCH, files_folder, trial_folder
from search.files.storage import Location, RemotePath
from search.policy.ranking import trials_to_keep
from search.spec.config import SweepConfig


@dataclass(frozen=True)
class SavedHistory:
    """The settings and reports of a trial that its folder still holds."""

    settings: dict[str, Any]
    history: list[dict[str, Any]]
    """Its reports: `step` and the metrics."""
    file: str
    """The name of the file that said so."""


def read_history(folder: Location) -> tuple[SavedHistory | None, list[Location]]:
    """The longest record of a trial's reports in its folder, and the files that are damaged."""
    damaged: list[Location] = []
    for name in (CHECKPOINT, PREVIOUS, HISTORY):
        path = folder / name
        try:
            if not path.exists():
                continue
            state = json.loads(path.read_text()) if name == HISTORY else checkpoint.load(path)
            return SavedHistory(state["settings"], state["history"], name), damaged
        except (CorruptFile, ValueError, KeyError, TypeError):
            damaged.append(path)
        except (BadInput, OSError):  # gone in the meantime, or of another version
            continue
    return None, damaged


class CheckpointRetention:
    """Deletes every checkpoint of a sweep that neither a run that goes on nor an export of what is worth keeping can need.

    A trial's history is written down before its last checkpoint goes. Safe to interrupt, and to repeat.
    """

    def __init__(self, home: Location, config: SweepConfig) -> None:
        """Make one for each run of the sweep: it remembers the trials that have nothing left to delete."""
        self._home, self._config = home, config
        self._settled: set[int] = set()

    def delete_unneeded(self, trials: Sequence[TrialRecord]) -> None:
        """Delete what the sweep can do without now."""
        best = {trial.number for trial in trials_to_keep(self._config, trials)}
        for trial in trials:
            if not trial.finished or trial.number in self._settled:
                continue
            folder = trial_folder(self._home, trial.number)
            if trial.number in best or _can_go_on(trial):
                if (folder / PREVIOUS).exists() and checkpoint.is_intact(folder / CHECKPOINT):
                    (folder / PREVIOUS).unlink()
                continue
            if (folder / CHECKPOINT).exists() or (folder / PREVIOUS).exists():
                _write_history(folder)
                for name in (CHECKPOINT, PREVIOUS):
                    (folder / name).unlink(missing_ok=True)
            # Once beaten, a trial is never among the best again.
            self._settled.add(trial.number)


def _can_go_on(trial: TrialRecord) -> bool:
    """True if it failed through no fault of its settings, so that continuing from its checkpoint may help."""
    return trial.state == "failed" and not (trial.reason or "").startswith(DIVERGED)


def bytes_on_disk(sweep: Path, config: SweepConfig | None = None) -> int:
    """Bytes that a sweep takes on disk, and in the storage that `config` names.

    A file with two names counts once. Ray's scratch files are not counted.

    Raises:
        BadInput: the storage cannot be asked.
    """
    home = sweep if config is None else files_folder(config)
    if isinstance(home, RemotePath):
        return bytes_on_disk(sweep) + sum(count for _, count in storage.list_files(home))
    if home != sweep:
        return bytes_on_disk(sweep) + bytes_on_disk(home)
    seen: dict[tuple[int, int], int] = {}
    for folder, folders, files in os.walk(sweep):
        folders[:] = [name for name in folders if name != SCRATCH]
        for name in files:
            try:
                stat = os.lstat(os.path.join(folder, name))
            except FileNotFoundError:  # replaced in the meantime
                continue
            seen[stat.st_dev, stat.st_ino] = stat.st_size
    return sum(seen.values())


def stale_files(sweep: Path, config: SweepConfig | None = None) -> list[Location]:
    """Temporary files of processes that are no more, and the scratch folder of a dead driver's Ray.

    In the storage that `config` names, which other machines write to as well, every temporary file: nobody may run the sweep.

    Raises:
        BadInput: the storage cannot be asked.
    """
    scratch, stale = sweep / SCRATCH, list[Location]()
    if config is not None and config.places.storage is not None:
        stale += [path for path, _ in storage.list_files(files_folder(config)) if checkpoint.writer_pid(path) is not None]
    for path in sweep.rglob(".*"):
        if path.name == LOCK or scratch in path.parents:
            continue
        writer = checkpoint.writer_pid(path)
        if path == scratch or (writer is not None and not process_exists(writer)):
            stale.append(path)
    return sorted(stale, key=str)


def process_exists(pid: int) -> bool:
    """True if a process of this number runs on this machine."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):
        pass
    return True


def _write_history(folder: Location) -> None:
    saved, _ = read_history(folder)
    if saved is not None and saved.file != HISTORY:
        text = json.dumps({"settings": saved.settings, "history": saved.history})
        storage.write(folder / HISTORY, text.encode())
