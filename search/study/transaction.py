"""Writes to an Optuna study: into its tables, each a transaction, or through Optuna's interface where those are unknown.

Optuna's interface takes one value a transaction, and asks four questions before it writes it: 5 ms a report and 9 ms a new
trial, most of what a driver does. The tables are Optuna's own models; tests read what was written through Optuna's interface.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from gbc.errors import BadInput
from records import schema

if TYPE_CHECKING:
    from optuna.storages import RDBStorage
    from optuna.trial import FrozenTrial, TrialState


class Value(NamedTuple):
    """The objective of a trial at a step."""

    trial: int
    """Optuna's identity of the trial, not its number."""
    step: int
    value: float


class End(NamedTuple):
    """The end of a trial."""

    trial: int
    state: TrialState
    values: Sequence[float]
    """One value for each objective, or none."""
    when: datetime
    """In this machine's time zone, which it does not name, as Optuna has it."""


class Writer(Protocol):
    """Writes to one study. Nobody else may write to it, or two trials could have one number."""

    def create(self, trial: FrozenTrial) -> int:
        """Put a new running trial into the study, with its number, settings and attributes; return Optuna's identity of it.

        Raises:
            OperationalError: of SQLAlchemy; nothing was written.
        """

    def write(self, values: Sequence[Value], attributes: Mapping[tuple[int, str], Any], end: End | None = None) -> None:
        """Put intermediate values, user attributes by (trial, key) and the end of a trial into the study.

        No value may be there yet; attributes, and values of objectives, replace older ones.

        Raises:
            OperationalError: of SQLAlchemy; the same call may be repeated.
        """

    def reopen(self, trial: int) -> None:
        """Set a failed trial back to running.

        Raises:
            BadInput: this cannot be done.
        """


def writer(storage: RDBStorage, study: int) -> Writer:
    """The writer for `study` in `storage`: to its tables where their layout is known."""
    from sqlalchemy import text

    with storage.engine.connect() as connection:
        known = schema.is_known(connection.execute(text(schema.VERSION)))
    return TableWriter(storage.engine, study) if known else InterfaceWriter(storage, study)


class TableWriter:
    """Writes into Optuna's tables: all of a call or nothing."""

    def __init__(self, engine: Any, study: int) -> None:
        self._engine, self._study = engine, study

    def create(self, trial: FrozenTrial) -> int:
        """Insert a running trial; see `Writer`."""
        from optuna.distributions import distribution_to_json
        from optuna.storages._rdb.models import (
            TrialModel,
            TrialParamModel,
            TrialSystemAttributeModel,
            TrialUserAttributeModel,
        )
        from sqlalchemy import insert

        with self._engine.begin() as connection:
            row = {
                "study_id": self._study,
                "number": trial.number,
                "state": trial.state,
                "datetime_start": schema.stored_time(trial.datetime_start),
            }
            identity: int = connection.execute(insert(TrialModel).values(row)).inserted_primary_key[0]
            params = [
                {
                    "trial_id": identity,
                    "param_name": name,
                    "param_value": distribution.to_internal_repr(trial.params[name]),
                    "distribution_json": distribution_to_json(distribution),
                }
                for name, distribution in trial.distributions.items()
            ]
            if params:
                connection.execute(insert(TrialParamModel), params)
            for table, pairs in ((TrialUserAttributeModel, trial.user_attrs), (TrialSystemAttributeModel, trial.system_attrs)):
                if pairs:
                    connection.execute(
                        insert(table),
                        [{"trial_id": identity, "key": key, "value_json": json.dumps(value)} for key, value in pairs.items()],
                    )
        return identity

    def write(self, values: Sequence[Value], attributes: Mapping[tuple[int, str], Any], end: End | None = None) -> None:
        """Insert values, attributes and an end; see `Writer`."""
        from optuna.storages._rdb.models import (
            TrialIntermediateValueModel,
            TrialModel,
            TrialUserAttributeModel,
            TrialValueModel,
        )
        from sqlalchemy import delete, insert, tuple_, update

        stored = TrialIntermediateValueModel.intermediate_value_to_stored_repr
        with self._engine.begin() as connection:
            if attributes:
                table = TrialUserAttributeModel
                connection.execute(delete(table).where(tuple_(table.trial_id, table.key).in_(list(attributes))))
                rows = [
                    {"trial_id": trial, "key": key, "value_json": json.dumps(value)}
                    for (trial, key), value in attributes.items()
                ]
                connection.execute(insert(table), rows)
            if values:
                kinds = ("intermediate_value", "intermediate_value_type")
                connection.execute(
                    insert(TrialIntermediateValueModel),
                    [
                        {"trial_id": trial, "step": step} | dict(zip(kinds, stored(value), strict=True))
                        for trial, step, value in values
                    ],
                )
            if end is not None:
                ended = {"state": end.state, "datetime_complete": schema.stored_time(end.when)}
                connection.execute(update(TrialModel).where(TrialModel.trial_id == end.trial).values(ended))
                connection.execute(delete(TrialValueModel).where(TrialValueModel.trial_id == end.trial))
                if end.values:
                    connection.execute(
                        insert(TrialValueModel), [_value_row(end.trial, *numbered) for numbered in enumerate(end.values)]
                    )

    def reopen(self, trial: int) -> None:
        """Set the row of a failed trial back; only its state and its end change.

        Optuna has no call for this: a FAIL is final. A second Optuna trial in its place would leave two for one number.
        """
        from optuna.storages._rdb.models import TrialModel
        from optuna.trial import TrialState
        from sqlalchemy import update

        failed = update(TrialModel).where(TrialModel.trial_id == trial, TrialModel.state == TrialState.FAIL)
        with self._engine.begin() as connection:
            connection.execute(failed.values(state=TrialState.RUNNING, datetime_complete=None))


class InterfaceWriter:
    """Writes through Optuna's interface, a transaction for each value: attributes first, the end last.

    A driver that is killed in the middle of a call may leave a decision to stop without the value it was made on; the trial is
    then closed with the value before.
    """

    def __init__(self, storage: RDBStorage, study: int) -> None:
        self._storage, self._study = storage, study

    def create(self, trial: FrozenTrial) -> int:
        """Create a trial; see `Writer`."""
        identity: int = self._storage.create_new_trial(self._study, template_trial=trial)
        return identity

    def write(self, values: Sequence[Value], attributes: Mapping[tuple[int, str], Any], end: End | None = None) -> None:
        """Set values, attributes and an end one by one; see `Writer`."""
        for (trial, key), value in attributes.items():
            self._storage.set_trial_user_attr(trial, key, value)
        for trial, step, value in values:
            self._storage.set_trial_intermediate_value(trial, step, value)
        if end is not None:
            self._storage.set_trial_state_values(end.trial, end.state, end.values or None)

    def reopen(self, trial: int) -> None:
        """Refuse; see `Writer`."""
        raise BadInput(
            "--retry-failed: another version of Optuna laid out the study's tables, and its interface cannot do this"
        )


def _value_row(trial: int, number: int, value: float) -> dict[str, Any]:
    from optuna.storages._rdb.models import TrialValueModel

    amount, kind = TrialValueModel.value_to_stored_repr(value)
    return {"trial_id": trial, "objective": number, "value": amount, "value_type": kind}
