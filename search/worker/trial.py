"""One trial in a worker process: a loop over `Trainer.run()` that saves before it reports."""

from __future__ import annotations

import contextlib
import gc
import os
import socket
import tempfile
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypedDict

from gbc.config import TrialConfig
from gbc.errors import BadInput, CorruptFile, Diverged
from gbc.report import Report
from search.files import shared_classifiers, storage
from search.files.paths import CHECKPOINT, LOG, PICTURE, PREVIOUS, folder_of, hang_note, home_of, step_picture, trial_folder
from search.files.storage import Place
from search.spec.config import SweepConfig
from search.spec.faults import outside
from search.spec.locations import public
from search.spec.space import settle
from search.spec.trial_record import Entry
from search.worker.hang_guard import watched
from search.worker.resource_usage import Usage

Row = dict[str, Any]
"""One report: `step` and the metrics.

Or `step` and `error` when the trial failed for a reason of its own, `out_of_memory` when its GPU had no room left, or `halt`
when the whole sweep must stop.
"""


class Assignment(TypedDict):
    """What a worker is told: plain data, as Ray's config wants it."""

    number: int
    acknowledged: int
    """The last step that is on record; earlier ones are not reported again."""
    settings: dict[str, Any]
    """A `TrialConfig`."""
    folder: str
    """Of this trial: checkpoint and picture. Below `storage` where there is one."""
    cache: str
    """Folder of trained classifiers; the driver has put there what the trial needs. Empty: one of this node's own."""
    storage: str | None
    """Folder or URL of `--storage`, without password, where the driver has put the classifiers as well."""
    threads: int
    gpus: float
    """Share of a GPU, or several."""
    hang_limit: float | None
    """Seconds that may pass without a report; None where somebody sits before it."""
    note: str
    """Where to leave word of a hang. Empty: in a place of this node's own."""


def assignment_of(
    config: SweepConfig,
    entry: Entry,
    cache: Path,
    threads: int,
    *,
    acknowledged: int | None = None,
    gpus: float = 0.0,
    hang_limit: float | None = None,
) -> Assignment:
    """What the worker of a trial is told: where to go on from, and from where to report.

    `acknowledged` is the last step that is on record, by default the ledger's. Of the study and of MLflow it is told nothing.
    """
    place, root = trial_folder(home_of(config), entry.number), config.places.storage
    return Assignment(
        number=entry.number,
        acknowledged=entry.last_step if acknowledged is None else acknowledged,
        settings=settings_of(config, entry).model_dump(mode="json"),
        folder=str(place.resolve()) if isinstance(place, Path) else str(place.inside),
        cache="" if config.places.address else str(cache.resolve()),
        storage=root and public(root),
        threads=threads,
        gpus=max(gpus, entry.gpus),
        hang_limit=hang_limit,
        note="" if config.places.address else str(hang_note(folder_of(config.name), entry.number).resolve()),
    )


def settings_of(config: SweepConfig, entry: Entry) -> TrialConfig:
    """All settings of a trial: the fixed ones, those that were sampled for it, and its own seed."""
    from gbc.runtime import derive

    return settle(config.trial, entry.params, derive(config.seed, entry.number))


def run_trial(config: dict[str, Any], storage_url: str | None = None) -> None:
    """Ray's trainable. `storage_url` is the storage with its password, which comes beside what Ray writes down."""
    from ray import tune

    for row in rows(Assignment(**config), storage_url):  # type: ignore[typeddict-item]
        tune.report(row)


def rows(assignment: Assignment, storage_url: str | None = None) -> Iterator[Row]:
    """Train, or go on training, and yield each report after the checkpoint that holds it is on disk.

    `storage_url` is the assignment's with a password, if there is one.

    Reports that were saved but never acknowledged come first. A failure of the settings is a row, not an exception: the
    sweep goes on, and nothing is gained by trying again. A full GPU is a row as well: the trial goes on with fewer neighbours.
    So is a full disk: no other worker has more room.
    """
    import gbc.training.trainer  # noqa: F401  (seconds that say nothing about the trial)

    root, limit = storage_url or assignment["storage"], assignment["hang_limit"]
    try:
        training = _training(assignment, root)
        for row in watched(training, limit, _note_of(assignment)) if limit else training:
            if row["step"] > assignment["acknowledged"]:
                yield row
    except Exception as fault:
        last = _failure(fault, assignment, root)
        if last is None:
            raise  # Ray gives the trial to another worker, `SweepConfig.retries` times
        yield last


def _failure(fault: Exception, assignment: Assignment, root: str | None) -> Row | None:
    """The row that says why a trial cannot go on; None where another worker may."""
    import torch

    if isinstance(fault, torch.OutOfMemoryError):
        _log_error(assignment, root)
        # This process takes another trial next, beside those that had no room.
        fault.__traceback__ = None
        gc.collect()
        torch.cuda.empty_cache()
        return {"step": assignment["acknowledged"], "out_of_memory": str(fault).partition(".")[0]}
    if why := outside(fault, Path(assignment["folder"])):
        return {"step": assignment["acknowledged"], "halt": why}
    _log_error(assignment, root)
    if not isinstance(fault, BadInput | Diverged):
        return None
    # What is there on one node (`--data-root`, `--weights`) may be missing on another.
    where = f"on {socket.gethostname()}: " if assignment["storage"] and isinstance(fault, BadInput) else ""
    return {"step": getattr(fault, "step", assignment["acknowledged"]), "error": f"{where}{fault}"}


def _note_of(assignment: Assignment) -> Path:
    """Where to leave word of a hang."""
    own = Path(tempfile.gettempdir()) / f"gbc-hang-{assignment['number']:04d}-{os.getpid()}"
    return Path(assignment["note"]) if assignment["note"] else own


def _log_error(assignment: Assignment, root: str | None) -> None:
    with contextlib.suppress(BadInput):  # the folder itself may be the trouble
        storage.write(_folder(assignment, root) / LOG, traceback.format_exc().encode())


def _folder(assignment: Assignment, root: str | None) -> Place:
    place = storage.open_storage(root) if root else Path()
    return Path(assignment["folder"]) if isinstance(place, Path) else place / assignment["folder"]


def _training(assignment: Assignment, root: str | None) -> Iterator[Row]:
    import torch

    from gbc.metrics.scores import ReferenceSet
    from gbc.runtime import pick_device
    from gbc.training import tasks
    from gbc.training.trainer import Trainer

    torch.set_num_threads(assignment["threads"])
    settings = TrialConfig.parse(assignment["settings"], f"trial {assignment['number']}")
    cache = Path(assignment["cache"]) if assignment["cache"] else shared_classifiers.node_cache()
    inputs = tasks.obtain(settings, cache, elsewhere=shared_classifiers.source(root) if root else None)
    trainer = Trainer(settings, inputs.classifiers, ReferenceSet.of(inputs.images, pick_device(settings.device)))
    keeper = Keeper(assignment, settings, root)
    if state := keeper.load():
        trainer.load_state_dict(state)
    yield from keeper.history
    for report in trainer.run():
        yield keeper.keep(report, trainer.state_dict())


class Keeper:
    """What a trial leaves in its folder: pictures, and checkpoints that hold its reports so far."""

    def __init__(self, assignment: Assignment, settings: TrialConfig, root: str | None) -> None:
        """`root` is the storage's URL, with a password if it has one."""
        self.history: list[Row] = []
        """Every report so far."""
        self._settings, self._folder, self._usage = settings, _folder(assignment, root), Usage()

    def load(self) -> dict[str, Any] | None:
        """The trainer's state of the last whole checkpoint, whose history is taken over; None where there is none.

        A damaged one is removed and the one before it used, or training starts over: no loss but of time, since the numbers
        are the same.

        Raises:
            BadInput: the checkpoint belongs to other settings.
        """
        from gbc import checkpoint

        for path in (self._folder / CHECKPOINT, self._folder / PREVIOUS):
            if not path.exists():
                continue
            try:
                found = checkpoint.load(path)
            except CorruptFile:
                path.unlink()
                continue
            saved = TrialConfig.parse(found["settings"], str(path))
            if saved.model_copy(update={"device": self._settings.device}) != self._settings:
                raise BadInput(f"{path}: this checkpoint was written with other settings")
            self.history = found["history"]
            state: dict[str, Any] = found["trainer"]
            return state
        return None

    def keep(self, report: Report, state: dict[str, Any]) -> Row:
        """Save what a report shows and the trainer's state after it; the row for Ray."""
        from gbc import pictures

        self.history.append({"step": report.step, **report.metrics})
        if report.images is not None:
            storage.write(self._folder / PICTURE, pictures.png(report.images))
            storage.write(self._folder / step_picture(report.step), pictures.png(report.images, zoom=1))
        whole = {"settings": self._settings.model_dump(mode="json"), "history": self.history, "trainer": state}
        storage.save(self._folder / CHECKPOINT, whole, self._folder / PREVIOUS)
        return self.history[-1] | self._usage.look()
