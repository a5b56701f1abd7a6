"""Many writes to an Optuna study in one transaction.

Optuna's interface takes one value a transaction, and asks four questions before it writes it: 5 ms a report, most of what a
driver does. The tables are Optuna's own models; a test reads what was written through Optuna's interface.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple


class Value(NamedTuple):
    """The objective of a trial at a step."""

    trial: int
    """Optuna's identity of the trial, not its number."""
    step: int
    value: float


def write(engine: Any, values: Sequence[Value], attributes: Mapping[tuple[int, str], Any]) -> None:
    """Put intermediate values and user attributes, by (trial, key), into the study's tables: all of them or none.

    No value may be there yet; attributes replace older ones.

    Raises:
        OperationalError: of SQLAlchemy; nothing was written.
    """
    from optuna.storages._rdb.models import TrialIntermediateValueModel, TrialUserAttributeModel
    from sqlalchemy import and_, delete, insert, or_

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
