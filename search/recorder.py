"""The one place where results are written down: the ledger first, then MLflow, then the screen."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any, Final

from ray import tune

from search.ledger import Ledger
from search.progress import Progress
from search.tracking import Tracker
from search.trial import CHECKPOINT, PICTURE

_NOTE_TIME_EVERY: Final = 10.0  # seconds


class Recorder(tune.Callback):
    """Ray tells it of every result together with the scheduler's decision."""

    def __init__(self, ledger: Ledger, tracker: Tracker, progress: Progress, folder: Path) -> None:
        """`folder` is the sweep's."""
        self._ledger, self._tracker, self._progress, self._folder = ledger, tracker, progress, folder
        self._errors: dict[int, str] = {}
        self._began, self._before = time.monotonic(), ledger.seconds
        self._noted = self._began

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """A worker took a trial."""
        number = trial.config["number"]
        self._tracker.open_trial(number, trial.config["settings"])
        self._progress.started(number, trial.config["acknowledged"])

    def on_trial_result(self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **info: Any) -> None:
        """A worker reported; `result["done"]` says that the scheduler ends the trial here."""
        number, step = trial.config["number"], result["step"]
        if "error" in result:
            self._errors[number] = result["error"]
            return
        config = self._ledger.config
        metrics = {name: value for name, value in result.items() if "/" in name and isinstance(value, int | float)}
        stop = bool(result.get("done")) and step < config.trial.steps
        second = metrics[config.second_objective.metric] if config.second_objective else None
        self._ledger.record(number, step, metrics[config.objective.metric], stop=stop, second=second)
        self._tracker.log(number, step, metrics)
        self._progress.reported(number, step, metrics)
        self._note_time()

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """A trial ended, by itself or because it was stopped."""
        number = trial.config["number"]
        if number in self._errors:
            self._close(number, "failed", self._errors[number])
            return
        entry = self._ledger.entry(number)
        if outcome := outcome_of(entry.last_step, entry.stopped_at, self._ledger.config.trial.steps):
            self._close(number, outcome)

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """A worker died and was not to be revived."""
        lines = Path(trial.error_file).read_text().strip().splitlines() if trial.error_file else []
        reason = next((line.strip() for line in reversed(lines) if line.strip()), "the worker died")
        self._close(trial.config["number"], "failed", reason)

    def catch_up(self) -> None:
        """Before Ray starts: bring MLflow to where the ledger is, and close what only lacks its last word."""
        horizon = self._ledger.config.trial.steps
        for entry in self._ledger.entries():
            self._progress.known(entry.number, entry.state, entry.last_step, entry.reason)
            outcome = entry.state if entry.finished else outcome_of(entry.last_step, entry.stopped_at, horizon)
            if self._tracker.behind(entry.number, entry.last_step, entry.finished):
                self._tracker.open_trial(entry.number, None)
                for row in self._saved(entry.number):
                    if row["step"] <= entry.last_step:
                        metrics = {name: value for name, value in row.items() if name != "step"}
                        self._tracker.log(entry.number, row["step"], metrics)
            elif entry.finished:
                continue
            if outcome:
                self._close(entry.number, outcome, entry.reason)

    def elapsed(self) -> float:
        """Wall seconds spent on the sweep, this run and earlier ones."""
        return self._before + time.monotonic() - self._began

    def close_open(self) -> None:
        """A budget is spent: what is still open counts as stopped early."""
        for entry in self._ledger.entries():
            if not entry.finished:
                self._close(entry.number, "stopped")

    def finish(self) -> None:
        """Note the time spent; runs of trials that are still open are marked as interrupted."""
        self._ledger.spent(self.elapsed())
        for entry in self._ledger.entries():
            if not entry.finished:
                self._tracker.interrupt_trial(entry.number)

    def _close(self, number: int, outcome: str, reason: str | None = None) -> None:
        self._ledger.tell(number, outcome, reason)
        self._tracker.close_trial(number, outcome, reason, self._trial_folder(number) / PICTURE)
        self._progress.closed(number, outcome, reason)
        self._ledger.spent(self.elapsed())

    def _saved(self, number: int) -> list[dict[str, Any]]:
        from gbc import checkpoint
        from gbc.errors import BadInput

        try:
            history: list[dict[str, Any]] = checkpoint.load(self._trial_folder(number) / CHECKPOINT)["history"]
        except BadInput:
            return []
        return history

    def _trial_folder(self, number: int) -> Path:
        return trial_folder(self._folder, number)

    def _note_time(self) -> None:
        if time.monotonic() - self._noted >= _NOTE_TIME_EVERY:
            self._ledger.spent(self.elapsed())
            self._noted = time.monotonic()

    def __getstate__(self) -> dict[str, Any]:
        """Ray pickles callbacks into a file that nobody reads; keep the open stores out of it."""
        return {}


def outcome_of(last_step: int, stopped_at: int | None, horizon: int) -> str | None:
    """`complete`, `stopped`, or None for a trial that must go on."""
    if last_step >= horizon:
        return "complete"
    return "stopped" if stopped_at is not None else None


def trial_folder(sweep: Path, number: int) -> Path:
    """Where trial `number` keeps its checkpoint and picture."""
    return sweep / "trials" / f"{number:04d}"
