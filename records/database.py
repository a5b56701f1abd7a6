"""A PostgreSQL database that holds the studies of any number of sweeps, by name."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final

from records.addresses import public, redacted
from records.errors import Unreadable

if TYPE_CHECKING:
    from sqlalchemy import Engine

# The server notices within a minute that the machine of a driver is gone, and gives the lock free.
CONNECTION: Final = {
    "connect_timeout": 10,
    "options": "-c tcp_keepalives_idle=30 -c tcp_keepalives_interval=10 -c tcp_keepalives_count=3",
}


@contextmanager
def connected(url: str) -> Iterator[Engine]:
    """An engine on a study's database for as long as the context lasts.

    Raises:
        Unreadable: whatever goes wrong in it, in one line.
    """
    import sqlalchemy
    from sqlalchemy.exc import SQLAlchemyError

    check_address(url)
    engine = sqlalchemy.create_engine(url, poolclass=sqlalchemy.NullPool, connect_args=CONNECTION)
    try:
        yield engine
    except SQLAlchemyError as fault:
        raise unreachable(url, fault) from None
    finally:
        engine.dispose()


def check_address(url: str) -> None:
    """Refuse an address that is none, or whose driver is not installed.

    Raises:
        Unreadable: in either case.
    """
    import sqlalchemy
    from sqlalchemy.exc import ArgumentError

    try:
        import psycopg  # noqa: F401
    except ImportError:
        raise Unreadable(f"study {public(url)}: needs psycopg; pip install 'psycopg[binary]'") from None
    try:
        sqlalchemy.make_url(url)
    except (ArgumentError, ValueError):
        raise Unreadable(f"study {public(url)}: must be postgresql://USER@HOST:PORT/DATABASE") from None


def unreachable(url: str, fault: Any) -> Unreadable:
    """The error of SQLAlchemy in one line that names the database, without passwords."""
    why = redacted(getattr(fault, "orig", None) or fault, url)
    return Unreadable(
        f"study {public(url)}: cannot be used: {why} (a password may be in the URL, in PGPASSWORD or in ~/.pgpass)"
    )
