"""Trained classifiers in the storage that nodes share: the driver puts them there, and a node fetches each once."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from gbc.classifiers.pretrain import Elsewhere
from gbc.errors import BadInput
from search.files import storage
from search.files.storage import Location

_FOLDER: Final = ".classifiers"
_COMPLETE: Final = "complete"


def storage_source(url: str) -> Elsewhere:
    """The classifiers in a storage, as a second cache for `gbc.training.tasks.obtain`.

    Raises:
        BadInput: the storage cannot be used; so does what is returned.
    """
    root = storage.open_storage(url)
    return lambda name: download(root, name)


def node_cache() -> Path:
    """The folder in which a node of a cluster keeps the classifiers it fetched, for all its workers and all sweeps."""
    return Path(tempfile.gettempdir()) / f"gbc-classifiers-{os.getuid()}"


def download(root: Location, name: str) -> Mapping[str, bytes] | None:
    """The files of a classifier that the driver put into the storage; None when it is not there.

    Raises:
        BadInput: the storage cannot be read.
    """
    try:
        files = {path.name: path.read_bytes() for path, _ in storage.list_files(root / _FOLDER / name)}
    except OSError as fault:
        raise BadInput(f"{root}: cannot be read: {fault.strerror or fault}") from None
    return files if _COMPLETE in files else None


def upload(root: Location, folder: Path) -> None:
    """Put a classifier of this machine's cache into the storage, unless it is there.

    Raises:
        BadInput: the storage cannot be written.
    """
    there = root / _FOLDER / folder.name
    try:
        if (there / _COMPLETE).exists():
            return
        for path in sorted(folder.iterdir()):
            storage.write(there / path.name, path.read_bytes())
    except OSError as fault:
        raise BadInput(f"{there}: cannot be written: {fault.strerror or fault}") from None
    storage.write(there / _COMPLETE, b"")  # last: a reader that finds it finds the others
