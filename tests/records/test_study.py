"""A real study, written by Optuna, read as the file it is."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from records.errors import Unreadable
from records.study import Study
from search.spec.config import SweepConfig
from search.study.ledger import Ledger
from search.study.store import study_of
from tests.search.conftest import fill, tiny_sweep
from tests.support.servers import NEEDS_POSTGRES, Postgres


@pytest.mark.parametrize("sampler", ["tpe", "cmaes"])  # the latter leaves notes of its own
def test_trials_are_those_that_optuna_gives(sampler: str, tmp_path: Path) -> None:
    """Pins the tables that are read: of every kind of setting, state and value."""
    space = {"lr": {"log10": [-3.5, -2.0]}, "batch_size": {"choice": [16, 32]}}
    config = SweepConfig.parse(tiny_sweep(sampler=sampler, space=space), "test")
    study = study_of(config, tmp_path)
    Ledger(config, tmp_path).close()
    assert study.frozen_trials() == []
    ledger = Ledger(config, tmp_path)
    fill(ledger, (0.25, "complete"), (0.125, "stopped"), (0.0625, "failed"), (math.inf, None), (math.nan, None))
    ledger.lost_worker(4)
    wanted = ledger.study.get_trials()
    found = study.frozen_trials()
    ledger.close()
    assert [trial.state.name for trial in wanted] == ["COMPLETE", "PRUNED", "FAIL", "RUNNING", "RUNNING"]
    assert math.isnan(found[4].intermediate_values.pop(3)) and math.isnan(wanted[4].intermediate_values.pop(3))
    assert math.isnan(found[4].intermediate_values.pop(6)) and math.isnan(wanted[4].intermediate_values.pop(6))
    assert found == wanted


@NEEDS_POSTGRES
def test_a_database_without_studies_is_refused_and_stays_empty(server: Postgres, monkeypatch: pytest.MonkeyPatch) -> None:
    import sqlalchemy

    monkeypatch.setenv("PGPASSWORD", server.password)
    with pytest.raises(Unreadable, match=r"cannot be used.*PGPASSWORD"):
        Study("near", server.url("empty"), Path("none")).entries()
    engine = sqlalchemy.create_engine(server.url("empty"))
    assert sqlalchemy.inspect(engine).get_table_names() == []
    engine.dispose()
