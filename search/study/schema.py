"""The layouts of Optuna's tables that this package reads and writes itself; any other is left to Optuna's own interface."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Final

KNOWN: Final = frozenset({"v3.2.0.a"})
"""Alembic's revisions: that of Optuna 3.2 to 5.0. A new one is added once `tests/contracts/test_optuna.py` passes with it."""
VERSION: Final = "SELECT version_num FROM alembic_version"


class UnknownSchema(Exception):
    """Another version of Optuna laid out the tables."""


def is_known(rows: Iterable[Sequence[Any]]) -> bool:
    """Whether the tables are laid out as this package knows them; `rows` are the result of `VERSION`."""
    return {row[0] for row in rows} <= KNOWN
