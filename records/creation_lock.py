"""The lock under which the tables of a new database are created, of MLflow or of a study."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Final

_PATIENCE: Final = 60  # seconds, for another process that creates the tables
_KEY: Final = 0x6762632D737765  # of the advisory lock: any number that every process has


@contextmanager
def creation_lock(url: str) -> Iterator[None]:
    """Let one process at a time create or check the tables of the database at `url`.

    Two drivers that open a new database at the same moment would both run its migrations, and leave tables that neither
    can use. The lock is a file beside an sqlite database, and an advisory lock of PostgreSQL; other databases have none.

    Raises:
        SQLAlchemyError, OSError: the database cannot be reached, or another process has had the lock for a minute.
    """
    import sqlalchemy
    from filelock import FileLock

    if not url.startswith(("sqlite:", "postgresql")):
        yield
        return
    address = sqlalchemy.make_url(url)
    if url.startswith("sqlite:"):
        in_file = address.database not in (None, "", ":memory:") and Path(str(address.database)).parent.is_dir()
        with FileLock(f"{address.database}.lock", timeout=_PATIENCE) if in_file else nullcontext():
            yield
        return
    engine = sqlalchemy.create_engine(address, poolclass=sqlalchemy.NullPool, isolation_level="AUTOCOMMIT")
    try:
        with engine.connect() as connection:
            connection.execute(sqlalchemy.text(f"SET lock_timeout = '{_PATIENCE}s'"))
            connection.execute(sqlalchemy.text("SELECT pg_advisory_lock(:key)"), {"key": _KEY})
            yield
    finally:
        engine.dispose()  # its session ends, and with it the lock
