"""The ledger: an Optuna study as the one record of a sweep's trials, their reports, decisions and ends.

Ray is started anew each time a sweep continues; what it must know is rebuilt from here. The order of writing makes every
moment safe to die in: a trial's worker saves its checkpoint, then reports; the driver writes the decision to stop together
with the value it was based on, then MLflow.

The driver is the only one who writes, so it holds all trials in memory and never asks the study for what it wrote itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from records.study import SETTINGS, record_of_trial
from records.trial import (
    ENQUEUED,
    GPUS,
    LOST,
    MISSED,
    ORDER,
    REASON,
    RETRIED,
    SECOND,
    SECOND_AT,
    SECONDS,
    STOPPED,
    TrialRecord,
    seconds_spent,
)
from search.policy.ranking import best_trial
from search.policy.samplers import Prior, Proposer, SourceTrial
from search.spec import faults
from search.spec.config import SweepConfig
from search.study.orders import Order, pending, setting_waits
from search.study.store import open_study, study_of
from search.study.transaction import End, Value, writer

if TYPE_CHECKING:
    from optuna.trial import FrozenTrial


class Ledger:
    """Reads and writes the study of one sweep. Only the driver has one."""

    def __init__(self, config: SweepConfig, folder: Path, prior: Prior | None = None) -> None:
        """Opens the study of the sweep in `folder`, or starts it. `prior` is what `ask` knows before the first trial.

        Raises:
            CorruptFile: the study's file is damaged.
            BadInput: it cannot be written, or its database cannot be reached.
        """
        self.config = config
        self.study, self._storage = open_study(config, folder)
        self._proposer = Proposer(config, prior or Prior())
        self._writer = writer(self._storage, self._storage.get_study_id_from_name(config.name))
        with faults.readable():
            self._trials = study_of(config, folder).frozen_trials()
        self._entries = [record_of_trial(trial) for trial in self._trials]
        self._seconds = seconds_spent(self.study.user_attrs)
        self._values: list[Value] = []
        self._attributes: dict[tuple[int, str], Any] = {}

    def entries(self) -> list[TrialRecord]:
        """Return every trial, by number."""
        return list(self._entries)

    def entry(self, number: int) -> TrialRecord:
        """Return trial `number`."""
        return self._entries[number]

    def ask(self, order: Order | None = None) -> TrialRecord:
        """Create a trial with sampled settings, or those of an order; it is in the study before anybody hears of it.

        A function of the seed and the trials so far (`search.policy.samplers`): a sweep that was continued does not repeat
        itself and, one trial at a time, samples what an unbroken sweep samples.
        """
        self.flush()
        if order is None:
            trial = self._proposer.propose(self._trials)
        else:
            trial = self._proposer.complete(self._trials, SourceTrial(ENQUEUED, order.settings, ()))
            trial.user_attrs[ORDER] = order.key
        return self._add(trial)

    def repeat(self, number: int) -> TrialRecord:
        """Create a trial with the settings of another one; its seed, which follows from its own number, is fresh."""
        self.flush()
        return self._add(self._proposer.repeat(self._trials[number]))

    def _add(self, trial: FrozenTrial) -> TrialRecord:
        trial.number = len(self._trials)
        trial._trial_id = self._writer.create(trial)
        self._trials.append(trial)
        self._entries.append(record_of_trial(trial))
        return self._entries[-1]

    def record(
        self,
        number: int,
        step: int,
        value: float,
        *,
        stop: bool,
        second: float | None = None,
        missed: Sequence[str] | None = None,
    ) -> None:
        """Note the objective at `step`, and whether the scheduler stops the trial there. Idempotent.

        Of a `second` objective the values at rungs and the last one are kept, of what is `missed` of the requirements the
        last. The study has it after the next `flush`, which every other call that writes begins with.
        """
        trial = self._trials[number]
        if step in trial.intermediate_values:
            return
        if stop:
            self._set_attribute(number, STOPPED, step)
        if second is not None:
            self._set_attribute(number, SECOND, second)
            if step in self.config.rungs:
                self._set_attribute(number, SECOND_AT, {**trial.user_attrs.get(SECOND_AT, {}), str(step): second})
        if missed is not None:
            self._set_attribute(number, MISSED, list(missed))
        trial.intermediate_values[step] = value
        self._values.append(Value(trial._trial_id, step, value))
        self._update_entry(number)

    def flush(self) -> None:
        """Write what was recorded into the study, in one transaction: a decision to stop is there with its value or not at all.

        Raises:
            OperationalError: of SQLAlchemy; nothing was written, and the next call tries again.
        """
        if self._values or self._attributes:
            self._write()

    def tell(self, number: int, outcome: str, reason: str | None = None) -> None:
        """Close a trial: `complete` at the full horizon, `stopped` early, or `failed` with a reason. Idempotent."""
        from optuna.trial import TrialState

        record = self._entries[number]
        if record.finished:
            return
        if reason:
            self._set_attribute(number, REASON, reason)
        state = {"complete": TrialState.COMPLETE, "stopped": TrialState.PRUNED, "failed": TrialState.FAIL}[outcome]
        # A stopped trial gets the last of its values, as Optuna's own `tell` has it: that is what TPE ranks it by.
        values = {"complete": record.objectives, "stopped": record.objectives[:1], "failed": ()}[outcome]
        if len(values) < len(self.config.objectives):
            values = ()
        end = End(self._optuna_id(number), state, values, datetime.now())  # without a time zone, as Optuna has it
        self._write(end)
        trial = self._trials[number]
        trial.state, trial.values, trial.datetime_complete = state, list(values) or None, end.when
        self._update_entry(number)

    def count_lost_worker(self, number: int) -> None:
        """Note that the worker of a trial died or raised, and that another one takes over."""
        self._set_attribute(number, LOST, self._entries[number].lost + 1)
        self.flush()

    def may_retry(self, number: int) -> bool:
        """Return whether a trial whose worker died may have another one."""
        return self._entries[number].lost < self.config.retries

    def set_gpu_share(self, number: int, gpus: float) -> None:
        """Note that a trial ran out of memory and wants this share of a GPU from now on."""
        self._set_attribute(number, GPUS, gpus)
        self.flush()

    def reopen(self, number: int) -> None:
        """Let a failed trial run again under its number, with its settings and from its last report.

        Raises:
            BadInput: another version of Optuna laid out the study's tables, so that this cannot be done.
        """
        import optuna
        from optuna.trial import TrialState

        record = self._entries[number]
        if record.state != "failed":
            return
        self._writer.reopen(self._optuna_id(number))
        self._storage.remove_session()
        # Optuna remembers ended trials for good: only a new study object looks again.
        self.study = optuna.load_study(study_name=self.config.name, storage=self._storage)
        self._set_attribute(number, REASON, None)
        self._set_attribute(number, LOST, 0)
        self._set_attribute(number, RETRIED, record.retried + 1)
        self.flush()
        trial = self._trials[number]
        trial.state, trial.datetime_complete = TrialState.RUNNING, None
        self._update_entry(number)

    def orders(self) -> list[Order]:
        """Return the orders that are not carried out, the earliest first. The study is asked: others write them."""
        return pending(self.study.user_attrs, self._entries)

    def settings_wait(self) -> bool:
        """Return whether a setting that was given by hand waits to be tried."""
        return setting_waits(self.orders())

    def withdraw(self, order: Order) -> None:
        """Take an order as carried out."""
        self.study.set_user_attr(order.key, None)

    def change(self, config: SweepConfig) -> None:
        """Go on with other settings, of those that may change; the study's copy follows."""
        self.config = config
        self.study.set_user_attr(SETTINGS, config.record())

    def best(self) -> TrialRecord | None:
        """Return the trial with the best (first) objective at the full horizon; None if none got there."""
        return best_trial(self.config, self._entries)

    @property
    def seconds(self) -> float:
        """Wall time spent on this sweep so far, all runs together."""
        return self._seconds

    def set_seconds(self, seconds: float) -> None:
        """Note the wall time spent so far."""
        self.flush()
        self.study.set_user_attr(SECONDS, seconds)
        self._seconds = seconds

    def close(self) -> None:
        """Let go of the study; what was not flushed is as if it had not been recorded."""
        self._storage.remove_session()
        self._storage.engine.dispose()

    def _write(self, end: End | None = None) -> None:
        self._writer.write(self._values, self._attributes, end)
        self._values, self._attributes = [], {}

    def _optuna_id(self, number: int) -> int:
        identity: int = self._trials[number]._trial_id
        return identity

    def _set_attribute(self, number: int, key: str, value: Any) -> None:
        self._trials[number].user_attrs[key] = value
        self._attributes[self._optuna_id(number), key] = value
        self._update_entry(number)

    def _update_entry(self, number: int) -> None:
        self._entries[number] = record_of_trial(self._trials[number])
