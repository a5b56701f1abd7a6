"""A study in PostgreSQL: read, and nothing else."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from dashboards import study
from dashboards.errors import BadInput
from dashboards.place import Record
from tests.support.servers import NEEDS_POSTGRES, Postgres

pytestmark = NEEDS_POSTGRES


def record(url: str, name: str = "far") -> Record:
    return Record(name, {"places": {"study_url": url}}, "")


def test_it_is_read_and_nothing_is_written(server: Postgres, monkeypatch: pytest.MonkeyPatch) -> None:
    import optuna
    import sqlalchemy

    monkeypatch.setenv("PGPASSWORD", server.password)
    stored = optuna.create_study(study_name="far", storage=server.url("studies"), direction="maximize")

    def objective(trial: Any) -> float:
        return float(trial.suggest_float("x", 0, 1))

    stored.optimize(objective, n_trials=3)
    stored.set_user_attr("seconds", 12.5)
    found = study.read(record(server.url("studies")))
    assert found.seconds == 12.5
    assert [trial.value for trial in found.study.trials] == [trial.value for trial in stored.trials]
    with pytest.raises(BadInput, match="it holds no study of this name"):
        study.read(record(server.url("studies"), "near"))
    with pytest.raises(BadInput, match=r"cannot be read.*PGPASSWORD"):
        study.read(record(server.url("empty")))
    engine = sqlalchemy.create_engine(server.url("empty"))
    assert sqlalchemy.inspect(engine).get_table_names() == []
    engine.dispose()


def test_a_password_stays_secret(server: Postgres, tmp_path: Path) -> None:
    url = server.url("studies").replace("sweeper@", "sweeper:wrong-secret@")
    with pytest.raises(BadInput) as fault:
        study.read(record(url))
    assert "wrong-secret" not in str(fault.value) and "\n" not in str(fault.value)
