"""The store of a study: a file in the sweep's folder, or a PostgreSQL database that several hosts can reach.

Here it is opened for the driver, read for those who only look, and kept to one driver at a time. A database holds the studies
of any number of sweeps, by name, and with each the settings it was started with: a host that has no folder of the sweep yet
finds them there.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from gbc.errors import BadInput, CorruptFile
from records.addresses import public, sqlite_url
from records.creation_lock import creation_lock
from records.database import (
    CONNECTION,
    as_unreadable,
    check_client,
    connected,
    engine_for,
    of_another_version,
    study_through_optuna,
    unusable_database,
)
from records.paths import STUDY_FILE
from records.study import SETTINGS, Study
from records.trial import TrialRecord
from search.files.lock import UNKNOWN_DRIVER, Driver, already_running, current_driver, driver_lock, this_process
from search.files.new_database import new_database
from search.spec import faults
from search.spec.config import SweepConfig

if TYPE_CHECKING:
    import optuna

_DRIVER: Final = "driver"
_LOCK_IS_HELD: Final = (
    "SELECT 1 FROM pg_locks WHERE locktype = 'advisory' AND granted AND objsubid = 1 AND classid = :high AND objid = :low "
    "AND database = (SELECT oid FROM pg_database WHERE datname = current_database())"
)


@faults.readable()
def open_study(config: SweepConfig, folder: Path) -> tuple[optuna.Study, optuna.storages.RDBStorage]:
    """Open the study of a sweep, or create it, and return it with its storage. For the driver alone.

    Raises:
        CorruptFile: the study's file is damaged.
        BadInput: it cannot be written, or the database cannot be reached.
    """
    import optuna

    with _storage(config, folder) as storage:
        study = optuna.create_study(
            study_name=config.name,
            storage=storage,
            directions=[f"{objective.direction}imize" for objective in config.objectives],
            load_if_exists=True,
        )
        if study.user_attrs.get(SETTINGS) != config.record():
            study.set_user_attr(SETTINGS, config.record())
        return study, storage


@faults.readable()
def set_study_attribute(config: SweepConfig, folder: Path, key: str, value: Any) -> None:
    """Set an attribute of a study that exists, also while a driver runs the sweep; raises as `open_study`."""
    from optuna.exceptions import StorageInternalError

    with _storage(config, folder) as storage:
        try:
            storage.set_study_user_attr(storage.get_study_id_from_name(config.name), key, value)
        except StorageInternalError as fault:
            raise (fault.__cause__ or fault) from None
        finally:
            storage.remove_session()
            storage.engine.dispose()


@contextmanager
def _storage(config: SweepConfig, folder: Path) -> Iterator[optuna.storages.RDBStorage]:
    """Open the storage of a sweep's study; raises as `open_study` for whatever goes wrong in the context."""
    import optuna
    from sqlalchemy.exc import DatabaseError, OperationalError

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    url, path = config.places.study_url, folder / STUDY_FILE
    try:
        yield _in_database(url) if url else _in_file(path)
    except RuntimeError as fault:  # so Optuna says that it does not know the layout of the tables
        raise of_another_version(public(url) if url else path, fault) from None
    except OperationalError as fault:
        raise (unusable_database(url, fault) if url else BadInput(f"{path}: cannot be opened: {fault.orig}")) from None
    except DatabaseError as fault:
        if url:
            raise unusable_database(url, fault) from None
        raise CorruptFile(f"{path}: damaged ({fault.orig}); restore it, or choose another --name") from None
    except OSError as fault:
        raise BadInput(f"{path}: cannot be opened: {fault.strerror}") from None


def _in_file(path: Path) -> optuna.storages.RDBStorage:
    import optuna
    import sqlalchemy

    def prepare(connection: Any, _: object) -> None:
        # Readers never wait for the driver; a commit survives kill -9 (only a power cut can lose the last ones).
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA synchronous=NORMAL")

    if not path.exists():
        with new_database(path) as draft:
            optuna.storages.RDBStorage(sqlite_url(draft)).engine.dispose()
    storage = optuna.storages.RDBStorage(sqlite_url(path), engine_kwargs={"connect_args": {"timeout": faults.PATIENCE}})
    sqlalchemy.event.listen(storage.engine, "connect", prepare)
    storage.engine.dispose()  # the connections made before that
    return storage


def _in_database(url: str) -> optuna.storages.RDBStorage:
    import optuna

    check_client(url)
    with creation_lock(url):
        return optuna.storages.RDBStorage(url, engine_kwargs={"pool_pre_ping": True, "connect_args": CONNECTION})


@contextmanager
def exclusive_driver(config: SweepConfig, folder: Path) -> Iterator[None]:
    """Hold the sweep against other drivers: in its folder, and where the study is in a database, there too.

    The lock in the database is one of the session: it is free by itself when the driver is no more.

    Raises:
        BadInput: another driver holds it, the folder cannot be written, or the database cannot be reached.
    """
    url = config.places.study_url
    with driver_lock(folder), ExitStack() as session:
        if url is not None:
            with (
                faults.readable(),
                as_unreadable(url),
            ):  # not what goes wrong while the lock is held: that may be of other records
                connection = session.enter_context(session.enter_context(engine_for(url)).connect())
                if not connection.execute(_text("SELECT pg_try_advisory_lock(:key)"), {"key": _lock_key(config.name)}).scalar():
                    raise already_running(config.name, _noted_driver(url, config.name))
                connection.commit()
        yield


@faults.readable()
def recorded_trials(config: SweepConfig, folder: Path) -> tuple[list[TrialRecord], float]:
    """Return every trial of a sweep, by number, and the seconds spent, at one consistent moment.

    Raises:
        CorruptFile: the study's file is damaged.
        BadInput: the database cannot be reached.
    """
    return study_of(config, folder).trials()


def study_of(config: SweepConfig, folder: Path) -> Study:
    """The study of a sweep, for reading."""
    return Study(config.name, config.places.study_url, folder / STUDY_FILE)


def note_driver(study: optuna.Study) -> None:
    """Write into the study which driver runs it, for other hosts to read."""
    study.set_user_attr(_DRIVER, asdict(this_process()))


def running_driver(config: SweepConfig, folder: Path) -> Driver | None:
    """Return the driver that runs the sweep now, without disturbing it; None when there is none.

    Raises:
        BadInput: the study is in a database, and that cannot be reached.
    """
    driver, url = current_driver(folder), config.places.study_url
    if driver or url is None:
        return driver
    key = _lock_key(config.name) % 2**64
    with faults.readable(), connected(url) as engine, engine.connect() as connection:
        if not connection.execute(_text(_LOCK_IS_HELD), {"high": key >> 32, "low": key % 2**32}).scalar():
            return None
        return _noted_driver(url, config.name) or UNKNOWN_DRIVER


def recorded_in_database(config: SweepConfig) -> SweepConfig | None:
    """Return the settings with which the sweep of this name was started in the study's database; None when it was not.

    Raises:
        BadInput: it cannot be reached, or holds a study of this name that is no sweep's.
    """
    url = config.places.study_url
    assert url is not None
    attributes = _attributes(url, config.name)
    if attributes is None:
        return None
    if SETTINGS not in attributes:
        raise BadInput(f"--study-url {public(url)}: has a study {config.name!r} that is no sweep's; choose another --name")
    return SweepConfig.parse(attributes[SETTINGS], f"study {config.name!r} in {public(url)}")


@faults.readable()
def _attributes(url: str, name: str) -> dict[str, Any] | None:
    """Return the user attributes of the study of this name; None when there is none in this database."""
    with connected(url) as engine, engine.connect() as connection:
        if connection.execute(_text("SELECT to_regclass('studies')")).scalar() is None:
            return None
    try:
        with study_through_optuna(url, name) as study:
            return dict(study.user_attrs)
    except KeyError:
        return None


def _noted_driver(url: str, name: str) -> Driver | None:
    return Driver.from_note((_attributes(url, name) or {}).get(_DRIVER, {}))


def _lock_key(name: str) -> int:
    """Return the key of the advisory lock, a signed number of 64 bits."""
    return int.from_bytes(hashlib.sha256(f"gbc-search sweep {name}".encode()).digest()[:8], "big", signed=True)


def _text(query: str) -> Any:
    import sqlalchemy

    return sqlalchemy.text(query)
