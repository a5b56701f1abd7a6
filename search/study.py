"""Where the study is: a file in the sweep's folder, or a PostgreSQL database that several hosts can reach.

Here it is opened for the driver, read for those who only look, and kept to one driver at a time. A database holds the studies
of any number of sweeps, by name, and with each the settings it was started with: a host that has no folder of the sweep yet
finds them there.
"""

from __future__ import annotations

import hashlib
import json
import math
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import asdict
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import quote

from gbc.errors import BadInput, CorruptFile
from search import faults
from search.config import SweepConfig
from search.entry import Entry, entry_of, seconds_of
from search.folder import STUDY_FILE
from search.lock import UNKNOWN, Driver, driver_of, me, only_driver, refusal
from search.places import public, told

if TYPE_CHECKING:
    import optuna
    from sqlalchemy import Engine

_RECORD: Final = "sweep"
_DRIVER: Final = "driver"
_NOT_FINITE: Final = {"NAN": math.nan, "INF_POS": math.inf, "INF_NEG": -math.inf}
_NAMED: Final = "study_id = (SELECT study_id FROM studies WHERE study_name = :name)"
_ATTRIBUTES: Final = f"SELECT key, value_json FROM study_user_attributes WHERE {_NAMED}"
_HELD: Final = (
    "SELECT 1 FROM pg_locks WHERE locktype = 'advisory' AND granted AND objsubid = 1 AND classid = :high AND objid = :low "
    "AND database = (SELECT oid FROM pg_database WHERE datname = current_database())"
)


def open_study(config: SweepConfig, folder: Path) -> tuple[optuna.Study, optuna.storages.RDBStorage]:
    """The study of a sweep, created when there is none, and the storage it is in. For the driver alone.

    Raises:
        CorruptFile: the study's file is damaged.
        BadInput: it cannot be written, or the database cannot be reached.
    """
    import optuna
    from sqlalchemy.exc import DatabaseError, OperationalError

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    url, path = config.places.study_url, folder / STUDY_FILE
    try:
        storage = _in_database(url) if url else _in_file(path)
        study = optuna.create_study(
            study_name=config.name,
            storage=storage,
            directions=[f"{objective.direction}imize" for objective in config.objectives],
            load_if_exists=True,
        )
        if url and _RECORD not in study.user_attrs:
            study.set_user_attr(_RECORD, config.record())
    except OperationalError as fault:
        raise (_unreachable(url, fault) if url else BadInput(f"{path}: cannot be opened: {fault.orig}")) from None
    except DatabaseError as fault:
        if url:
            raise _unreachable(url, fault) from None
        raise CorruptFile(f"{path}: damaged ({fault.orig}); restore it, or choose another --name") from None
    return study, storage


def _in_file(path: Path) -> optuna.storages.RDBStorage:
    import optuna
    import sqlalchemy

    def prepare(connection: Any, _: object) -> None:
        # Readers never wait for the driver; a commit survives kill -9 (only a power cut can lose the last ones).
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA synchronous=NORMAL")

    storage = optuna.storages.RDBStorage(f"sqlite:///{path}", engine_kwargs={"connect_args": {"timeout": faults.PATIENCE}})
    sqlalchemy.event.listen(storage.engine, "connect", prepare)
    storage.engine.dispose()  # the connections made before that
    return storage


def _in_database(url: str) -> optuna.storages.RDBStorage:
    import optuna

    _driver_of_postgres(url)
    return optuna.storages.RDBStorage(url, engine_kwargs={"pool_pre_ping": True, "connect_args": _CONNECT})


# The server notices within a minute that the machine of a driver is gone, and gives the lock free.
_CONNECT: Final = {
    "connect_timeout": 10,
    "options": "-c tcp_keepalives_idle=30 -c tcp_keepalives_interval=10 -c tcp_keepalives_count=3",
}


@contextmanager
def one_driver(config: SweepConfig, folder: Path) -> Iterator[None]:
    """Hold the sweep against other drivers: in its folder, and where the study is in a database, there too.

    The lock in the database is one of the session: it is free by itself when the driver is no more.

    Raises:
        BadInput: another driver holds it, the folder cannot be written, or the database cannot be reached.
    """
    url = config.places.study_url
    with only_driver(folder):
        if url is None:
            yield
            return
        with _connected(url) as engine, engine.connect() as connection:
            if not connection.execute(_text("SELECT pg_try_advisory_lock(:key)"), {"key": _key(config.name)}).scalar():
                raise refusal(config.name, _noted(connection, config.name))
            connection.commit()
            yield


def note_driver(study: optuna.Study) -> None:
    """Say in the study who runs it, for those who ask from other hosts."""
    study.set_user_attr(_DRIVER, asdict(me()))


def running_driver(config: SweepConfig, folder: Path) -> Driver | None:
    """Who runs the sweep right now, without getting in its way; None when nobody does.

    Raises:
        BadInput: the study is in a database, and that cannot be reached.
    """
    found, url = driver_of(folder), config.places.study_url
    if found or url is None:
        return found
    key = _key(config.name) % 2**64
    with _connected(url) as engine, engine.connect() as connection:
        if not connection.execute(_text(_HELD), {"high": key >> 32, "low": key % 2**32}).scalar():
            return None
        return _noted(connection, config.name) or UNKNOWN


def recorded_in_database(config: SweepConfig) -> SweepConfig | None:
    """The settings with which the sweep of this name was started in the study's database; None when it was not.

    Raises:
        BadInput: it cannot be reached, or holds a study of this name that is no sweep's.
    """
    url = config.places.study_url
    assert url is not None
    with _connected(url) as engine, engine.connect() as connection:
        attributes = _attributes(connection, config.name)
        if attributes is None:
            return None
    if _RECORD not in attributes:
        raise BadInput(f"--study-url {public(url)}: has a study {config.name!r} that is no sweep's; choose another --name")
    return SweepConfig.parse(attributes[_RECORD], f"study {config.name!r} in {public(url)}")


def recorded_trials(config: SweepConfig, folder: Path) -> tuple[list[Entry], float]:
    """Every trial of a sweep, by number, and the seconds spent: one consistent moment of it. Writes nothing.

    Raises:
        CorruptFile: the study's file is damaged.
        BadInput: the database cannot be reached.
    """
    if config.places.study_url:
        return _entries(_database_tables(config.places.study_url, config.name))
    return read_study(folder / STUDY_FILE)


def read_study(path: Path) -> tuple[list[Entry], float]:
    """The same of the study in this file, of which there is one.

    The file is read as what it is: Optuna's own storage would open it for writing, and takes longer to import than all of
    this takes to run. `tests/search/test_overview.py` compares with what Optuna says.

    Raises:
        CorruptFile: it is no study.
    """
    try:
        try:
            return _entries(_file_tables(path))
        except sqlite3.DatabaseError:  # a driver may have started to write at this very moment
            return _entries(_file_tables(path))
    except sqlite3.DatabaseError as fault:
        raise CorruptFile(f"{path}: damaged ({fault}); restore it, or choose another --name") from None


def _entries(tables: Sequence[Sequence[Sequence[Any]]]) -> tuple[list[Entry], float]:
    trials, params, values, notes, shared = tables
    by_trial: dict[int, tuple[dict[str, Any], dict[int, float], dict[str, Any]]] = {row[0]: ({}, {}, {}) for row in trials}
    for trial, name, value, distribution in params:
        by_trial[trial][0][name] = _external(value, distribution)
    for trial, step, value, kind in values:
        by_trial[trial][1][step] = _NOT_FINITE.get(kind, value)
    for trial, key, text in notes:
        by_trial[trial][2][key] = json.loads(text)
    entries = [
        entry_of(number, state, datetime.fromisoformat(ended) if isinstance(ended, str) else ended, *by_trial[trial])
        for trial, number, state, ended in trials
    ]
    return entries, seconds_of({key: json.loads(text) for key, text in shared})


def _file_tables(path: Path) -> list[list[tuple[Any, ...]]]:
    # Without a write-ahead log nobody has the file open, and it is read without creating one.
    mode = "mode=ro" if path.with_name(f"{path.name}-wal").exists() else "mode=ro&immutable=1"
    address = f"file:{quote(str(path.resolve()))}?{mode}"
    with closing(sqlite3.connect(address, uri=True, timeout=5, isolation_level=None)) as study:
        study.execute("BEGIN")
        return [study.execute(query).fetchall() for query in _queries("1 = 1")]


def _database_tables(url: str, name: str) -> list[Sequence[Any]]:
    with _connected(url) as engine, engine.connect() as connection:
        connection.execute(_text("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY"))
        return [connection.execute(_text(query), {"name": name}).all() for query in _queries(_NAMED)]


def _queries(which: str) -> tuple[str, ...]:
    """All that is read of the studies that the condition `which` holds for."""
    trials = f"SELECT trial_id FROM trials WHERE {which}"
    return (
        f"SELECT trial_id, number, state, datetime_complete FROM trials WHERE {which} ORDER BY number",
        "SELECT trial_id, param_name, param_value, distribution_json FROM trial_params "
        f"WHERE trial_id IN ({trials}) ORDER BY trial_id, param_id",
        "SELECT trial_id, step, intermediate_value, intermediate_value_type FROM trial_intermediate_values "
        f"WHERE trial_id IN ({trials})",
        f"SELECT trial_id, key, value_json FROM trial_user_attributes WHERE trial_id IN ({trials})",
        f"SELECT key, value_json FROM study_user_attributes WHERE {which}",
    )


def _external(value: float, distribution: str) -> Any:
    """A parameter as it was sampled: Optuna stores choices by index."""
    kind = json.loads(distribution)
    if kind["name"] == "CategoricalDistribution":
        return kind["attributes"]["choices"][int(value)]
    return int(value) if kind["name"] == "IntDistribution" else value


@contextmanager
def _connected(url: str) -> Iterator[Engine]:
    """An engine for as long as the context lasts; what goes wrong in it is one line."""
    import sqlalchemy
    from sqlalchemy.exc import SQLAlchemyError

    _driver_of_postgres(url)
    engine = sqlalchemy.create_engine(url, poolclass=sqlalchemy.NullPool, connect_args=_CONNECT)
    try:
        yield engine
    except SQLAlchemyError as fault:
        raise _unreachable(url, fault) from None
    finally:
        engine.dispose()


def _driver_of_postgres(url: str) -> None:
    import sqlalchemy
    from sqlalchemy.exc import ArgumentError

    try:
        import psycopg  # noqa: F401
    except ImportError:
        raise BadInput(f"--study-url {public(url)}: needs psycopg; pip install 'psycopg[binary]'") from None
    try:
        sqlalchemy.make_url(url)
    except (ArgumentError, ValueError):
        raise BadInput(f"--study-url {public(url)}: must be postgresql://USER@HOST:PORT/DATABASE") from None


def _attributes(connection: Any, name: str) -> dict[str, Any] | None:
    """Of the study of this name; None when there is none, or no study at all in this database."""
    if connection.execute(_text("SELECT to_regclass('study_user_attributes')")).scalar() is None:
        return None
    if connection.execute(_text("SELECT 1 FROM studies WHERE study_name = :name"), {"name": name}).scalar() is None:
        return None
    return {key: json.loads(text) for key, text in connection.execute(_text(_ATTRIBUTES), {"name": name})}


def _noted(connection: Any, name: str) -> Driver | None:
    return Driver.of((_attributes(connection, name) or {}).get(_DRIVER, {}))


def _unreachable(url: str, fault: Any) -> BadInput:
    reason = told(getattr(fault, "orig", None) or fault, url)
    return BadInput(
        f"--study-url {public(url)}: cannot be used: {reason} (a password may be in the URL, in PGPASSWORD or in ~/.pgpass)"
    )


def _key(name: str) -> int:
    """Of the advisory lock, a signed number of 64 bits."""
    return int.from_bytes(hashlib.sha256(f"gbc-search sweep {name}".encode()).digest()[:8], "big", signed=True)


def _text(query: str) -> Any:
    import sqlalchemy

    return sqlalchemy.text(query)
