"""The life of a sweep: open or continue its folder, run what is left, sum up."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext, suppress
from dataclasses import replace
from pathlib import Path

from rich.console import Console

from gbc import plain_yaml
from gbc.checkpoint import write_atomic
from gbc.errors import BadInput
from gbc.metrics.scale import Scale
from gbc.settings import flatten
from records.mlflow_store import reach
from records.paths import RECORD
from records.trial import TrialRecord
from search.driver import announce, processes
from search.driver.description import question
from search.driver.engine import RayStart, run_ray
from search.driver.graphics_protocol import graphics_protocol
from search.driver.live_report import LiveReport, begin_report
from search.driver.pending_orders import PendingOrders
from search.driver.preflight import prepare, untrained_inputs, variants
from search.driver.progress import ProgressDisplay
from search.driver.recorder import Recorder
from search.driver.resources import Machine
from search.driver.resume_checks import check_against_mlflow, lost_records
from search.driver.retention import stale_files
from search.driver.summary import Summary, summarise, with_scale
from search.files import storage
from search.files.paths import CLASSIFIERS, PICTURE, SCRATCH, files_folder, has_study, sweep_folder, trial_folder
from search.policy.budget import ended_by, exhausted_budget, has_work_left, overdue, remedy
from search.policy.finalists import minutes_needed, with_time
from search.policy.samplers import Prior
from search.spec.config import SweepConfig
from search.spec.faults import HaltMonitor, halting, readable
from search.study import warm_start
from search.study.ledger import Ledger
from search.study.orders import Order, recorded_orders, setting_waits
from search.study.store import exclusive_driver, note_driver, recorded_trials
from search.tracking import relocation, sinks
from search.tracking.client import address
from search.tracking.lineage import Inputs
from search.tracking.tracker import Tracker
from search.worker import watchdog
from search.worker.messages import Assignment
from search.worker.trial import assignment_of, settings_of


def finished_summary(config: SweepConfig, *, retry_failed: bool = False, report: bool = True) -> Summary | None:
    """The summary of a sweep that has nothing left to do, at once and without Ray; None when there is work.

    With `report` a sweep that was not concluded has work.

    Raises:
        BadInput: failed trials are to run again, and time, steps or patience leave nothing for them.
    """
    folder = sweep_folder(config.name)
    if not has_study(config) or (not retry_failed and lost_records(config, folder)):
        return None
    summary = Summary.read(folder)  # None when it ended before its last word; a run with nothing to do writes that
    more = summary is not None and summary.ended_by == "trials" and summary.trials - summary.extra < config.planned
    if not retry_failed and (summary is None or not summary.finished or more or (report and not summary.concluded)):
        return None  # reading a large study takes seconds, and the run reads it again
    trials, seconds, orders = _on_record(config, folder)  # read only: another driver may have the lock
    if retry_failed and any(trial.state == "failed" for trial in trials):
        if reason := exhausted_budget(config, trials, seconds):  # they would be closed as they were opened
            raise BadInput(f"--retry-failed: {remedy(config, reason)}")
        return None
    reason = ended_by(config, trials, seconds, waiting=setting_waits(orders))
    if reason is None or lost_records(config, folder):
        return None
    if summary is None or not summary.finished or summary.trials != len(trials):
        return None
    return replace(summary, ended_by=reason)


def run_sweep(
    config: SweepConfig,
    machine: Machine,
    console: Console,
    *,
    retry_failed: bool = False,
    report: bool = True,
    pictures: str = "none",
) -> Summary:
    """Run what is left of a sweep, and with `retry_failed` what failed, to its budget or to an interruption.

    With `report` a sweep that has ended is concluded (`search.driver.finalize`). `pictures` says how a terminal shows those of
    a new best trial (`search.driver.graphics_protocol`).

    Raises:
        BadInput: anything the user must mend; nothing was overwritten.
        Halted: something outside the sweep, as a full disk, stopped it; nothing is damaged.
    """
    folder, home, locations = sweep_folder(config.name), files_folder(config), config.places
    tracking_uri = address(config)
    halt = HaltMonitor(folder, tracking_uri)
    with halting(folder, tracking_uri), exclusive_driver(config, folder):
        has_work, stale = _work_on_record(config, folder)  # orders to a driver among these were to the one before
        _delete_leftovers(folder)
        for line in lost_records(config, folder):
            console.print(line, highlight=False, soft_wrap=True)
        if moved := relocation.moved(tracking_uri):
            relocation.relocate(tracking_uri)
            console.print(f"{moved}: the addresses are set right", highlight=False, soft_wrap=True)
        # Whatever can be refused is refused before the record is written: a mended command is not "other settings".
        sinks.check(config)
        prior = warm_start.load(config)
        if locations.storage is not None:
            storage.check_writable(home)
        with readable():
            reach(tracking_uri)
        begun = None
        if retry_failed or has_work:
            for variant in variants(config):
                untrained_inputs(variant.settings)
            begun = RayStart(config, machine, folder)
        with begun or nullcontext():
            run = SweepRun(config, machine, console, prior, stale, pictures)
            summary = run.run_to_end(begun, halt, retry_failed=retry_failed)
        if report and summary.finished:
            from search.driver.finalize import conclude  # seconds that a start need not wait

            conclude(config, run.ledger.entries(), run.tracker, summary, console)
            summary = replace(summary, concluded=True)
            summary.write(folder)
        elif report and config.report_every and summary.complete:
            begin_report(config.name)  # the page says that the sweep rests, and reloads itself no more
        return summary


def _work_on_record(config: SweepConfig, folder: Path) -> tuple[bool, list[Order]]:
    """(True if trials are left to run, as far as the study's tables say at once; the orders that are not carried out)."""
    if not has_study(config):
        return True, []
    trials, seconds, orders = _on_record(config, folder)
    return has_work_left(config, trials, seconds, waiting=setting_waits(orders)), orders


def _on_record(config: SweepConfig, folder: Path) -> tuple[list[TrialRecord], float, list[Order]]:
    """The trials of a sweep, the seconds spent, and the orders that are not carried out."""
    trials, seconds = recorded_trials(config, folder)
    return trials, seconds, recorded_orders(config, folder, trials)


class SweepRun:
    """One run of a sweep, from the preparation of its classifiers to the end of the run in all records."""

    def __init__(
        self, config: SweepConfig, machine: Machine, console: Console, prior: Prior, stale: Sequence[Order], pictures: str
    ) -> None:
        """Train the classifiers, unless they are there, and open the records; `stale` are orders to the driver before.

        Raises:
            BadInput: the records do not fit together, or cannot be opened.
        """
        self.config, self._console, self._prior, self._folder = config, console, prior, sweep_folder(config.name)
        self._prepared = prepared = prepare(config, machine, console)
        self._machine = machine if prepared.memory is None else machine.fitted(config.resources, *prepared.memory)
        inputs = Inputs([(variant.settings, variant.inputs) for variant in prepared.variants])
        self.tracker = Tracker(config, prepared.origin(), inputs)
        check_against_mlflow(config, self._folder, self.tracker)
        record = plain_yaml.dump(config.record())
        # The note before the record: a sweep that was started has what it started with.
        noted = warm_start.write_note(config, prior, self._folder)
        write_atomic(self._folder / RECORD, record.encode())
        self._files = {RECORD: record, "classifier.json": prepared.regimes(), **noted}
        self.ledger = Ledger(config, self._folder, prior)
        note_driver(self.ledger.study)
        self._display = ProgressDisplay(config, console, graphics_protocol(pictures, console), self.ledger.seconds)
        self._orders = PendingOrders(self.ledger, self._display, stale)
        self._recorder = Recorder(self.ledger, self.tracker, self._display, files_folder(config), orders=self._orders)

    def run_to_end(self, begun: RayStart | None, halt: HaltMonitor, *, retry_failed: bool) -> Summary:
        """Run what is left, on the Ray that `begun` starts, and close the records.

        Raises:
            Halted: `halt` has a reason.
        """
        recorder = self._recorder
        try:
            with halt.guard():
                self._catch_up(retry_failed)
                waiting = self._orders.next_setting() is not None
                if not self._orders.stopping and has_work_left(
                    self.config, self.ledger.entries(), recorder.elapsed(), waiting=waiting
                ):
                    self._train(begun, halt)
                if halt.reason is None and exhausted_budget(self.config, self.ledger.entries(), recorder.elapsed()):
                    recorder.close_open_trials()
        finally:
            # Else the next start does it: a database that was waited for a minute is not waited for again.
            summary = None
            try:
                if not halt.records_fail:
                    self._orders.close()
                    summary = self._finish()
            finally:
                recorder.close()
                self.ledger.close()
        halt.raise_if_halted()
        assert summary is not None
        return summary

    def _catch_up(self, retry_failed: bool) -> None:
        """Bring all records to where the study is."""
        self.tracker.begin(self._files, flatten(self.config.model_dump(mode="json")))
        self.tracker.describe(question(self.config))
        if retry_failed:
            self._recorder.reopen_failed()
        self._orders.poll()
        self._recorder.reconcile()

    def _train(self, begun: RayStart | None, halt: HaltMonitor) -> None:
        """Run trials to a budget or an interruption."""
        if begun is not None:
            begun.wait()  # else its start would count in the speed
        speed = self._prepared.steps_per_second()
        if self.config.warm_start:
            announce.warm_start(self.config, self._prior, self._console)
        self._keep_time_for_finalists(speed)
        config, machine, ledger, recorder = self.config, self._machine, self.ledger, self._recorder
        announce.run(config, machine, speed, ledger, self._console)
        assign = _assignments(config, machine, recorder, watchdog.silence_limit(config, machine.slowest(speed)))
        recorder.close_open_trials(overdue(config, ledger.entries(), recorder.elapsed()))
        with self._display, LiveReport(config, ledger, self._display.note):
            run_ray(config, machine, ledger, recorder, assign, self._folder, halt, start=begun)

    def _keep_time_for_finalists(self, speed: float) -> None:
        """Settle the time that is kept for finalists, and put it on record; `speed` is in steps/s of one trial alone."""
        settled = with_time(self.config, self.ledger.seconds, minutes_needed(self.config, speed, self._machine.concurrency))
        if settled != self.config:
            write_atomic(self._folder / RECORD, plain_yaml.dump(settled.record()).encode())
            self.ledger.change(settled)
        self.config = self._display.config = settled

    def _finish(self) -> Summary:
        """Write the end of this run into all records."""
        config, ledger, tracker = self.config, self.ledger, self.tracker
        self._recorder.finish()
        summary = summarise(config, ledger, tracker.metrics, self._folder)
        if summary.finished and summary.best_trial is not None:
            settings = settings_of(config, ledger.entry(summary.best_trial))
            images = self._prepared.inputs.images
            with suppress(BadInput):  # what cannot be measured or cached holds up no record
                summary = with_scale(summary, config, Scale.obtain(images, settings.eval_per_class, CLASSIFIERS))
        best = summary.best_trial
        picture = trial_folder(files_folder(config), best) / PICTURE if best is not None else None
        status = "FINISHED" if ended_by(config, ledger.entries(), ledger.seconds) else "KILLED"
        front = [point["trial"] for point in summary.front]
        tracker.end(status, summary.best_metrics, summary.best_trial, picture, front)
        summary.write(self._folder)
        return summary


def _assignments(
    config: SweepConfig, machine: Machine, recorder: Recorder, hang_limit: float
) -> Callable[[TrialRecord], Assignment]:
    def assign(trial: TrialRecord) -> Assignment:
        acknowledged, gpus = recorder.acknowledged(trial.number), machine.gpus_per_trial
        return assignment_of(
            config, trial, CLASSIFIERS, machine.threads, acknowledged=acknowledged, gpus=gpus, hang_limit=hang_limit
        )

    return assign


def _delete_leftovers(folder: Path) -> None:
    """Delete what a killed driver of this sweep left: processes first, because they write files."""
    processes.kill_processes(folder)
    processes.delete_session(folder / SCRATCH)
    for path in stale_files(folder):
        storage.delete(path)
