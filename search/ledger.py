"""The ledger: an Optuna study as the one record of what was asked, reported, decided and told.

Ray is started anew each time a sweep continues; what it must know is rebuilt from here. The order of writing makes every
moment safe to die in: a trial's worker saves its checkpoint, then reports; the driver writes the decision to stop, then
the value it was based on, then MLflow.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from gbc.errors import BadInput, CorruptFile
from search.config import SweepConfig
from search.ranking import best
from search.samplers import ORIGIN, Prior, propose

if TYPE_CHECKING:
    from optuna.trial import FrozenTrial

STUDY_FILE: Final = "study.db"
_STOPPED: Final = "stopped_at"
_REASON: Final = "reason"
_SECOND: Final = "second_objective"
_SECONDS: Final = "seconds"


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
            storage = optuna.storages.RDBStorage(f"sqlite:///{path}", engine_kwargs={"connect_args": {"timeout": 60}})
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

    def best(self) -> Entry | None:
        """The trial with the best (first) objective at the full horizon, if any got there."""
        return best(self.config, self.entries())

    @property
    def seconds(self) -> float:
        """Wall time spent on this sweep so far, all runs together."""
        return float(self.study.user_attrs.get(_SECONDS, 0.0))

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
        names = {"RUNNING": "running", "COMPLETE": "complete", "PRUNED": "stopped", "FAIL": "failed", "WAITING": "running"}
        return Entry(
            number=trial.number,
            params=dict(trial.params),
            state=names[trial.state.name],
            values=dict(sorted(trial.intermediate_values.items())),
            stopped_at=trial.user_attrs.get(_STOPPED),
            reason=trial.user_attrs.get(_REASON),
            second=trial.user_attrs.get(_SECOND),
            origin=trial.user_attrs.get(ORIGIN),
            ended=trial.datetime_complete.timestamp() if trial.datetime_complete else None,
        )
