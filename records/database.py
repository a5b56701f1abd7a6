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
    with as_unreadable(url), engine_for(url) as engine:
        yield engine


@contextmanager
def engine_for(url: str) -> Iterator[Engine]:
    """Open an engine on a study's database; faults in the context pass as they are.

    Raises:
        Unreadable: the client library is not installed.
    """
    import sqlalchemy

    check_client(url)
    engine = sqlalchemy.create_engine(url, poolclass=sqlalchemy.NullPool, connect_args=CONNECTION)
    try:
        yield engine
    finally:
        engine.dispose()


@contextmanager
def as_unreadable(url: str) -> Iterator[None]:
    """Turn every error of SQLAlchemy in the context into one line about the study's database at `url`.

    Raises:
        Unreadable: in place of it.
    """
    from sqlalchemy.exc import SQLAlchemyError

    try:
        yield
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
    """The error of SQLAlchemy in one line that names the database and the cause, without passwords."""
    cause = getattr(fault, "orig", None) or fault
    lines = [line for line in str(cause).splitlines() if line.strip()]
    # Of several attempts to connect the first line is a heading.
    reason = fault_line(next((line for line in lines if not line.endswith(":")), type(cause).__name__), url)
    if connection_lost(fault):
        return Unreadable(f"study {public(url)}: the database cannot be reached: {reason}")
    hint = " (a password may be in the URL, in PGPASSWORD or in ~/.pgpass)" if "password" in reason else ""
    return Unreadable(f"study {public(url)}: cannot be used: {reason}{hint}")


def connection_lost(fault: SQLAlchemyError) -> bool:
    """True if a database did not answer, or answers no more; False if it answered that something is wrong."""
    from sqlalchemy.exc import DBAPIError, OperationalError

    if not isinstance(fault, DBAPIError):
        return False
    # A server that refuses a connection has no code of an error there, and says so in the text alone.
    answered = getattr(fault.orig, "sqlstate", "") is not None or any(sign in str(fault.orig) for sign in ("FATAL", "password"))
    return fault.connection_invalidated or (isinstance(fault, OperationalError) and not answered)


def of_another_version(address: object, fault: RuntimeError) -> Unreadable:
    """The error of Optuna about tables whose layout it does not know, in one line that names their `address`."""
    return Unreadable(f"study {address}: {fault_line(fault, None)}")
