"""The layouts of Optuna's tables that this package reads and writes itself; any other is left to Optuna's own interface."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import Any, Final

KNOWN: Final = frozenset({("v3.2.0.a", "5")})
"""Revisions of the tables, each with the major version of the Optuna that made them: 5 stores times in UTC under the revision
that was there before. Another pair is added once `tests/contracts/test_optuna.py` passes with it."""
VERSION: Final = "SELECT version_num, library_version FROM alembic_version, version_info"


class UnknownSchema(Exception):
    """Another version of Optuna laid out the tables."""


def is_known(rows: Iterable[Sequence[Any]]) -> bool:
    """Whether the tables are laid out as this package knows them; `rows` are the result of `VERSION`."""
    return {(revision, library.partition(".")[0]) for revision, library in rows} <= KNOWN


def stored_time(local: datetime | None) -> datetime | None:
    """A moment as the tables hold it, in UTC, from one of this machine's time zone; neither names its zone."""
    return local and local.astimezone(UTC).replace(tzinfo=None)


def local_time(stored: str | datetime | None) -> datetime | None:
    """The inverse of `stored_time`; sqlite gives text."""
    if isinstance(stored, str):
        stored = datetime.fromisoformat(stored)
    return stored and stored.replace(tzinfo=UTC).astimezone().replace(tzinfo=None)
