"""The one place where results are written down: the ledger first, then MLflow, then the screen."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any, Final

from ray import tune

from gbc.checkpoint import write_atomic
from search.disk import saved, tidy
from search.folder import LOG, PICTURE, hang_note, trial_folder
from search.ledger import Entry, Ledger
from search.progress import Progress
from search.tracking import Tracker
from search.trial import settings_of
from search.watch import collect

_NOTE_TIME_EVERY: Final = 10.0  # seconds


class Recorder(tune.Callback):
    """Ray tells it of every result together with the scheduler's decision."""

    def __init__(self, ledger: Ledger, tracker: Tracker, progress: Progress, folder: Path) -> None:
        """`folder` is the sweep's."""
        self._ledger, self._tracker, self._progress, self._folder = ledger, tracker, progress, folder
        self._errors: dict[int, str] = {}
        self._hung: dict[int, str] = {}
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
        if outcome := self._ledger.entry(number).outcome(self._ledger.config.trial.steps):
            self._close(number, outcome)

    def on_trial_recover(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """A worker died or raised, and another one takes over."""
        number = trial.config["number"]
        self._ledger.lost_worker(number)
        self._collect(number)

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """A worker died and was not to be revived."""
        number, text = trial.config["number"], Path(trial.error_file).read_text() if trial.error_file else ""
        silence = self._collect(number)
        if text := self._hung.get(number, "") + text:
            write_atomic(self._trial_folder(number) / LOG, text.encode())
        self._close(number, "failed", silence or reason_of(text))

    def catch_up(self) -> None:
        """Before Ray starts: bring MLflow to where the ledger is, and close what only lacks its last word."""
        horizon = self._ledger.config.trial.steps
        self._tracker.look()
        for entry in self._ledger.entries():
            self._progress.known(entry.number, entry.state, entry.last_step, entry.reason)
            outcome = entry.outcome(horizon)
            if self._tracker.behind(entry.number, entry.last_step, entry.finished):
                self._open(entry)
                for row in self._saved(entry.number):
                    if row["step"] <= entry.last_step:
                        metrics = {name: value for name, value in row.items() if name != "step"}
                        self._tracker.log(entry.number, row["step"], metrics)
            elif entry.finished:
                continue
            if outcome:
                self._close(entry.number, outcome, entry.reason)
        self._tidy()

    def reopen_failed(self) -> None:
        """Before Ray starts: let trials that failed run again, in the study and in MLflow."""
        for entry in self._ledger.entries():
            if entry.state == "failed":
                self._ledger.reopen(entry.number)
                self._open(entry)

    def elapsed(self) -> float:
        """Wall seconds spent on the sweep, this run and earlier ones."""
        return self._before + time.monotonic() - self._began

    def close_open(self) -> None:
        """A budget is spent: what is still open counts as stopped early."""
        for entry in self._ledger.entries():
            if not entry.finished:
                self._open(entry)  # it may have been asked for and never started
                self._close(entry.number, "stopped")

    def finish(self) -> None:
        """Note the time spent; runs of trials that are still open are marked as interrupted."""
        self._ledger.spent(self.elapsed())
        for entry in self._ledger.entries():
            if not entry.finished:
                self._tracker.interrupt_trial(entry.number)

    def _open(self, entry: Entry) -> None:
        self._tracker.open_trial(entry.number, settings_of(self._ledger.config, entry).model_dump(mode="json"))

    def _close(self, number: int, outcome: str, reason: str | None = None) -> None:
        self._ledger.tell(number, outcome, reason)
        folder = self._trial_folder(number)
        entry = self._ledger.entry(number)
        self._tracker.close_trial(number, outcome, reason, folder / PICTURE, folder / LOG, entry.lost + entry.retried)
        self._progress.closed(number, outcome, reason)
        self._ledger.spent(self.elapsed())
        self._tidy()

    def _collect(self, number: int) -> str | None:
        """If a worker ended itself for its silence: why; where it was goes to the trial's log."""
        if (found := collect(hang_note(self._folder, number))) is None:
            return None
        reason, where = found
        self._hung[number] = f"{self._hung.get(number, '')}{where}\n"
        write_atomic(self._trial_folder(number) / LOG, self._hung[number].encode())
        return reason

    def _tidy(self) -> None:
        tidy(self._folder, self._ledger.config, self._ledger.entries())

    def _saved(self, number: int) -> list[dict[str, Any]]:
        found, _ = saved(self._trial_folder(number))
        return found.history if found else []

    def _trial_folder(self, number: int) -> Path:
        return trial_folder(self._folder, number)

    def _note_time(self) -> None:
        if time.monotonic() - self._noted >= _NOTE_TIME_EVERY:
            self._ledger.spent(self.elapsed())
            self._noted = time.monotonic()

    def __getstate__(self) -> dict[str, Any]:
        """Ray pickles callbacks into a file that nobody reads; keep the open stores out of it."""
        return {}


def reason_of(log: str) -> str:
    """Why a trial failed, in one line: the last of its error."""
    last = next((line.strip() for line in reversed(log.splitlines()) if line.strip()), "")
    # Ray writes a paragraph on what may kill a process.
    return (
        "the worker process died: killed, out of memory or crashed" if not last or "worker process has died" in last else last
    )
