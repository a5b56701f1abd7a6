"""Studies that cannot be read."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from records import study
from records.errors import Damaged, Unreadable
from records.paths import STUDY_FILE
from records.study import Study
from search.spec.config import SweepConfig
from search.study.ledger import Ledger
from tests.search.conftest import tiny_sweep
from tests.support.servers import NEEDS_POSTGRES, Postgres


def test_a_study_that_is_locked_is_not_called_damaged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A message that says "damaged" would lead a user to restore an old copy of a whole study, and to lose trials."""
    monkeypatch.setattr(study, "_PATIENCE", 0.1)
    Ledger(SweepConfig.parse(tiny_sweep(), "test"), tmp_path).close()
    path = tmp_path / STUDY_FILE
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("PRAGMA locking_mode=EXCLUSIVE")
        other.execute("PRAGMA journal_mode=WAL")
        other.execute("BEGIN EXCLUSIVE")
        with pytest.raises(Unreadable, match=r"study\.db: cannot be read: .*locked") as caught:
            Study("tiny", None, path).trials()
    assert not isinstance(caught.value, Damaged)


@NEEDS_POSTGRES[0]
@NEEDS_POSTGRES[1]
def test_a_database_in_which_no_sweep_has_begun_has_no_trials_and_stays_empty(
    server: Postgres, monkeypatch: pytest.MonkeyPatch
) -> None:
    import sqlalchemy

    monkeypatch.setenv("PGPASSWORD", server.password)
    study_in_database = Study("near", server.url("empty"), Path("none"))
    assert (study_in_database.trials(), study_in_database.attributes()) == (([], 0.0), {})
    engine = sqlalchemy.create_engine(server.url("empty"))
    assert sqlalchemy.inspect(engine).get_table_names() == []
    engine.dispose()
