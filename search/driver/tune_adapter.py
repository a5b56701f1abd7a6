"""The adapter between Ray Tune and the sweep.

Tune calls its searcher, scheduler, stopper and callbacks. Here these calls become the five of a `Recorder`, and its answers
(keep or stop, run again or not) become Tune's. What Tune does not document and this module relies on, and every wording of
Ray's that is read, is in this module, with a test in `tests/contracts/test_ray.py` that fails when it changes.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, TypeVar

from ray import tune
from ray.tune.schedulers import FIFOScheduler, TrialScheduler
from ray.tune.search import Searcher

from records.addresses import redacted
from records.trial import TrialRecord
from search.driver.pending_orders import PendingOrders
from search.driver.recorder import Recorder, WorkerFailure
from search.policy.budget import exhausted_budget, planning_ended_by
from search.policy.early_stopping import Decision
from search.policy.finalists import next_finalist
from search.spec.config import NEGLIGIBLE
from search.spec.faults import HaltMonitor, RayAbandoned
from search.study.ledger import Ledger
from search.worker import messages
from search.worker.messages import MESSAGE, Assignment

T = TypeVar("T")

FAILURE: Final = "Failure # "
"""The words before each failure in the error file of a trial."""
NODE_DEATH: Final = ("its node has died", "The actor is temporarily unavailable")
"""The words about a worker whose node died: until Ray has noticed that, it says that it cannot reach the worker."""
WORKER_DEATH: Final = "worker process has died"
_MOST_NODE_DEATHS: Final = 10


class TuneAdapter:
    """The parts that one run of Tune takes, around one recorder."""

    def __init__(
        self,
        ledger: Ledger,
        recorder: Recorder,
        assign: Callable[[TrialRecord], Assignment],
        halt: HaltMonitor,
        *,
        nodes_may_die: bool = False,
    ) -> None:
        """`assign` gives the assignment of a trial on record. Once `halt` has a reason, nothing is written or begun."""
        self.searcher = AssignmentSearcher(ledger, assign, halt, recorder.orders)
        events = GuardedRecorder(recorder, halt)
        self.scheduler = DecisionScheduler(events)
        self.callback = EventCallback(events, self.searcher, nodes_may_die=nodes_may_die)
        self.stopper = BudgetStopper(ledger, recorder.elapsed, halt, recorder.orders)


class GuardedRecorder:
    """Passes events on to a recorder as long as the records can be written and Ray is whole.

    A worker that dies with Ray's daemons is not a worker that was lost, and a trial that ends because its disk is full has not
    ended.
    """

    def __init__(self, recorder: Recorder, halt: HaltMonitor) -> None:
        """`halt` takes the reason of a `messages.Halt`, and of faults from outside."""
        self._recorder, self._halt = recorder, halt

    def started(self, assignment: Assignment) -> None:
        """Call `Recorder.started`, unless the sweep halts."""
        self._guarded(lambda: self._recorder.started(assignment), None)

    def reported(self, assignment: Assignment, message: messages.Message) -> Decision:
        """Call `Recorder.reported`, unless the sweep halts; a worker may also ask to halt it."""
        if isinstance(message, messages.Halt):
            self._halt.stop(message.reason)
            return Decision.KEEP
        return self._guarded(lambda: self._recorder.reported(assignment, message), Decision.KEEP)

    def recovered(self, assignment: Assignment) -> None:
        """Call `Recorder.recovered`, unless the sweep halts."""
        self._halt.poll()
        self._guarded(lambda: self._recorder.recovered(assignment["number"]), None)

    def ended(self, assignment: Assignment, failure: WorkerFailure | None = None) -> bool:
        """Call `Recorder.ended`, unless the sweep halts."""
        if failure is not None:
            self._halt.poll()
        return self._guarded(lambda: self._recorder.ended(assignment["number"], failure), False)

    def tick(self) -> None:
        """Call `Recorder.tick`, unless the sweep halts."""
        self._guarded(self._recorder.tick, None)

    def _guarded(self, call: Callable[[], T], otherwise: T) -> T:
        answer = otherwise
        if self._halt.reason is None:
            with self._halt.guard():
                answer = call()
        return answer


class _NotSaved:
    """Keeps a part out of the files in which Tune saves its state: nobody reads them, and the study is the record."""

    def save(self, checkpoint_path: str) -> None:
        """Save nothing."""

    def restore(self, checkpoint_path: str) -> None:
        """Restore nothing."""

    def __getstate__(self) -> dict[str, Any]:
        """Keep open stores out of the pickle."""
        return {}


class AssignmentSearcher(_NotSaved, Searcher):
    """Hands out assignments: first of the trials that an earlier run left open, then of new ones."""

    def __init__(
        self, ledger: Ledger, assign: Callable[[TrialRecord], Assignment], halt: HaltMonitor, orders: PendingOrders
    ) -> None:
        """`assign` gives the assignment of a trial on record; `orders` are those from another terminal."""
        objective = ledger.config.objective
        super().__init__(metric=objective.metric, mode=objective.direction)
        self._ledger, self._assign, self._halt, self._orders = ledger, assign, halt, orders
        self._open = [trial.number for trial in ledger.entries() if not trial.finished]
        """Trials to hand out before any new one, by number."""
        self._again: set[int] = set()
        """Those of them that ran already since this run began."""
        self._running: set[str] = set()

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:
        """The next assignment, or FINISHED when a budget is used up; None while a trial that runs may have to run again."""
        with self._halt.guard():
            if self._halt.reason is None and (trial := self._next()) is not None:
                assignment = self._assign(trial)
                self._running.add(trial_id)
                return dict(assignment)
        return None if self._running and self._halt.reason is None else Searcher.FINISHED

    def run_again(self, number: int) -> None:
        """Hand out a trial once more, before any new one."""
        self._open.append(number)
        self._again.add(number)

    def _next(self) -> TrialRecord | None:
        may_begin = [number for number in self._open if number in self._again or not self._orders.pausing]
        if may_begin and not self._orders.stopping:
            self._open.remove(may_begin[0])
            return self._ledger.entry(may_begin[0])
        if self._orders.pausing:
            return None
        if (order := self._orders.next_setting()) and not self._exhausted():
            return self._ledger.ask(order)
        if planning_ended_by(self._ledger.config, self._ledger.entries(), self._ledger.seconds):
            return self._next_repetition()
        return self._ledger.ask()

    def _next_repetition(self) -> TrialRecord | None:
        """A finalist on a fresh seed, once no trial of the search is open that might still become one."""
        trials = self._ledger.entries()
        if self._exhausted() or any(not trial.finished and trial.repeats is None for trial in trials):
            return None
        finalist = next_finalist(self._ledger.config, trials)
        return finalist and self._ledger.repeat(finalist.number)

    def _exhausted(self) -> str | None:
        return exhausted_budget(self._ledger.config, self._ledger.entries(), self._ledger.seconds)

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """Take note that a trial no longer runs. Tune calls this right before the callback that may run it again."""
        self._running.discard(trial_id)


class DecisionScheduler(_NotSaved, FIFOScheduler):
    """Gives Tune the recorder's answer to each report. Tune asks here first, and then stops the trial or not."""

    def __init__(self, events: GuardedRecorder) -> None:
        super().__init__()
        self._events = events

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        """Pass a message on, and continue or stop its trial."""
        decision = self._events.reported(trial.config, result[MESSAGE])
        return str(TrialScheduler.STOP if decision is Decision.STOP else TrialScheduler.CONTINUE)


class EventCallback(_NotSaved, tune.Callback):
    """Passes on what happens to trials beside their reports."""

    def __init__(self, events: GuardedRecorder, searcher: AssignmentSearcher, *, nodes_may_die: bool) -> None:
        """With `nodes_may_die` the death of a node costs its trials no retry."""
        self._events, self._searcher, self._nodes_may_die = events, searcher, nodes_may_die
        self._node_deaths: dict[int, int] = {}

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """Say that a worker took a trial."""
        self._events.started(trial.config)

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """Say that a trial ended, by itself or because it was stopped."""
        self._ended(trial, None)

    def on_trial_recover(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """Say that a worker died or raised and that another one takes over.

        Ray counts the death of a node as a failure of the trials on it. They get that retry back, ten times at most. One more
        than was allowed is still needed at that moment: for a trial that has used up its retries the death of a node is the
        end, and `--retry-failed` lets it go on.
        """
        self._events.recovered(trial.config)
        number = trial.config["number"]
        deaths = self._node_deaths.get(number, 0)
        if self._nodes_may_die and deaths < _MOST_NODE_DEATHS and is_node_death(_error_text(trial)):
            self._node_deaths[number] = deaths + 1
            trial.max_failures += 1

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """Say that Ray gives a trial up: its retries are used up, or its worker died before it had begun."""
        text = _error_text(trial)
        self._ended(trial, WorkerFailure(failure_reason(text), text))

    def on_step_end(self, iteration: int, trials: list[Any], **info: Any) -> None:
        """Let the recorder do what is due: Ray looks for news several times a second."""
        self._events.tick()

    def _ended(self, trial: Any, failure: WorkerFailure | None) -> None:
        if self._events.ended(trial.config, failure):
            self._searcher.run_again(trial.config["number"])


class BudgetStopper(_NotSaved, tune.Stopper):
    """Ends Tune's run when a budget of the sweep is spent, or when the sweep cannot go on."""

    def __init__(self, ledger: Ledger, elapsed: Callable[[], float], halt: HaltMonitor, orders: PendingOrders) -> None:
        """`elapsed` gives the wall seconds spent on the sweep so far: trials may be silent for long."""
        self._ledger, self._elapsed, self._halt, self._orders = ledger, elapsed, halt, orders

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        """Never stop a single trial."""
        return False

    def stop_all(self) -> bool:
        """True if the sweep is over, its time used to the last second; Tune asks several times a second.

        Raises:
            RayAbandoned: Ray is dead.
        """
        if self._halt.reason is not None:
            if not self._halt.records_fail:
                raise RayAbandoned
            return True
        if self._orders.stopping:
            return True
        return exhausted_budget(self._ledger.config, self._ledger.entries(), self._elapsed() - NEGLIGIBLE) is not None


def is_node_death(log: str) -> bool:
    """True if the last failure in the text of a trial's error file is the death of a node."""
    last = log.rpartition(FAILURE)[2]
    return any(text in last for text in NODE_DEATH)


def failure_reason(log: str) -> str:
    """The cause of a worker's failure, in one line: the last line of its error file, given as text."""
    if is_node_death(log):
        return "its node died, and it had no retry left"
    last = next((line.strip() for line in reversed(log.splitlines()) if line.strip()), "")
    # Ray writes a paragraph on what may kill a process.
    return "the worker process died: killed, out of memory or crashed" if not last or WORKER_DEATH in last else last


def _error_text(trial: Any) -> str:
    """The text of a trial's error file: every failure so far."""
    return redacted(Path(trial.error_file).read_text()) if trial.error_file else ""
