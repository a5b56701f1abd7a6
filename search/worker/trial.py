"""One trial in a worker process: a loop over `Trainer.run()` that saves before it reports."""

from __future__ import annotations

import contextlib
import socket
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from gbc.config import TrialConfig
from gbc.errors import BadInput, CorruptFile, Diverged
from gbc.report import Report
from records.addresses import public, redacted
from records.trial import TrialRecord
from search.files import shared_classifiers, storage
from search.files.paths import (
    CHECKPOINT,
    LOG,
    PICTURE,
    PREVIOUS,
    files_folder,
    hang_report_file,
    step_picture,
    sweep_folder,
    trial_folder,
)
from search.files.storage import Location
from search.spec.config import SweepConfig
from search.spec.faults import external_fault
from search.spec.space import settle
from search.worker.messages import MESSAGE, Assignment, Failed, Halt, Message, OutOfMemory, Progress
from search.worker.resource_usage import ResourceUsage
from search.worker.watchdog import with_watchdog


def assignment_of(
    config: SweepConfig,
    trial: TrialRecord,
    cache: Path,
    threads: int,
    *,
    acknowledged: int | None = None,
    gpus: float = 0.0,
    hang_limit: float | None = None,
) -> Assignment:
    """The assignment of a trial on record: where its worker goes on from, and from which step it reports.

    `acknowledged` is the last step that is on record, by default the ledger's. Of the study and of MLflow it is told nothing.
    """
    folder, root = trial_folder(files_folder(config), trial.number), config.places.storage
    return Assignment(
        number=trial.number,
        acknowledged=trial.last_step if acknowledged is None else acknowledged,
        settings=settings_of(config, trial).model_dump(mode="json"),
        folder=str(folder.resolve()) if isinstance(folder, Path) else str(folder.inside),
        cache="" if config.places.address else str(cache.resolve()),
        storage=root and public(root),
        threads=threads,
        # A trial that ran out of a GPU's memory may go on where there is none.
        gpus=max(gpus, trial.gpus) if gpus else 0.0,
        hang_limit=hang_limit,
        hang_report="" if config.places.address else str(hang_report_file(sweep_folder(config.name), trial.number).resolve()),
    )


def settings_of(config: SweepConfig, trial: TrialRecord) -> TrialConfig:
    """All settings of a trial: the fixed ones, those that were sampled for it, and its own seed."""
    from gbc.runtime import derive_seed

    return settle(config.trial, trial.params, derive_seed(config.seed, trial.number))


def run_trial(config: dict[str, Any], storage_url: str | None = None) -> None:
    """Train a trial, as Ray's trainable. `storage_url` is the storage with its password, which Ray does not write down."""
    from ray import tune

    for message in train(Assignment(**config), storage_url):  # type: ignore[typeddict-item]
        tune.report({MESSAGE: message})


def train(assignment: Assignment, storage_url: str | None = None) -> Iterator[Message]:
    """Train, or go on training, and yield each report after the checkpoint that holds it is on disk.

    `storage_url` is the assignment's with a password, if there is one.

    Reports that were saved but never acknowledged come first. A failure for which another worker would be of no use is a
    last message, not an exception.
    """
    import gbc.training.trainer  # noqa: F401  (seconds that say nothing about the trial)
    from gbc.runtime import release_memory

    release_memory()  # of the trial before in this process
    root, limit = storage_url or assignment["storage"], assignment["hang_limit"]
    try:
        training = _train(assignment, root)
        for report in with_watchdog(training, limit, assignment["hang_report"]) if limit else training:
            if report.step > assignment["acknowledged"]:
                yield report
    except Exception as fault:
        last = _last_message(fault, assignment, root)
        if last is None:
            raise  # Ray gives the trial to another worker, `SweepConfig.retries` times
        yield last


def _last_message(fault: Exception, assignment: Assignment, root: str | None) -> Message | None:
    """The message that says why a trial cannot go on; None where another worker may go on."""
    from gbc.runtime import is_out_of_memory, release_memory

    if is_out_of_memory(fault):
        _log_error(assignment, root)
        # This process takes another trial next, beside those that had no room.
        fault.__traceback__ = None
        release_memory()
        return OutOfMemory(next(iter(str(fault).splitlines()), "").partition(". ")[0])
    if reason := external_fault(fault, Path(assignment["folder"])):
        return Halt(reason)
    _log_error(assignment, root)
    if not isinstance(fault, BadInput | Diverged):
        return None
    # What is there on one node (`--data-root`, `--weights`) may be missing on another.
    source = f"on {socket.gethostname()}: " if assignment["storage"] and isinstance(fault, BadInput) else ""
    return Failed(redacted(f"{source}{fault}"))


def _log_error(assignment: Assignment, root: str | None) -> None:
    with contextlib.suppress(BadInput):  # the folder itself may be the trouble
        storage.write(_trial_location(assignment, root) / LOG, redacted(traceback.format_exc()).encode())


def _trial_location(assignment: Assignment, root: str | None) -> Location:
    store = storage.open_storage(root) if root else Path()
    return Path(assignment["folder"]) if isinstance(store, Path) else store / assignment["folder"]


def _train(assignment: Assignment, root: str | None) -> Iterator[Progress]:
    import torch

    from gbc.runtime import pick_device
    from gbc.training import tasks
    from gbc.training.trainer import Trainer

    torch.set_num_threads(assignment["threads"])
    settings = TrialConfig.parse(assignment["settings"], f"trial {assignment['number']}")
    cache = Path(assignment["cache"]) if assignment["cache"] else shared_classifiers.node_cache()
    inputs = tasks.obtain(settings, cache, other_cache=shared_classifiers.storage_source(root) if root else None)
    trainer = Trainer(settings, inputs.classifiers, inputs.reference(pick_device(settings.device)))
    checkpoints = TrialCheckpoints(assignment, settings, root)
    if state := checkpoints.load():
        trainer.load_state_dict(state)
    yield from map(Progress.from_history, checkpoints.history)
    for report in trainer.run():
        yield checkpoints.save(report, trainer.state_dict())


class TrialCheckpoints:
    """Files of a trial in its folder: pictures, and checkpoints that hold its reports so far."""

    def __init__(self, assignment: Assignment, settings: TrialConfig, root: str | None) -> None:
        """`root` is the storage's URL, with a password if it has one."""
        self.history: list[dict[str, Any]] = []
        """Every report so far."""
        self._settings, self._folder, self._usage = settings, _trial_location(assignment, root), ResourceUsage()

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
                state_on_disk = checkpoint.load(path)
            except CorruptFile:
                path.unlink()
                continue
            saved = TrialConfig.parse(state_on_disk["settings"], str(path))
            if saved.model_copy(update={"device": self._settings.device}) != self._settings:
                raise BadInput(f"{path}: this checkpoint was written with other settings")
            self.history = state_on_disk["history"]
            state: dict[str, Any] = state_on_disk["trainer"]
            return state
        return None

    def save(self, report: Report, state: dict[str, Any]) -> Progress:
        """Save what a report shows and the trainer's state after it; the report for the driver."""
        from gbc import pictures

        self.history.append({"step": report.step, **report.metrics})
        if report.images is not None:
            storage.write(self._folder / PICTURE, pictures.png(report.images))
            storage.write(self._folder / step_picture(report.step), pictures.png(report.images, zoom=1))
        whole = {"settings": self._settings.model_dump(mode="json"), "history": self.history, "trainer": state}
        storage.save_checkpoint(self._folder / CHECKPOINT, whole, self._folder / PREVIOUS)
        return Progress(report.step, {**report.metrics, **self._usage.measure()})
