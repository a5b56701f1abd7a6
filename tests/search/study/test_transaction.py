"""Optuna's tables, written without Optuna and read with it."""

from __future__ import annotations

import math
from pathlib import Path

import optuna
import pytest
from sqlalchemy.exc import IntegrityError

from search.study.transaction import Value, write


@pytest.fixture
def storage(tmp_path: Path) -> optuna.storages.RDBStorage:
    return optuna.storages.RDBStorage(f"sqlite:///{tmp_path / 'study.db'}")


def new_trials(storage: optuna.storages.RDBStorage, count: int) -> list[int]:
    study = optuna.create_study(storage=storage, study_name="s")
    return [study.ask()._trial_id for _ in range(count)]


def test_optuna_reads_what_was_written(storage: optuna.storages.RDBStorage) -> None:
    first, second = new_trials(storage, 2)
    values = [Value(first, 3, 0.5), Value(second, 3, math.nan), Value(second, 6, math.inf), Value(second, 9, -math.inf)]
    write(storage.engine, values, {(first, "stopped_at"): 3, (second, "reason"): None, (second, "second"): [1, "a"]})
    write(storage.engine, [], {(first, "stopped_at"): 6})
    write(storage.engine, [Value(first, 6, 0.25)], {})
    assert storage.get_trial(first).intermediate_values == {3: 0.5, 6: 0.25}
    assert storage.get_trial(first).user_attrs == {"stopped_at": 6}
    assert repr(storage.get_trial(second).intermediate_values) == "{3: nan, 6: inf, 9: -inf}"
    assert storage.get_trial(second).user_attrs == {"reason": None, "second": [1, "a"]}
    # Optuna goes on from there.
    storage.set_trial_user_attr(first, "stopped_at", 9)
    storage.set_trial_intermediate_value(first, 6, 0.75)
    storage.set_trial_state_values(first, optuna.trial.TrialState.COMPLETE, [0.75])
    assert storage.get_trial(first).intermediate_values == {3: 0.5, 6: 0.75}
    assert storage.get_trial(first).user_attrs == {"stopped_at": 9}


def test_all_or_nothing(storage: optuna.storages.RDBStorage) -> None:
    """A value that is there already refuses the rest, the decision to stop among it."""
    (trial,) = new_trials(storage, 1)
    write(storage.engine, [Value(trial, 3, 0.5)], {})
    with pytest.raises(IntegrityError):
        write(storage.engine, [Value(trial, 6, 0.5), Value(trial, 3, 0.5)], {(trial, "stopped_at"): 6})
    assert storage.get_trial(trial).intermediate_values == {3: 0.5}
    assert storage.get_trial(trial).user_attrs == {}
