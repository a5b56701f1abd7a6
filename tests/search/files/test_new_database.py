"""A start that is interrupted while the tables of a database are created leaves nothing that keeps the next one from it."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import sqlalchemy.event

from search.files.new_database import new_database
from search.spec.config import SweepConfig
from search.study.ledger import Ledger
from search.study.recorded_settings import check_study
from search.tracking.tracker import Tracker


@contextmanager
def interrupted_at_table(number: int) -> Iterator[None]:
    """Interrupt as Ctrl-C does, when so many tables of a database have been created."""
    created = 0

    def count(connection: object, cursor: object, statement: str, *_: object) -> None:
        nonlocal created
        created += statement.lstrip().startswith("CREATE TABLE")
        if created == number:
            raise KeyboardInterrupt

    sqlalchemy.event.listen(sqlalchemy.Engine, "before_cursor_execute", count)
    try:
        with pytest.raises(KeyboardInterrupt):
            yield
    finally:
        sqlalchemy.event.remove(sqlalchemy.Engine, "before_cursor_execute", count)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    return tmp_path


def test_a_study_whose_creation_was_interrupted_is_created_by_the_next_start(folder: Path, config: SweepConfig) -> None:
    with interrupted_at_table(5):
        Ledger(config, folder)
    assert list(folder.iterdir()) == []
    check_study(config, folder)
    ledger = Ledger(config, folder)
    assert ledger.ask().number == 0
    ledger.close()


@pytest.mark.long
def test_a_store_whose_creation_was_interrupted_is_created_by_the_next_start(folder: Path, config: SweepConfig) -> None:
    (folder / "mlflow.db.new-0").mkdir()  # as a process leaves it that was killed in an earlier attempt
    with interrupted_at_table(20):
        Tracker(config, {})
    assert [path.name for path in folder.iterdir() if path.name != "mlflow.db.lock"] == []
    tracker = Tracker(config, {})
    tracker.open_trial(0, {"lr": 0.1})
    assert tracker.numbers() == {0}


@pytest.mark.parametrize("name", ["study.db", "a [b] %c.db"])
def test_a_database_is_there_when_it_is_whole(folder: Path, name: str) -> None:
    with new_database(folder / name) as draft:
        sqlite3.connect(draft).execute("CREATE TABLE t (x)")
        assert not (folder / name).exists()
    assert [path.name for path in folder.iterdir()] == [name]
    assert sqlite3.connect(folder / name).execute("SELECT name FROM sqlite_master").fetchall() == [("t",)]
