"""Writes to a study: into Optuna's tables and through its interface; what was written is read with Optuna."""

from __future__ import annotations

import math
from datetime import datetime
from pathlib import Path

import optuna
import pytest
from optuna.trial import TrialState, create_trial
from sqlalchemy import text
from sqlalchemy.exc import IntegrityError

from gbc.errors import BadInput
from records import schema
from search.study.transaction import End, InterfaceWriter, TableWriter, Value, Writer, writer


@pytest.fixture
def storage(tmp_path: Path) -> optuna.storages.RDBStorage:
    return optuna.storages.RDBStorage(f"sqlite:///{tmp_path / 'study.db'}")


@pytest.fixture
def study(storage: optuna.storages.RDBStorage) -> int:
    return optuna.create_study(storage=storage, study_name="s", direction="maximize")._study_id


@pytest.fixture(params=[TableWriter, InterfaceWriter])
def either(request: pytest.FixtureRequest, storage: optuna.storages.RDBStorage, study: int) -> Writer:
    return TableWriter(storage.engine, study) if request.param is TableWriter else InterfaceWriter(storage, study)


def new_trials(writer: Writer, count: int) -> list[int]:
    identities = []
    for number in range(count):
        trial = create_trial(
            state=TrialState.RUNNING,
            params={"lr": 0.5},
            distributions={"lr": optuna.distributions.FloatDistribution(0.1, 1.0, log=True)},
            user_attrs={"origin": "other"},
            system_attrs={"cma": [1]},
        )
        trial.number = number
        identities.append(writer.create(trial))
    return identities


def test_optuna_reads_what_was_written(storage: optuna.storages.RDBStorage, either: Writer) -> None:
    first, second = new_trials(either, 2)
    made = storage.get_trial(second)
    assert (made.number, made.params, made.user_attrs, made.system_attrs) == (1, {"lr": 0.5}, {"origin": "other"}, {"cma": [1]})
    values = [Value(first, 3, 0.5), Value(second, 3, math.nan), Value(second, 6, math.inf), Value(second, 9, -math.inf)]
    either.write(values, {(first, "stopped_at"): 3, (second, "reason"): None, (second, "second"): [1, "a"]})
    either.write([], {(first, "stopped_at"): 6})
    either.write([Value(first, 6, 0.25)], {})
    assert storage.get_trial(first).intermediate_values == {3: 0.5, 6: 0.25}
    assert storage.get_trial(first).user_attrs == {"origin": "other", "stopped_at": 6}
    assert repr(storage.get_trial(second).intermediate_values) == "{3: nan, 6: inf, 9: -inf}"
    assert storage.get_trial(second).user_attrs == {"origin": "other", "reason": None, "second": [1, "a"]}
    either.write([], {}, End(second, TrialState.FAIL, (), datetime.now()))
    assert storage.get_trial(second).state == TrialState.FAIL and storage.get_trial(second).datetime_complete
    # Optuna goes on from there.
    storage.set_trial_user_attr(first, "stopped_at", 9)
    storage.set_trial_intermediate_value(first, 6, 0.75)
    storage.set_trial_state_values(first, TrialState.COMPLETE, [0.75])
    assert storage.get_trial(first).intermediate_values == {3: 0.5, 6: 0.75}
    assert storage.get_trial(first).user_attrs == {"origin": "other", "stopped_at": 9}


def test_a_transaction_may_hold_the_attributes_of_thousands_of_trials(storage: optuna.storages.RDBStorage, study: int) -> None:
    tables = TableWriter(storage.engine, study)
    trial = tables.create(create_trial(state=TrialState.RUNNING))
    for value in (1, 2):
        tables.write((), {(trial, f"key {number}"): value for number in range(5000)})
    assert set(storage.get_trial(trial).user_attrs.values()) == {2} and len(storage.get_trial(trial).user_attrs) == 5000


def test_all_or_nothing(storage: optuna.storages.RDBStorage, study: int) -> None:
    """A value that is there already refuses the rest, the decision to stop among it."""
    tables = TableWriter(storage.engine, study)
    (trial,) = new_trials(tables, 1)
    tables.write([Value(trial, 3, 0.5)], {})
    with pytest.raises(IntegrityError):
        tables.write([Value(trial, 6, 0.5), Value(trial, 3, 0.5)], {(trial, "stopped_at"): 6})
    assert storage.get_trial(trial).intermediate_values == {3: 0.5}
    assert "stopped_at" not in storage.get_trial(trial).user_attrs


def test_optunas_interface_is_used_where_the_tables_are_unknown(storage: optuna.storages.RDBStorage, study: int) -> None:
    assert isinstance(writer(storage, study), TableWriter)
    with storage.engine.begin() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = 'v9.9.9.a'"))
    assert isinstance(writer(storage, study), InterfaceWriter)


def test_a_write_that_was_cut_short_may_be_repeated(storage: optuna.storages.RDBStorage, study: int) -> None:
    interface = InterfaceWriter(storage, study)
    (trial,) = new_trials(interface, 1)
    for _ in range(2):
        interface.write([Value(trial, 3, 0.5)], {(trial, "stopped_at"): 3})
    assert storage.get_trial(trial).intermediate_values == {3: 0.5}
    with pytest.raises(BadInput, match=r"--retry-failed: .*Optuna"):
        interface.reopen(trial)


def test_the_installed_optuna_makes_tables_of_a_known_layout(storage: optuna.storages.RDBStorage) -> None:
    assert (storage.get_current_version(), optuna.__version__.partition(".")[0]) in schema.KNOWN
