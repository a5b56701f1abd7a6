"""Uses of Optuna beyond its documented interface (docs/internals.md)."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path

import optuna
import pytest
from optuna.storages import InMemoryStorage, RDBStorage
from optuna.trial import TrialState, create_trial
from sqlalchemy import text

from records import schema
from records.addresses import sqlite_url
from search.spec.config import SweepConfig
from search.study.ledger import Ledger
from search.study.store import study_of
from tests.search.conftest import fill, tiny_sweep


@pytest.fixture
def tokyo(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A machine whose time is not UTC."""
    monkeypatch.setenv("TZ", "Asia/Tokyo")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


@pytest.mark.usefixtures("tokyo")
@pytest.mark.parametrize("sampler", ["tpe", "cmaes"])  # the latter leaves attributes of its own
def test_trials_in_the_tables_are_those_that_optuna_gives(sampler: str, tmp_path: Path) -> None:
    """Trials with every kind of setting, state and value: written into the tables, read from them and by Optuna."""
    space = {"lr": {"log10": [-3.5, -2.0]}, "batch_size": {"choice": [16, 32]}}
    config = SweepConfig.parse(tiny_sweep(sampler=sampler, space=space), "test")
    ledger = Ledger(config, tmp_path)
    assert study_of(config, tmp_path).frozen_trials() == []
    fill(ledger, (0.25, "complete"), (0.125, "stopped"), (0.0625, "failed"), (math.inf, None), (math.nan, None))
    ledger.count_lost_worker(4)
    wanted = ledger.study.get_trials()
    trials = study_of(config, tmp_path).frozen_trials()
    ledger.close()
    assert [trial.state.name for trial in wanted] == ["COMPLETE", "PRUNED", "FAIL", "RUNNING", "RUNNING"]
    assert math.isnan(trials[4].intermediate_values.pop(3)) and math.isnan(wanted[4].intermediate_values.pop(3))
    assert math.isnan(trials[4].intermediate_values.pop(6)) and math.isnan(wanted[4].intermediate_values.pop(6))
    assert trials == wanted
    assert abs(datetime.now() - wanted[0].datetime_complete) < timedelta(minutes=5)


@pytest.mark.usefixtures("tokyo")
def test_optuna_reads_a_failed_trial_that_was_set_back_as_running(tmp_path: Path) -> None:
    config = SweepConfig.parse(tiny_sweep(), "test")
    ledger = Ledger(config, tmp_path)
    fill(ledger, (0.25, "failed"))
    ledger.reopen(0)
    (trial,) = optuna.load_study(study_name=config.name, storage=sqlite_url(tmp_path / "study.db")).get_trials()
    assert (trial.state, trial.datetime_complete, trial.intermediate_values) == (TrialState.RUNNING, None, {3: 0.25, 6: 0.25})
    assert trial == ledger._trials[0]
    ledger.close()


def test_a_study_says_which_version_laid_out_its_tables(tmp_path: Path) -> None:
    storage = RDBStorage(sqlite_url(tmp_path / "study.db"))
    with storage.engine.connect() as connection:
        assert schema.is_known(connection.execute(text(schema.VERSION)))
    storage.engine.dispose()


@pytest.mark.parametrize("kind", ["memory", "file"])
def test_storages_take_trials_by_their_identity(kind: str, tmp_path: Path) -> None:
    """`_trial_id`, and the methods of storages that samplers and the ledger use."""
    storage = InMemoryStorage() if kind == "memory" else RDBStorage(sqlite_url(tmp_path / "study.db"))
    study = optuna.create_study(study_name="s", storage=storage)
    identity = storage.create_new_trial(
        storage.get_study_id_from_name("s"), template_trial=create_trial(state=TrialState.RUNNING, system_attrs={"cma": 1})
    )
    (trial,) = study.get_trials()
    assert trial._trial_id == identity and trial.system_attrs == {"cma": 1}
    storage.set_trial_intermediate_value(identity, 3, 0.5)
    storage.set_trial_user_attr(identity, "a", [1])
    storage.set_trial_state_values(identity, TrialState.COMPLETE, [0.5])
    (trial,) = study.get_trials()
    assert (trial.intermediate_values, trial.user_attrs, trial.values, trial.state.name) == (
        {3: 0.5},
        {"a": [1]},
        [0.5],
        "COMPLETE",
    )
    trial._trial_id = 7
    assert trial._trial_id == 7
