"""Writes to an Optuna study, each a transaction.

Optuna's interface takes one value a transaction, and asks four questions before it writes it: 5 ms a report and 9 ms a new
trial, most of what a driver does. The tables are Optuna's own models; tests read what was written through Optuna's interface.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from optuna.trial import FrozenTrial, TrialState


class Value(NamedTuple):
    """The objective of a trial at a step."""

    trial: int
    """Optuna's identity of the trial, not its number."""
    step: int
    value: float


class End(NamedTuple):
    """How a trial ended."""

    trial: int
    state: TrialState
    values: Sequence[float]
    """Of each objective, or none."""
    when: datetime


def create(engine: Any, study: int, trial: FrozenTrial) -> int:
    """Put a new running trial into the study's tables, with its number, settings and attributes; gives Optuna's identity of it.

    Nobody else may write to the study, or two trials could have one number.

    Raises:
        OperationalError: of SQLAlchemy; nothing was written.
    """
    from optuna.distributions import distribution_to_json
    from optuna.storages._rdb.models import (
        TrialModel,
        TrialParamModel,
        TrialSystemAttributeModel,
        TrialUserAttributeModel,
    )
    from sqlalchemy import insert

    with engine.begin() as connection:
        row = {"study_id": study, "number": trial.number, "state": trial.state, "datetime_start": trial.datetime_start}
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
        for table, notes in ((TrialUserAttributeModel, trial.user_attrs), (TrialSystemAttributeModel, trial.system_attrs)):
            if notes:
                connection.execute(
                    insert(table),
                    [{"trial_id": identity, "key": key, "value_json": json.dumps(value)} for key, value in notes.items()],
                )
    return identity


def write(engine: Any, values: Sequence[Value], attributes: Mapping[tuple[int, str], Any], end: End | None = None) -> None:
    """Put intermediate values, user attributes by (trial, key) and the end of a trial into the tables: all of it or nothing.

    No value may be there yet; attributes, and values of objectives, replace older ones.

    Raises:
        OperationalError: of SQLAlchemy; nothing was written.
    """
    from optuna.storages._rdb.models import TrialIntermediateValueModel, TrialModel, TrialUserAttributeModel, TrialValueModel
    from sqlalchemy import and_, delete, insert, or_, update

    stored = TrialIntermediateValueModel.intermediate_value_to_stored_repr
    with engine.begin() as connection:
        if attributes:
            table = TrialUserAttributeModel
            mine = [and_(table.trial_id == trial, table.key == key) for trial, key in attributes]
            connection.execute(delete(table).where(or_(*mine)))
            rows = [
                {"trial_id": trial, "key": key, "value_json": json.dumps(value)} for (trial, key), value in attributes.items()
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
            told = {"state": end.state, "datetime_complete": end.when}
            connection.execute(update(TrialModel).where(TrialModel.trial_id == end.trial).values(told))
            connection.execute(delete(TrialValueModel).where(TrialValueModel.trial_id == end.trial))
            if end.values:
                connection.execute(insert(TrialValueModel), [_objective(end.trial, *one) for one in enumerate(end.values)])


def _objective(trial: int, number: int, value: float) -> dict[str, Any]:
    from optuna.storages._rdb.models import TrialValueModel

    amount, kind = TrialValueModel.value_to_stored_repr(value)
    return {"trial_id": trial, "objective": number, "value": amount, "value_type": kind}
