"""The one place where results are written down: the study first, then MLflow, then the screen.

Reports are held for a moment, so that several of them make one transaction. A driver that dies in that moment has recorded none
of them, and their workers send them again.
"""

from __future__ import annotations

import time
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any, Final

from records.addresses import first_line, redacted
from records.trial import BY_HAND, TrialRecord
from search.driver.pending_orders import PendingOrders
from search.driver.progress import ProgressDisplay
from search.driver.retention import CheckpointRetention, read_history
from search.files import storage
from search.files.paths import LOG, PICTURE, hang_report_file, sweep_folder, trial_folder
from search.files.storage import Location
from search.policy.budget import overdue
from search.policy.early_stopping import Decision, StoppingRule, stopping_rule
from search.spec import faults
from search.study.ledger import Ledger
from search.tracking.async_writer import AsyncWriter
from search.tracking.sinks import EarlierTrial, Sinks, shown_settings
from search.tracking.tracker import Tracker
from search.worker.messages import Assignment, Failed, Halt, Message, OutOfMemory, Progress
from search.worker.trial import settings_of
from search.worker.watchdog import take_hang_report

_NOTE_TIME_EVERY: Final = 10.0  # seconds
_HOLD: Final = 0.25  # seconds
_SILENCE: Final = 10.0  # seconds for which MLflow may refuse before it is worth a word


@dataclass(frozen=True)
class WorkerFailure:
    """The last failure of a trial's worker, after which Ray starts no other."""

    reason: str
    """In one line."""
    log: str
    """Every failure of the trial's workers, with tracebacks."""


class Recorder:
    """Writes down what happens to trials, and decides which of them go on.

    What happens comes in as five calls: `started`, `reported`, `recovered`, `ended` and `tick`. Who makes them runs the trials.
    """

    def __init__(
        self,
        ledger: Ledger,
        tracker: Tracker,
        display: ProgressDisplay,
        folder: Location,
        rule: StoppingRule | None = None,
        orders: PendingOrders | None = None,
    ) -> None:
        """`folder` is where the sweep's trials keep their files (`search.files.paths.files_folder`).

        `rule` decides which trials stop early; by default it is the one that the sweep's settings name.
        `orders` are those from another terminal.
        """
        self._ledger, self._tracker, self._display, self._folder = ledger, tracker, display, folder
        self._sinks = Sinks.of(ledger.config)
        self._writer, self._retention = AsyncWriter(tracker, self._sinks), CheckpointRetention(folder, ledger.config)
        self.orders = orders or PendingOrders(ledger, display)
        self._rule = rule or stopping_rule(ledger.config, ledger.entries())
        self._held: list[tuple[int, Progress]] = []
        self._tracked: dict[int, int] = {}
        """By trial the last step that MLflow has, or will be sent by this run."""
        self._failures: dict[int, str] = {}
        self._out_of_memory: set[int] = set()
        self._hung: dict[int, str] = {}
        self._best = ledger.best()
        """The best trial that was shown, by this run or an earlier one."""
        self._began, self._before = time.monotonic(), ledger.seconds
        self._noted = self._flushed = self._began
        self._refused = False

    def started(self, assignment: Assignment) -> None:
        """Record that a worker took a trial."""
        trial = self._ledger.entry(assignment["number"])
        self._writer.open_trial(trial.number, assignment["settings"], trial.repeats)
        self._display.started(trial.number, assignment["acknowledged"], trial.repeats, by_hand=trial.by_hand)

    def reported(self, assignment: Assignment, message: Message) -> Decision:
        """Record a worker's message, and answer whether its trial goes on."""
        number = assignment["number"]
        match message:
            case Failed(reason):
                self._failures[number] = reason
            case OutOfMemory(reason):
                self._give_more_memory(number, assignment["gpus"], reason)
            case Progress():
                return self._record(number, message)
            case Halt():  # is for whoever runs the trials
                pass
        return Decision.KEEP

    def recovered(self, number: int) -> None:
        """Record that a worker died or raised and that another one takes over."""
        self._ledger.count_lost_worker(number)
        self._collect_hang(number)

    def ended(self, number: int, failure: WorkerFailure | None = None) -> bool:
        """Record that a trial ended: by itself, because it was stopped, or with a `failure` because no other worker takes over.

        Returns whether it has to be run again: it has a retry left, or it ran out of a GPU's memory.
        """
        if failure is not None:
            return self._lost(number, failure)
        if number in self._failures:
            self._close(number, "failed", self._failures[number])
        elif outcome := self._ledger.entry(number).outcome(self._ledger.config.trial.steps):
            self._close(number, outcome, self._reason(number, outcome))
        elif number in self._out_of_memory:
            self._out_of_memory.remove(number)
            return True
        return False

    def tick(self) -> None:
        """Do what is due; called several times a second."""
        self.orders.poll()
        now = time.monotonic()
        if now - self._noted >= _NOTE_TIME_EVERY:
            self._ledger.set_seconds(self.elapsed())
            self._noted = now
        if self._held and now - self._flushed >= _HOLD:
            self._flush()
        fault = self._writer.fault  # before `since`, which the writer's thread sets before it
        refused = fault is not None and now - self._writer.since >= _SILENCE
        if fault is not None and refused and not self._refused:
            reason = first_line(fault, self._tracker.uri)
            self._display.note(f"MLflow's store refuses: {reason}; trials go on, and it is tried again")
        self._refused = refused
        self._show_news()

    def reconcile(self) -> None:
        """Bring MLflow to where the study is, and close trials that only lack their end. Call it before Ray starts."""
        horizon = self._ledger.config.trial.steps
        self._tracker.load_runs()
        trials = self._ledger.entries()
        behind = {trial.number for trial in trials if self._tracker.lacks(trial.number, trial.last_step, trial.finished)}
        self._tracked = {trial.number: self._tracker.last_step(trial.number) for trial in trials}
        for trial in trials:
            self._display.add_earlier(
                trial.number, trial.state, trial.last_step, trial.reason, trial.repeats, by_hand=trial.by_hand
            )
            if self._sinks:
                self._writer.catch_up(self._earlier(trial))
            if trial.number in behind:
                self._open(trial)
                for report in map(Progress.from_history, self._saved(trial.number)):
                    if report.step <= trial.last_step:
                        self._track(trial.number, report)
                self._writer.show(trial.number, self._trial_folder(trial.number))
            elif trial.finished:
                continue
            if outcome := trial.outcome(horizon) or ("stopped" if trial.number in self.orders.ending else None):
                if not trial.values:  # it may have been asked for and never started
                    self._open(trial)
                self._close(trial.number, outcome, trial.reason or self._reason(trial.number, outcome))
        self._retention.delete_unneeded(self._ledger.entries())
        self._writer.drain(faults.PATIENCE)

    def reopen_failed(self) -> None:
        """Let trials that failed run again, in the study and in MLflow. Call it before `reconcile`."""
        for trial in self._ledger.entries():
            if trial.state == "failed":
                self._ledger.reopen(trial.number)
                self._open(trial)
        self._writer.drain(faults.PATIENCE)  # `reconcile` asks the tracker, which is the writer's while it has work

    def acknowledged(self, number: int) -> int:
        """The last step of a trial that both records hold. Its worker has to send later reports again.

        MLflow may be behind the study, and a checkpoint that would fill the gap may be damaged.
        """
        return min(self._ledger.entry(number).last_step, self._tracked.get(number, 0))

    def elapsed(self) -> float:
        """Wall seconds spent on the sweep, this run and earlier ones."""
        return self._before + time.monotonic() - self._began

    def close_open_trials(self, numbers: Collection[int] | None = None) -> None:
        """Close open trials as stopped early, because a budget is exhausted: every one, or those with these `numbers`."""
        for trial in self._ledger.entries():
            if not trial.finished and (numbers is None or trial.number in numbers):
                self._open(trial)  # it may have been asked for and never started
                self._close(trial.number, "stopped")

    def finish(self) -> None:
        """Write down what is held and the time spent, and mark the runs of trials that are still open as interrupted.

        Raises:
            Exception: what MLflow's store said, when it refuses for longer than a minute.
        """
        self._flush()
        self._ledger.set_seconds(self.elapsed())
        try:
            self._writer.drain(faults.PATIENCE)
        finally:
            self._sinks.close()
            self._show_news()
        for trial in self._ledger.entries():
            if not trial.finished:
                self._tracker.interrupt_trial(trial.number)

    def close(self) -> None:
        """End the threads that write to MLflow and the sinks; what was not written by `finish` is left to a later run."""
        self._writer.close()
        self._sinks.close(0.0)

    def _open(self, trial: TrialRecord) -> None:
        self._writer.open_trial(trial.number, settings_of(self._ledger.config, trial).model_dump(mode="json"), trial.repeats)

    def _earlier(self, trial: TrialRecord) -> EarlierTrial:
        settings = settings_of(self._ledger.config, trial).model_dump(mode="json")
        return EarlierTrial(
            trial.number, shown_settings(settings, trial.repeats), trial.last_step,
            trial.state if trial.finished else None, trial.reason and redacted(trial.reason),
            lambda: map(Progress.from_history, self._saved(trial.number)),
        )  # fmt: skip

    def _show_news(self) -> None:
        for line in (*self._tracker.news(), *self._sinks.news()):
            self._display.note(line)

    def _close(self, number: int, outcome: str, reason: str | None = None) -> None:
        self._flush()
        self._ledger.tell(number, outcome, reason)
        folder = self._trial_folder(number)
        trial = self._ledger.entry(number)
        self._writer.show(number, folder)
        self._writer.close_trial(number, outcome, reason, folder / PICTURE, folder / LOG, trial.lost + trial.retried)
        self._display.ended(number, outcome, reason)
        self._show_best()
        self._retention.delete_unneeded(self._ledger.entries())

    def _show_best(self) -> None:
        best = self._ledger.best()
        if best is None or best.value is None or best.missed or (self._best and best.number == self._best.number):
            return
        self._best = best
        self._display.new_best(best.number, best.value, self._trial_folder(best.number) / PICTURE)

    def _record(self, number: int, report: Progress) -> Decision:
        config, metrics = self._ledger.config, report.metrics
        if lacking := [objective.metric for objective in config.objectives if objective.metric not in metrics]:
            self._failures[number] = f"its report at step {report.step} has no {lacking[0]}, which is an objective"
            return Decision.STOP
        value = metrics[config.objective.metric]
        repetition = self._ledger.entry(number).repeats is not None
        second = metrics[config.second_objective.metric] if config.second_objective else None
        decision = Decision.KEEP if repetition else self._rule.decide(number, report.step, value, second)
        if number in self.orders.ending or number in overdue(config, self._ledger.entries(), self.elapsed()):
            decision = Decision.STOP
        stop = decision is Decision.STOP and report.step < config.trial.steps
        missed = config.objective.missed(metrics) if config.objective.require else None
        self._ledger.record(number, report.step, value, stop=stop, second=second, missed=missed)
        self._held.append((number, report))
        return decision

    def _reason(self, number: int, outcome: str) -> str | None:
        return BY_HAND if outcome == "stopped" and number in self.orders.ending else None

    def _lost(self, number: int, failure: WorkerFailure) -> bool:
        silence = self._collect_hang(number)
        if number in self.orders.ending:
            self._close(number, "stopped", BY_HAND)
            return False
        if self._ledger.may_retry(number):
            self._ledger.count_lost_worker(number)
            return True
        if text := self._hung.get(number, "") + failure.log:
            storage.write(self._trial_folder(number) / LOG, text.encode())
        self._close(number, "failed", silence or failure.reason)
        return False

    def _give_more_memory(self, number: int, gpus: float, reason: str) -> None:
        """Ask for twice the share of a GPU, which means half the neighbours."""
        if gpus >= 1:
            self._failures[number] = f"{reason}, though it had the GPU to itself"
            return
        self._out_of_memory.add(number)
        self._ledger.set_gpu_share(number, min(1.0, 2 * gpus))
        self._display.out_of_memory(number, reason, min(1.0, 2 * gpus))

    def _collect_hang(self, number: int) -> str | None:
        """The reason why a worker ended itself for its silence, if it did; its traceback goes to the trial's log."""
        if (hang := take_hang_report(hang_report_file(sweep_folder(self._ledger.config.name), number))) is None:
            return None
        reason, frames = hang
        self._hung[number] = f"{self._hung.get(number, '')}{frames}\n"
        storage.write(self._trial_folder(number) / LOG, self._hung[number].encode())
        return reason

    def _flush(self) -> None:
        """Pass on what is held: the study has it before MLflow and the screen do."""
        self._ledger.flush()
        for number, report in self._held:
            self._track(number, report)
            self._display.reported(number, report.step, report.metrics)
        for number in {number for number, _ in self._held}:
            self._writer.show(number, self._trial_folder(number))
        self._held, self._flushed = [], time.monotonic()

    def _track(self, number: int, report: Progress) -> None:
        self._writer.log(number, report)
        self._tracked[number] = max(report.step, self._tracked.get(number, 0))

    def _saved(self, number: int) -> list[dict[str, Any]]:
        saved, _ = read_history(self._trial_folder(number))
        return saved.history if saved else []

    def _trial_folder(self, number: int) -> Location:
        return trial_folder(self._folder, number)
