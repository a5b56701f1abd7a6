"""Stores that tests lay down: new ones of MLflow, made once in a process, and a sweep of an earlier version of this program."""

from __future__ import annotations

import functools
import sqlite3
import tarfile
import tempfile
from contextlib import closing, suppress
from pathlib import Path
from typing import Final

_EARLIER: Final = Path(__file__).parents[1] / "search" / "recorded" / "interrupted-099d38d.tar.xz"


def never_wait_for_the_disk() -> None:
    """Leave out `fsync` in each SQLite database that SQLAlchemy opens, here and in forks: no test cuts the power."""
    import sqlalchemy.event

    @sqlalchemy.event.listens_for(sqlalchemy.Engine, "connect")
    def leave_out_fsync(connection: object, _: object) -> None:
        if isinstance(connection, sqlite3.Connection):
            with suppress(sqlite3.DatabaseError):  # a damaged file fails at the first query, as it does for users
                connection.execute("PRAGMA synchronous=OFF")


@functools.cache
def _new_store() -> bytes:
    """A database with MLflow's tables and no run, as MLflow makes it where there is none; that takes it two seconds."""
    from mlflow import MlflowClient

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "mlflow.db")
        MlflowClient(f"sqlite:///{path}").search_experiments()
        return path.read_bytes()


def lay_down_store(folder: Path) -> None:
    """Put a new store where a sweep in `folder` looks for it. Nothing in it names a place, so that a copy is as good."""
    (folder / "mlflow.db").write_bytes(_new_store())


def lay_down_earlier_sweep(folder: Path) -> None:
    """Put the sweep `before` into the folder, as commit 099d38d left it when its driver and Ray were killed.

    The archive has the folder of a sweep on the digits with trial 2 open (one trial at a time, no pictures), its MLflow store
    as SQL, with `{folder}` for the folder, and `unbroken.json`, the trials of the same sweep when nothing interrupts it.
    """
    with tarfile.open(_EARLIER) as archive:
        archive.extractall(folder, filter="data")
    lay_down_store(folder)
    with closing(sqlite3.connect(folder / "mlflow.db")) as store:
        store.executescript((folder / "mlflow.sql").read_text().replace("{folder}", str(folder)))
