"""Ray Tune before a recorder. What Tune does without documenting it is in `tests/contracts/test_ray.py`."""

from __future__ import annotations

import io
import pickle
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from ray.tune.schedulers import TrialScheduler
from ray.tune.search import Searcher
from rich.console import Console

from records.trial import TrialRecord
from search.driver.pending_orders import PendingOrders
from search.driver.progress import ProgressDisplay
from search.driver.recorder import Recorder, WorkerFailure
from search.driver.tune_adapter import NODE_DEATH, EventCallback, TuneAdapter, failure_reason
from search.policy.early_stopping import Decision
from search.spec.config import SweepConfig
from search.spec.faults import HaltMonitor
from search.study.ledger import Ledger
from search.worker import messages
from search.worker.messages import MESSAGE, Failed, Progress
from search.worker.trial import assignment_of
from tests.search.conftest import tiny_sweep


class Recording(Recorder):
    """Notes the calls it gets; its answers are set beforehand."""

    def __init__(self) -> None:
        self.calls: list[tuple[Any, ...]] = []
        self.decision, self.again = Decision.KEEP, False

    def started(self, assignment: Any) -> None:
        self.calls.append(("started", assignment["number"]))

    def reported(self, assignment: Any, message: Any) -> Decision:
        self.calls.append(("reported", assignment["number"], message))
        return self.decision

    def recovered(self, number: int) -> None:
        self.calls.append(("recovered", number))

    def ended(self, number: int, failure: WorkerFailure | None = None) -> bool:
        self.calls.append(("ended", number, failure))
        return self.again

    def tick(self) -> None:
        self.calls.append(("tick",))

    def elapsed(self) -> float:
        return 0.0


Sweep = tuple[TuneAdapter, Recording, HaltMonitor, Ledger]


@pytest.fixture
def sweep(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Sweep:
    monkeypatch.chdir(tmp_path)
    config = SweepConfig.parse(tiny_sweep(trials=2), "test")
    ledger, halt, recorder = Ledger(config, tmp_path), HaltMonitor(tmp_path), Recording()
    recorder.orders = PendingOrders(ledger, ProgressDisplay(config, Console(file=io.StringIO())))

    def assign(trial: TrialRecord) -> Any:
        return assignment_of(config, trial, Path("cache"), 1)

    return TuneAdapter(ledger, recorder, assign, halt), recorder, halt, ledger


def callback_beside(*, nodes_may_die: bool) -> EventCallback:
    """The callback of an adapter whose recorder records nothing."""
    events: Any = SimpleNamespace(recovered=lambda assignment: None)
    return EventCallback(events, SimpleNamespace(), nodes_may_die=nodes_may_die)


def test_each_event_is_one_call_and_each_answer_goes_back(sweep: Sweep, tmp_path: Path) -> None:
    adapter, recorder, _, _ = sweep
    log = tmp_path / "error.txt"
    log.write_text("Failure # 1 (occurred at noon)\nTraceback …\nMemoryError: no room\n")
    trial: Any = SimpleNamespace(config={"number": 7}, error_file=str(log), max_failures=1)
    adapter.callback.on_trial_start(0, [], trial)
    report = Progress(3, {"ssim/coverage": 0.5})
    assert adapter.scheduler.on_trial_result(None, trial, {MESSAGE: report}) == TrialScheduler.CONTINUE
    recorder.decision = Decision.STOP
    assert adapter.scheduler.on_trial_result(None, trial, {MESSAGE: Failed("why")}) == TrialScheduler.STOP
    adapter.callback.on_trial_recover(0, [], trial)
    adapter.callback.on_trial_complete(0, [], trial)
    adapter.callback.on_trial_error(0, [], trial)
    adapter.callback.on_step_end(0, [])
    assert recorder.calls == [
        ("started", 7), ("reported", 7, report), ("reported", 7, Failed("why")), ("recovered", 7), ("ended", 7, None),
        ("ended", 7, WorkerFailure("MemoryError: no room", log.read_text())), ("tick",),
    ]  # fmt: skip
    assert trial.max_failures == 1


def test_a_trial_that_has_to_run_again_comes_before_new_ones(sweep: Sweep) -> None:
    """Ray retries only trials that run; of one that waits for its worker it says at once that it failed."""
    adapter, recorder, _, ledger = sweep

    def given(trial_id: str) -> int:
        suggestion = adapter.searcher.suggest(trial_id)
        assert isinstance(suggestion, dict)
        return int(suggestion["number"])

    def die(trial_id: str, number: int) -> None:
        adapter.searcher.on_trial_complete(trial_id, error=True)
        adapter.callback.on_trial_error(0, [], SimpleNamespace(config={"number": number}, error_file=None))

    assert (given("a"), given("b")) == (0, 1)
    recorder.again = True
    die("a", 0)
    assert given("c") == 0  # though both trials were asked for
    recorder.again = False
    die("c", 0)
    assert adapter.searcher.suggest("d") is None  # trial 1 may come back
    ledger.tell(1, "stopped")
    adapter.searcher.on_trial_complete("b")
    assert adapter.searcher.suggest("e") == Searcher.FINISHED


def test_nothing_is_written_or_begun_once_the_sweep_must_halt(sweep: Sweep) -> None:
    adapter, recorder, halt, ledger = sweep
    assert isinstance(adapter.searcher.suggest("a"), dict)
    trial: Any = SimpleNamespace(config={"number": 0}, error_file=None)
    stop = {MESSAGE: messages.Halt("no space left")}
    assert adapter.scheduler.on_trial_result(None, trial, stop) == TrialScheduler.CONTINUE
    assert halt.reason == "no space left" and adapter.stopper.stop_all()
    adapter.callback.on_trial_complete(0, [], trial)
    adapter.callback.on_step_end(0, [])
    assert recorder.calls == []
    assert adapter.searcher.suggest("b") == Searcher.FINISHED and len(ledger.entries()) == 1


def test_tune_can_pickle_every_part(sweep: Sweep) -> None:
    """It puts them into files that nobody reads; the open stores stay out."""
    adapter = sweep[0]
    for part in (adapter.searcher, adapter.scheduler, adapter.callback, adapter.stopper):
        assert vars(pickle.loads(pickle.dumps(part))) == {}


def test_the_reason_of_a_failure_is_its_last_line() -> None:
    assert failure_reason("Failure # 1\nTraceback …\n  x\nMemoryError: no room\n\n") == "MemoryError: no room"
    died = failure_reason("The actor is dead because its worker process has died. Worker exit type: SYSTEM_ERROR …")
    assert "worker process died" in died and failure_reason("") == died


@pytest.mark.parametrize("message", NODE_DEATH)
def test_the_death_of_a_node_gives_the_retry_back_ten_times(message: str, tmp_path: Path) -> None:
    log = tmp_path / "error.txt"
    trial: Any = SimpleNamespace(error_file=str(log), max_failures=1, config={"number": 0})
    callback = callback_beside(nodes_may_die=True)
    log.write_text("Failure # 1 (occurred at one)\nThe actor died unexpectedly before finishing this task.\n")
    callback.on_trial_recover(0, [], trial)
    assert trial.max_failures == 1
    with log.open("a") as more:
        more.write(f"Failure # 2 (occurred at noon)\n{message}\n")
    callback_beside(nodes_may_die=False).on_trial_recover(0, [], trial)
    assert trial.max_failures == 1
    for _ in range(12):
        callback.on_trial_recover(0, [], trial)
    assert trial.max_failures == 11


def test_without_a_bound_ray_asks_for_one_trial_ahead(sweep: Sweep, monkeypatch: pytest.MonkeyPatch) -> None:
    """A searcher that is not Tune's own: hundreds of trials asked for at once would learn nothing."""
    from ray.tune.execution.tune_controller import _get_max_pending_trials
    from ray.tune.search import SearchGenerator

    monkeypatch.delenv("TUNE_MAX_PENDING_TRIALS_PG", raising=False)
    assert _get_max_pending_trials(SearchGenerator(sweep[0].searcher)) == 1
