"""The database of a study: PostgreSQL, which holds the studies of any number of sweeps by name; and any through Optuna."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

from records.addresses import fault_line, public
from records.errors import Unreadable

if TYPE_CHECKING:
    import optuna
    from sqlalchemy import Engine
    from sqlalchemy.exc import SQLAlchemyError

# The server notices within a minute that the machine of a driver is gone, and gives the lock free.
CONNECTION: Final = {
    "connect_timeout": 10,
    "options": "-c tcp_keepalives_idle=30 -c tcp_keepalives_interval=10 -c tcp_keepalives_count=3",
}


@contextmanager
def connected(url: str) -> Iterator[Engine]:
    """Open an engine on a study's database for as long as the context lasts.

    Raises:
        Unreadable: whatever goes wrong in it, in one line.
    """
    import sqlalchemy
    from sqlalchemy.exc import SQLAlchemyError

    check_client(url)
    try:
        engine = sqlalchemy.create_engine(url, poolclass=sqlalchemy.NullPool, connect_args=CONNECTION)
        try:
            yield engine
        finally:
            engine.dispose()
    except SQLAlchemyError as fault:
        raise unusable_database(url, fault) from None


@contextmanager
def study_through_optuna(url: str, name: str | None) -> Iterator[optuna.Study]:
    """Open the study `name` at `url`, or the only one there, through Optuna's interface; no table is created.

    Raises:
        Unreadable: the database cannot be used, or Optuna does not know the layout of its tables.
        KeyError: it holds no study of this name.
    """
    import optuna
    from sqlalchemy.exc import SQLAlchemyError

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    on_server = not url.startswith("sqlite")
    connect = CONNECTION | {"options": f"{CONNECTION['options']} -c default_transaction_read_only=on"} if on_server else {}
    try:
        try:
            storage = optuna.storages.RDBStorage(url, engine_kwargs={"connect_args": connect}, skip_table_creation=True)
        except RuntimeError as fault:  # so Optuna says that it does not know the layout of the tables
            raise of_another_version(public(url), fault) from None
        try:
            yield optuna.load_study(study_name=name, storage=storage)
        finally:
            storage.remove_session()
            storage.engine.dispose()
    except SQLAlchemyError as fault:
        if on_server:
            raise unusable_database(url, fault) from None
        raise Unreadable(f"study {url}: cannot be read: {fault_line(fault, None)}") from None


def check_client(url: str) -> None:
    """Refuse a database for which the client library is not installed.

    Raises:
        Unreadable: it is not.
    """
    try:
        import psycopg  # noqa: F401
    except ImportError:
        raise Unreadable(f"study {public(url)}: needs psycopg; pip install 'psycopg[binary]'") from None


def unusable_database(url: str, fault: SQLAlchemyError) -> Unreadable:
    """The error of SQLAlchemy in one line that names the database, without passwords."""
    reason = fault_line(getattr(fault, "orig", None) or fault, url)
    return Unreadable(
        f"study {public(url)}: cannot be used: {reason} (a password may be in the URL, in PGPASSWORD or in ~/.pgpass)"
    )


def of_another_version(where: object, fault: RuntimeError) -> Unreadable:
    """The error of Optuna about tables whose layout it does not know, in one line that says where they are."""
    return Unreadable(f"study {where}: {fault_line(fault, None)}")
