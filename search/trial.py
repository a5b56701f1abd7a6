"""One trial in a worker process: a loop over `Trainer.run()` that saves before it reports."""

from __future__ import annotations

import contextlib
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypedDict

from gbc.config import TrialConfig
from gbc.errors import BadInput, CorruptFile, Diverged
from search.config import SweepConfig
from search.faults import outside
from search.folder import CHECKPOINT, LOG, PICTURE, PREVIOUS, hang_note, trial_folder
from search.ledger import Entry
from search.space import settle
from search.watch import watched

Row = dict[str, Any]
"""One report: `step` and the metrics.

Or `step` and `error` when the trial failed for a reason of its own; `step` and `halt` when the whole sweep must stop.
"""


class Assignment(TypedDict):
    """What a worker is told: plain data, as Ray's config wants it."""

    number: int
    acknowledged: int
    """The last step that the ledger holds; earlier ones are not reported again."""
    settings: dict[str, Any]
    """A `TrialConfig`."""
    folder: str
    """Of this trial: checkpoint and picture."""
    cache: str
    """Folder of trained classifiers; the driver has put there what the trial needs."""
    threads: int
    hang_limit: float | None
    """Seconds that may pass without a report; None where somebody sits before it."""
    note: str
    """Where to leave word of a hang."""


def assignment_of(
    config: SweepConfig, entry: Entry, sweep: Path, cache: Path, threads: int, hang_limit: float | None
) -> Assignment:
    """What the worker of a trial is told, as far as the ledger has come."""
    return Assignment(
        number=entry.number,
        acknowledged=entry.last_step,
        settings=settings_of(config, entry).model_dump(mode="json"),
        folder=str(trial_folder(sweep, entry.number).resolve()),
        cache=str(cache.resolve()),
        threads=threads,
        hang_limit=hang_limit,
        note=str(hang_note(sweep, entry.number).resolve()),
    )


def settings_of(config: SweepConfig, entry: Entry) -> TrialConfig:
    """All settings of a trial: the fixed ones, those that were sampled for it, and its own seed."""
    from gbc.runtime import derive

    return settle(config.trial, entry.params, derive(config.seed, entry.number))


def run_trial(config: dict[str, Any]) -> None:
    """Ray's trainable."""
    from ray import tune

    for row in rows(Assignment(**config)):  # type: ignore[typeddict-item]
        tune.report(row)


def rows(assignment: Assignment) -> Iterator[Row]:
    """Train, or go on training, and yield each report after the checkpoint that holds it is on disk.

    Reports that were saved but never acknowledged come first. A failure of the settings is a row, not an exception: the
    sweep goes on, and nothing is gained by trying again. Nor is a full disk an exception: no other worker has more room.
    """
    import gbc.trainer  # noqa: F401  (seconds that say nothing about the trial)

    try:
        training, limit = _training(assignment), assignment["hang_limit"]
        for row in watched(training, limit, Path(assignment["note"])) if limit else training:
            if row["step"] > assignment["acknowledged"]:
                yield row
    except Exception as fault:
        if why := outside(fault, Path(assignment["folder"])):
            yield {"step": assignment["acknowledged"], "halt": why}
            return
        _log_error(assignment)
        if not isinstance(fault, BadInput | Diverged):
            raise  # Ray gives the trial to another worker, `SweepConfig.retries` times
        yield {"step": getattr(fault, "step", assignment["acknowledged"]), "error": str(fault)}


def _log_error(assignment: Assignment) -> None:
    from gbc.checkpoint import write_atomic

    with contextlib.suppress(BadInput):  # the folder itself may be the trouble
        write_atomic(Path(assignment["folder"]) / LOG, traceback.format_exc().encode())


def _training(assignment: Assignment) -> Iterator[Row]:
    import torch

    from gbc import checkpoint, pictures, tasks
    from gbc.metrics import Judge
    from gbc.runtime import pick_device
    from gbc.trainer import Trainer

    torch.set_num_threads(assignment["threads"])
    settings = TrialConfig.parse(assignment["settings"], f"trial {assignment['number']}")
    world = tasks.obtain(settings, Path(assignment["cache"]))
    trainer = Trainer(settings, world.classifiers, Judge.of(world.images, pick_device(settings.device)))
    folder = Path(assignment["folder"])

    history = resume(trainer, folder)
    yield from history
    for report in trainer.run():
        history.append({"step": report.step, **report.metrics})
        if report.images is not None:
            checkpoint.write_atomic(folder / PICTURE, pictures.png(report.images))
        state = {"settings": settings.model_dump(mode="json"), "history": history, "trainer": trainer.state_dict()}
        checkpoint.save(folder / CHECKPOINT, state, folder / PREVIOUS)
        yield history[-1]


def resume(trainer: Any, folder: Path) -> list[Row]:
    """Load the last whole checkpoint in `folder` into `trainer` and give its history; nothing when there is none.

    A damaged one is removed and the one before it used, or training starts over: no loss but of time, since the numbers are
    the same.

    Raises:
        BadInput: the checkpoint belongs to other settings.
    """
    from gbc import checkpoint

    for path in (folder / CHECKPOINT, folder / PREVIOUS):
        if not path.exists():
            continue
        try:
            state = checkpoint.load(path)
        except CorruptFile:
            path.unlink()
            continue
        saved = TrialConfig.parse(state["settings"], str(path))
        if saved.model_copy(update={"device": trainer.config.device}) != trainer.config:
            raise BadInput(f"{path}: this checkpoint was written with other settings")
        trainer.load_state_dict(state["trainer"])
        history: list[Row] = state["history"]
        return history
    return []
