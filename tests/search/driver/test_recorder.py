"""Records of the recorder, their order, and its answers; the study and the MLflow store are real."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest
from rich.console import Console
from sqlalchemy.exc import OperationalError

from search.driver.progress import ProgressDisplay
from search.driver.recorder import Recorder, WorkerFailure
from search.files.paths import HISTORY, LOG, trial_folder
from search.policy.early_stopping import Decision
from search.spec.config import SweepConfig
from search.study.ledger import Ledger
from search.tracking.tracker import Tracker
from search.worker.messages import Assignment, Failed, OutOfMemory, Progress
from search.worker.trial import assignment_of
from tests.search.conftest import tiny_sweep
from tests.support.records import Script
from tests.support.runs import FOLDER


class Parts:
    """A recorder before a real study and a real store, and what it shows."""

    def __init__(self, **changes: object) -> None:
        self.config = SweepConfig.parse(tiny_sweep(trials=2, retries=1, **changes), "test")
        self.screen = io.StringIO()
        self.ledger, self.tracker = Ledger(self.config, FOLDER), Tracker(self.config, {})
        display = ProgressDisplay(self.config, Console(file=self.screen, width=200))
        self.recorder = Recorder(self.ledger, self.tracker, display, FOLDER, Script({1: 6}))

    def start(self, gpus: float = 0.0) -> Assignment:
        trial = self.ledger.ask()
        assignment = assignment_of(self.config, trial, Path("cache"), 1, gpus=gpus)
        self.recorder.started(assignment)
        return assignment


@pytest.fixture
def parts(run_folder: None) -> Parts:
    return Parts()


def report(step: int) -> Progress:
    return Progress(step, {"ssim/coverage": 0.1 * step, "loss/total": 1.0})


def test_the_study_comes_first_then_mlflow_then_the_screen(parts: Parts, monkeypatch: pytest.MonkeyPatch) -> None:
    assignment = parts.start()
    parts.recorder.reported(assignment, report(3))
    order: list[str] = []

    def refuse() -> None:
        raise OperationalError("INSERT", {}, Exception("database is locked"))

    with monkeypatch.context() as patch:
        patch.setattr(parts.ledger, "flush", refuse)
        with pytest.raises(OperationalError):
            parts.recorder.finish()
    assert "step 3/12" not in parts.screen.getvalue() and parts.recorder.acknowledged(0) == 0

    for name, part, call in (
        ("study", parts.ledger, "flush"),
        ("MLflow", parts.recorder._writer, "log"),
        ("screen", parts.recorder._display, "reported"),
    ):
        original = getattr(part, call)
        monkeypatch.setattr(part, call, lambda *given, name=name, original=original: (order.append(name), original(*given)))
    parts.recorder._flush()
    assert order == ["study", "MLflow", "screen"] and "step 3/12" in parts.screen.getvalue()
    parts.recorder.finish()


def test_the_answer_to_a_report_is_the_rules_and_is_on_record_with_its_value(parts: Parts) -> None:
    first, second = parts.start(), parts.start()
    answers = [parts.recorder.reported(assignment, report(step)) for step in (3, 6) for assignment in (first, second)]
    assert answers == [Decision.KEEP] * 3 + [Decision.STOP]
    assert (parts.ledger.entry(0).stopped_at, parts.ledger.entry(1).stopped_at) == (None, 6)
    assert not parts.recorder.ended(1) and parts.ledger.entry(1).state == "stopped"
    parts.recorder.finish()
    assert parts.tracker.metrics(1)["ssim/coverage"] == pytest.approx(0.6)


def test_the_time_until_the_first_worker_has_started_counts(parts: Parts) -> None:
    parts.ledger.ask()  # and nobody takes it
    parts.recorder.finish()
    assert parts.ledger.seconds > 0


def test_a_failure_of_the_settings_is_the_end_of_a_trial(parts: Parts) -> None:
    assignment = parts.start()
    assert parts.recorder.reported(assignment, Failed("diverged: loss/tv")) is Decision.KEEP
    assert not parts.recorder.ended(0)
    assert (parts.ledger.entry(0).state, parts.ledger.entry(0).reason) == ("failed", "diverged: loss/tv")
    parts.recorder.finish()


def test_a_report_without_the_objective_is_a_failure_of_the_settings(parts: Parts) -> None:
    """As of a loss whose weight is one of several choices, and 0 in this trial."""
    assignment = parts.start()
    assert parts.recorder.reported(assignment, Progress(3, {"loss/total": 1.0})) is Decision.STOP
    assert not parts.recorder.ended(0) and parts.ledger.entry(0).state == "failed"
    assert "ssim/coverage" in (parts.ledger.entry(0).reason or "")
    parts.recorder.finish()


def test_a_trial_that_ran_out_of_a_gpus_memory_goes_on_where_there_is_none(parts: Parts) -> None:
    number = parts.start(gpus=0.5)["number"]
    parts.ledger.set_gpu_share(number, 1.0)
    trial = parts.ledger.entry(number)
    for gpus_here, asked in ((0.0, 0.0), (0.25, 1.0), (2.0, 2.0)):
        assert assignment_of(parts.config, trial, Path("cache"), 1, gpus=gpus_here)["gpus"] == asked


def test_a_trial_without_memory_is_run_again_until_it_has_a_gpu_to_itself(parts: Parts) -> None:
    assignment = parts.start(gpus=0.5)
    parts.recorder.reported(assignment, OutOfMemory("CUDA out of memory"))
    assert parts.recorder.ended(0) and parts.ledger.entry(0).gpus == 1.0 and not parts.ledger.entry(0).finished
    assert not parts.recorder.ended(0)  # as when the sweep is interrupted: nobody has to run it again now
    parts.recorder.reported({**assignment, "gpus": 1.0}, OutOfMemory("CUDA out of memory"))
    assert not parts.recorder.ended(0)
    assert (parts.ledger.entry(0).reason or "").startswith("CUDA out of memory, ")
    parts.recorder.finish()


def test_a_worker_that_dies_before_its_trial_begins_is_replaced_until_retries_are_used_up(parts: Parts) -> None:
    parts.start()
    failure = WorkerFailure("the worker process died", "Failure # 1\nall of it\n")
    assert parts.recorder.ended(0, failure) and parts.ledger.entry(0).lost == 1
    assert not parts.recorder.ended(0, failure)
    assert (parts.ledger.entry(0).state, parts.ledger.entry(0).reason) == ("failed", failure.reason)
    assert (trial_folder(FOLDER, 0) / LOG).read_text() == failure.log
    parts.recorder.finish()


def test_a_worker_says_again_what_one_of_the_records_lacks(parts: Parts, monkeypatch: pytest.MonkeyPatch) -> None:
    """The driver died with MLflow behind the study, and the checkpoint that had the reports is gone."""
    assignment = assignment_of(parts.config, parts.ledger.ask(), Path("cache"), 1)
    for step in (3, 6, 9):
        parts.ledger.record(0, step, 0.1 * step, stop=False)
    parts.ledger.flush()
    parts.recorder.reconcile()
    # MLflow's thread may be at work from now on: the driver knows by itself how far it will come.
    with monkeypatch.context() as patch:
        patch.setattr(parts.tracker, "last_step", lambda number: pytest.fail("asked while the thread works"))
        assert parts.recorder.acknowledged(0) == 0
        for step in (3, 6):
            parts.recorder.reported(assignment, report(step))
        parts.recorder.finish()
        assert parts.recorder.acknowledged(0) == 6
    assert parts.ledger.entry(0).values == {3: 0.1 * 3, 6: 0.1 * 6, 9: 0.1 * 9}
    assert parts.tracker.last_step(0) == 6


def test_the_tracker_is_asked_before_the_thread_is_at_work(parts: Parts, monkeypatch: pytest.MonkeyPatch) -> None:
    for _ in range(2):
        number = parts.ledger.ask().number
        parts.ledger.record(number, 3, 0.3, stop=False)
        parts.ledger.tell(number, "stopped")
    behind = parts.tracker.lacks

    def ask(*about: int) -> bool:
        assert parts.recorder._writer.waiting == 0
        return behind(*about)

    monkeypatch.setattr(parts.tracker, "lacks", ask)
    parts.recorder.reconcile()
    assert not any(behind(number, 0, True) for number in (0, 1))


def test_a_sink_that_is_new_gets_earlier_reports_from_the_files_of_trials(parts: Parts) -> None:
    from search.tracking.tensorboard_sink import event_file, events

    assignment = parts.start()
    parts.recorder.reported(assignment, report(3))
    parts.recorder.finish()
    parts.ledger.close()
    folder = trial_folder(FOLDER, 0)
    folder.mkdir(parents=True)
    history = [{"step": step, **report(step).metrics} for step in (3, 6)]  # the study lacks step 6: its worker says it again
    (folder / HISTORY).write_text(json.dumps({"settings": {}, "history": history}))
    later = Parts(log_to=["tensorboard"])
    later.recorder.reconcile()
    later.recorder.started(assignment)
    for step in (3, 6):
        later.recorder.reported(assignment, report(step))
    later.recorder.finish()
    later.ledger.close()
    logged = [
        (event.step, value.tag) for event, _ in events(event_file("tiny", 0)) for value in event.summary.value if event.step
    ]
    assert logged == [(step, tag) for step in (3, 6) for tag in ("ssim/coverage", "loss/total")]
