"""The one place where results are written down: the ledger first, then MLflow, then the screen.

What reports say is held for a moment, so that several of them make one transaction; a driver that dies in that moment has not
heard them, and their workers say them again.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any, Final

from ray import tune

from search.driver.node_deaths import of_a_node
from search.driver.progress import Progress
from search.driver.retention import Keeper, saved
from search.files import storage
from search.files.paths import LOG, PICTURE, folder_of, hang_note, trial_folder
from search.files.storage import Place
from search.spec import faults
from search.spec.locations import first_line, redacted
from search.spec.trial_record import Entry
from search.study.ledger import Ledger
from search.tracking.async_writer import Writer
from search.tracking.tracker import Report, Tracker
from search.worker.hang_guard import collect
from search.worker.trial import settings_of

_NOTE_TIME_EVERY: Final = 10.0  # seconds
_HOLD: Final = 0.25  # seconds
_SILENCE: Final = 10.0  # seconds for which MLflow may refuse before it is worth a word


class Recorder(tune.Callback):
    """Ray tells it of every result together with the scheduler's decision."""

    def __init__(self, ledger: Ledger, tracker: Tracker, progress: Progress, folder: Place) -> None:
        """`folder` is where the sweep's trials keep their files (`search.files.paths.home_of`)."""
        self._ledger, self._tracker, self._progress, self._folder = ledger, tracker, progress, folder
        self._writer, self._keeper = Writer(tracker), Keeper(folder, ledger.config)
        self._held: list[tuple[int, Report]] = []
        self._errors: dict[int, str] = {}
        self._hung: dict[int, str] = {}
        self._began, self._before = time.monotonic(), ledger.seconds
        self._noted = self._flushed = self._began
        self._refused = False

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """A worker took a trial."""
        number = trial.config["number"]
        self._writer.open_trial(number, trial.config["settings"])
        self._progress.started(number, trial.config["acknowledged"])

    def on_trial_result(self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **info: Any) -> None:
        """A worker reported; `result["done"]` says that the scheduler ends the trial here."""
        number, step = trial.config["number"], result["step"]
        if "error" in result:
            self._errors[number] = result["error"]
            return
        if "out_of_memory" in result:
            self._out_of_memory(number, trial.config["gpus"], result["out_of_memory"])
            return
        config = self._ledger.config
        metrics = {name: value for name, value in result.items() if "/" in name and isinstance(value, int | float)}
        stop = bool(result.get("done")) and step < config.trial.steps
        second = metrics[config.second_objective.metric] if config.second_objective else None
        missed = config.objective.missed(metrics) if config.objective.require else None
        self._ledger.record(number, step, metrics[config.objective.metric], stop=stop, second=second, missed=missed)
        self._held.append((number, Report(step, metrics, time.time())))
        self._progress.reported(number, step, metrics)

    def on_step_end(self, iteration: int, trials: list[Any], **info: Any) -> None:
        """Ray looked for news, as it does several times a second."""
        now = time.monotonic()
        if now - self._noted >= _NOTE_TIME_EVERY:
            self._ledger.spent(self.elapsed())
            self._noted = now
        if self._held and now - self._flushed >= _HOLD:
            self._flush()
        fault = self._writer.fault  # before `since`, which the writer's thread sets before it
        refused = fault is not None and now - self._writer.since >= _SILENCE
        if fault is not None and refused and not self._refused:
            why = first_line(fault, self._tracker.uri)
            self._progress.note(f"MLflow's store refuses: {why}; trials go on, and it is tried again")
        self._refused = refused

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
        """A worker died and Ray gives its trial up: for the retries are used up, or because it had not begun."""
        number, text = trial.config["number"], redacted(Path(trial.error_file).read_text()) if trial.error_file else ""
        silence = self._collect(number)
        if self._ledger.may_retry(number):  # the searcher hands it out again
            self._ledger.lost_worker(number)
            return
        if text := self._hung.get(number, "") + text:
            storage.write(self._trial_folder(number) / LOG, text.encode())
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
                for report in map(Report.of, self._saved(entry.number)):
                    if report.step <= entry.last_step:
                        self._writer.log(entry.number, report)
                self._writer.show(entry.number, self._trial_folder(entry.number))
            elif entry.finished:
                continue
            if outcome:
                self._close(entry.number, outcome, entry.reason)
        self._keeper.tidy(self._ledger.entries())
        self._writer.drain(faults.PATIENCE)

    def reopen_failed(self) -> None:
        """Before Ray starts: let trials that failed run again, in the study and in MLflow."""
        for entry in self._ledger.entries():
            if entry.state == "failed":
                self._ledger.reopen(entry.number)
                self._open(entry)

    def acknowledged(self, number: int) -> int:
        """The last step of a trial that both records hold: what comes after it, its worker has to say again.

        MLflow may be behind the study, and a checkpoint that would fill the gap may be damaged.
        """
        return min(self._ledger.entry(number).last_step, self._tracker.mark(number))

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
        """Note what is held and the time spent; runs of trials that are still open are marked as interrupted.

        Raises:
            Exception: what MLflow's store said, when it refuses for longer than a minute.
        """
        self._flush()
        self._ledger.spent(self.elapsed())
        self._writer.drain(faults.PATIENCE)
        for entry in self._ledger.entries():
            if not entry.finished:
                self._tracker.interrupt_trial(entry.number)

    def _open(self, entry: Entry) -> None:
        self._writer.open_trial(entry.number, settings_of(self._ledger.config, entry).model_dump(mode="json"))

    def _close(self, number: int, outcome: str, reason: str | None = None) -> None:
        self._flush()
        self._ledger.tell(number, outcome, reason)
        folder = self._trial_folder(number)
        entry = self._ledger.entry(number)
        self._writer.show(number, folder)
        self._writer.close_trial(number, outcome, reason, folder / PICTURE, folder / LOG, entry.lost + entry.retried)
        self._progress.closed(number, outcome, reason)
        self._keeper.tidy(self._ledger.entries())

    def _out_of_memory(self, number: int, gpus: float, reason: str) -> None:
        """Twice the share means half the neighbours; the searcher hands the trial out again (`LedgerSearcher`)."""
        if gpus >= 1:
            self._errors[number] = f"{reason}, though it had the GPU to itself"
            return
        self._ledger.needs(number, min(1.0, 2 * gpus))
        self._progress.crowded(number, reason, min(1.0, 2 * gpus))

    def _collect(self, number: int) -> str | None:
        """If a worker ended itself for its silence: why; where it was goes to the trial's log."""
        if (found := collect(hang_note(folder_of(self._ledger.config.name), number))) is None:
            return None
        reason, where = found
        self._hung[number] = f"{self._hung.get(number, '')}{where}\n"
        storage.write(self._trial_folder(number) / LOG, self._hung[number].encode())
        return reason

    def _flush(self) -> None:
        """The study has it before MLflow hears of it."""
        self._ledger.flush()
        for number, report in self._held:
            self._writer.log(number, report)
        for number in {number for number, _ in self._held}:
            self._writer.show(number, self._trial_folder(number))
        self._held, self._flushed = [], time.monotonic()

    def _saved(self, number: int) -> list[dict[str, Any]]:
        found, _ = saved(self._trial_folder(number))
        return found.history if found else []

    def _trial_folder(self, number: int) -> Place:
        return trial_folder(self._folder, number)

    def __getstate__(self) -> dict[str, Any]:
        """Ray pickles callbacks into a file that nobody reads; keep the open stores out of it."""
        return {}


def reason_of(log: str) -> str:
    """Why a trial failed, in one line: the last of its error."""
    last = next((line.strip() for line in reversed(log.splitlines()) if line.strip()), "")
    if of_a_node(log):
        return "its node died, and it had no retry left"
    # Ray writes a paragraph on what may kill a process.
    return (
        "the worker process died: killed, out of memory or crashed" if not last or "worker process has died" in last else last
    )
