"""Addresses of files in MLflow's store, and how they follow a project folder that was moved, renamed or copied.

MLflow makes every address of artifacts absolute when it stores it, relative ones too. So a store that went elsewhere with its
folder still names the old place: its pictures are not found, and new files would go there.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final
from urllib.parse import unquote, urlsplit

from records.addresses import public, sqlite_url
from records.mlflow_store import missing, usable
from search.spec.faults import readable
from search.tracking.client import artifact_root, with_timeout

if TYPE_CHECKING:
    from sqlalchemy import Connection

_COLUMNS: Final = (
    ("experiments", "artifact_location"),
    ("runs", "artifact_uri"),
    ("logged_models", "artifact_location"),
    ("model_versions", "source"),
    ("model_versions", "storage_location"),
)
_ADDRESS: Final = re.compile(r"(file://.*/artifacts)/(gbc-[^/]+.*)")


@readable()
def moved(uri: str) -> str | None:
    """Say in one line that the files of the store lie elsewhere than it says, in this folder; None when they do not.

    Raises:
        BadInput: the store cannot be read.
    """
    if uri.startswith("http") or missing(uri):  # a server keeps its files itself
        return None
    with usable(uri), _connection(uri) as connection:
        roots = _left(connection, uri)
    if not roots:
        return None
    old = ", ".join(sorted(_path(root) for root in roots))
    return f"MLflow's store {public(uri)} names its files in {old}; they are in {_path(artifact_root())} now"


@readable()
def relocate(uri: str) -> None:
    """Make the store name its files where they are now, in this folder, in one transaction.

    Raises:
        BadInput: the store cannot be written.
    """
    from sqlalchemy import String, column, func, literal, table, update

    with usable(uri), _connection(uri) as connection:
        for root in _left(connection, uri):
            for name, key in _COLUMNS:
                address = column(key, String)
                rest = func.substr(address, len(root) + 1)
                connection.execute(
                    update(table(name, address))
                    .where(func.substr(address, 1, len(root) + 1) == f"{root}/")
                    .values({key: literal(artifact_root()).concat(rest)})
                )


def _left(connection: Connection, uri: str) -> set[str]:
    """The folders that the store names and that its files have left: for this one, or without a trace.

    A store may serve several folders. It tells of a move that a run's files are in this one, or, where the store itself lies
    in this one, that the old one is no more.
    """
    from sqlalchemy import inspect, text

    if not inspect(connection).has_table(_COLUMNS[0][0]):  # a server's database that no driver has used yet
        return set()
    here, roots, beside = artifact_root(), dict[str, bool](), uri == sqlite_url(Path("mlflow.db").resolve())
    for table, column in _COLUMNS:
        for (value,) in connection.execute(text(f"SELECT {column} FROM {table} WHERE {column} LIKE 'file://%'")):
            match = _ADDRESS.fullmatch(value)
            if match is None or match[1] == here or roots.get(match[1]):
                continue
            own = table != "experiments" and Path(_path(here), unquote(match[2])).exists()
            roots[match[1]] = own or (beside and not Path(_path(match[1])).exists())
    return {root for root, gone in roots.items() if gone}


@contextmanager
def _connection(uri: str) -> Iterator[Connection]:
    """Open a transaction on the store's database."""
    import sqlalchemy

    engine = sqlalchemy.create_engine(with_timeout(uri), poolclass=sqlalchemy.NullPool)
    try:
        with engine.begin() as connection:
            yield connection
    finally:
        engine.dispose()


def _path(root: str) -> str:
    """The path in a `file:` address."""
    return unquote(urlsplit(root).path)
