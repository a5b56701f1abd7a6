"""The ledger: an Optuna study as the one record of what was asked, reported, decided and told.

Ray is started anew each time a sweep continues; what it must know is rebuilt from here. The order of writing makes every
moment safe to die in: a trial's worker saves its checkpoint, then reports; the driver writes the decision to stop, then
the value it was based on, then MLflow.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from gbc.errors import DIVERGED, BadInput, CorruptFile
from search import faults
from search.config import SweepConfig
from search.folder import STUDY_FILE
from search.ranking import best
from search.samplers import ORIGIN, Prior, propose

if TYPE_CHECKING:
    from optuna.trial import FrozenTrial

_STOPPED: Final = "stopped_at"
_REASON: Final = "reason"
_SECOND: Final = "second_objective"
_SECONDS: Final = "seconds"
_LOST: Final = "lost_workers"
_RETRIED: Final = "retried"
_STATES: Final = {"RUNNING": "running", "WAITING": "running", "COMPLETE": "complete", "PRUNED": "stopped", "FAIL": "failed"}


@dataclass(frozen=True)
class Entry:
    """One trial as the ledger knows it."""

    number: int
    params: dict[str, Any]
    state: str
    """running, complete, stopped or failed."""
    values: dict[int, float]
    """Objective by optimiser step, in order."""
    stopped_at: int | None
    """The step at which the scheduler decided to stop it."""
    reason: str | None
    """Why it failed."""
    second: float | None = None
    """The second objective at the last recorded step, in a sweep that has two."""
    origin: str | None = None
    """The trial of another sweep whose settings it took (warm start)."""
    lost: int = 0
    """How often its worker died or raised and was replaced."""
    retried: int = 0
    """How often it was opened again after it had failed."""
    ended: float | None = None
    """When it was told, in seconds since 1970."""

    @property
    def last_step(self) -> int:
        """The last step that was recorded, 0 before the first."""
        return max(self.values, default=0)

    @property
    def value(self) -> float | None:
        """The objective at the last recorded step."""
        return self.values[self.last_step] if self.values else None

    @property
    def objectives(self) -> tuple[float, ...]:
        """Every objective at the last recorded step."""
        return tuple(value for value in (self.value, self.second) if value is not None)

    @property
    def finished(self) -> bool:
        """Whether the trial was told."""
        return self.state != "running"

    @property
    def can_go_on(self) -> bool:
        """Whether it failed through no fault of its settings, so that to go on from its checkpoint may help."""
        return self.state == "failed" and not (self.reason or "").startswith(DIVERGED)

    def outcome(self, horizon: int) -> str | None:
        """`complete`, `stopped` or `failed`; None for a trial that must go on to step `horizon`."""
        if self.finished:
            return self.state
        if self.last_step >= horizon:
            return "complete"
        return "stopped" if self.stopped_at is not None else None


class Ledger:
    """Reads and writes the study of one sweep. Only the driver has one."""

    def __init__(self, config: SweepConfig, folder: Path, prior: Prior | None = None) -> None:
        """Opens the study in `folder`, or starts it. `prior` is what `ask` knows before the first trial.

        Raises:
            CorruptFile: the study's file is damaged.
            BadInput: it cannot be written.
        """
        import optuna
        import sqlalchemy
        from sqlalchemy.exc import DatabaseError, OperationalError

        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self.config = config
        path = folder / STUDY_FILE

        def prepare(connection: Any, _: object) -> None:
            # Readers never wait for the driver; a commit survives kill -9 (only a power cut can lose the last ones).
            connection.execute("PRAGMA journal_mode=WAL")
            connection.execute("PRAGMA synchronous=NORMAL")

        try:
            storage = optuna.storages.RDBStorage(
                f"sqlite:///{path}", engine_kwargs={"connect_args": {"timeout": faults.PATIENCE}}
            )
            sqlalchemy.event.listen(storage.engine, "connect", prepare)
            storage.engine.dispose()  # the connections made before that
            self.study = optuna.create_study(
                study_name=config.name,
                storage=storage,
                directions=[f"{objective.direction}imize" for objective in config.objectives],
                load_if_exists=True,
            )
        except OperationalError as fault:
            raise BadInput(f"{path}: cannot be opened: {fault.orig}") from None
        except DatabaseError as fault:
            raise CorruptFile(f"{path}: damaged ({fault.orig}); restore it, or choose another --name") from None
        self._storage = storage
        self._prior = prior or Prior()
        self.changes = 0
        """How often something was written by this object."""

    def entries(self) -> list[Entry]:
        """Every trial, by number."""
        return [self._entry(trial) for trial in self.study.get_trials(deepcopy=False)]

    def entry(self, number: int) -> Entry:
        """Trial `number`."""
        return self._entry(self._storage.get_trial(self._id(number)))

    def ask(self) -> Entry:
        """A new trial with sampled settings.

        A function of the seed and the trials so far (`search.samplers`): a sweep that was continued does not repeat itself
        and, one trial at a time, samples what an unbroken sweep samples.
        """
        trials = self.study.get_trials(deepcopy=False)
        self.study.add_trial(propose(self.config, trials, self._prior))
        self.changes += 1
        return self.entry(len(trials))

    def record(self, number: int, step: int, value: float, *, stop: bool, second: float | None = None) -> None:
        """Note the objective at `step`, and whether the scheduler stops the trial there. Idempotent.

        Of a `second` objective only the last value is kept.
        """
        trial = self._id(number)
        if step in self._storage.get_trial(trial).intermediate_values:
            return
        if stop:
            self._storage.set_trial_user_attr(trial, _STOPPED, step)
        if second is not None:
            self._storage.set_trial_user_attr(trial, _SECOND, second)
        self._storage.set_trial_intermediate_value(trial, step, value)
        self.changes += 1

    def tell(self, number: int, outcome: str, reason: str | None = None) -> None:
        """Close a trial: `complete` at the full horizon, `stopped` early, or `failed` with a reason. Idempotent."""
        from optuna.trial import TrialState

        entry = self.entry(number)
        if entry.finished:
            return
        state = {"complete": TrialState.COMPLETE, "stopped": TrialState.PRUNED, "failed": TrialState.FAIL}[outcome]
        if reason:
            self._storage.set_trial_user_attr(self._id(number), _REASON, reason)
        # The study's own `tell` would let pruned trials without a value through as they are; it takes values from the
        # intermediate ones, which is what TPE ranks stopped trials by.
        self.study.tell(number, entry.objectives if outcome == "complete" else None, state=state)
        self.changes += 1

    def lost_worker(self, number: int) -> None:
        """Note that the worker of a trial died or raised, and that another one takes over."""
        self._storage.set_trial_user_attr(self._id(number), _LOST, self.entry(number).lost + 1)
        self.changes += 1

    def reopen(self, number: int) -> None:
        """Let a failed trial run again under its number, with its settings and from its last report.

        Optuna has no call for this: a FAIL is final. A second Optuna trial in its place would leave two for one number, so
        its row is set back to RUNNING, as it was before it was told; only the state and the end change.
        """
        import optuna
        from sqlalchemy import text

        trial, entry = self._id(number), self.entry(number)
        if entry.state != "failed":
            return
        with self._storage.engine.begin() as connection:
            connection.execute(
                text(
                    "UPDATE trials SET state = 'RUNNING', datetime_complete = NULL WHERE trial_id = :trial AND state = 'FAIL'"
                ),
                {"trial": trial},
            )
        self._storage.remove_session()
        # Optuna remembers ended trials for good: only a new study object looks again.
        self.study = optuna.load_study(study_name=self.config.name, storage=self._storage)
        self._storage.set_trial_user_attr(trial, _REASON, None)
        self._storage.set_trial_user_attr(trial, _LOST, 0)
        self._storage.set_trial_user_attr(trial, _RETRIED, entry.retried + 1)
        self.changes += 1

    def best(self) -> Entry | None:
        """The trial with the best (first) objective at the full horizon, if any got there."""
        return best(self.config, self.entries())

    @property
    def seconds(self) -> float:
        """Wall time spent on this sweep so far, all runs together."""
        return seconds_of(self.study.user_attrs)

    def spent(self, seconds: float) -> None:
        """Note the wall time spent so far."""
        self.study.set_user_attr(_SECONDS, seconds)

    def close(self) -> None:
        """Let go of the file."""
        self._storage.remove_session()
        self._storage.engine.dispose()

    def _id(self, number: int) -> int:
        found: int = self._storage.get_trial_id_from_study_id_trial_number(self.study._study_id, number)
        return found

    @staticmethod
    def _entry(trial: FrozenTrial) -> Entry:
        return entry_of(
            trial.number, trial.state.name, trial.datetime_complete, dict(trial.params), trial.intermediate_values,
            trial.user_attrs,
        )  # fmt: skip


def entry_of(
    number: int,
    state: str,
    ended: datetime | None,
    params: dict[str, Any],
    values: Mapping[int, float],
    attributes: Mapping[str, Any],
) -> Entry:
    """A trial from what Optuna stores of it; `state` is Optuna's name, and `ended` has no time zone."""
    return Entry(
        number=number,
        params=params,
        state=_STATES[state],
        values=dict(sorted(values.items())),
        stopped_at=attributes.get(_STOPPED),
        reason=attributes.get(_REASON),
        second=attributes.get(_SECOND),
        origin=attributes.get(ORIGIN),
        lost=attributes.get(_LOST, 0),
        retried=attributes.get(_RETRIED, 0),
        ended=ended.timestamp() if ended else None,
    )


def seconds_of(attributes: Mapping[str, Any]) -> float:
    """Wall time spent on a sweep, from its study's attributes."""
    return float(attributes.get(_SECONDS, 0.0))
