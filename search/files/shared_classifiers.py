"""Trained classifiers in the storage that nodes share: the driver puts them there, and a node fetches each once."""

from __future__ import annotations

import contextlib
import os
import stat
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from gbc.classifiers.pretrain import OtherCache
from gbc.errors import BadInput
from search.files import storage
from search.files.storage import Location

_FOLDER: Final = ".classifiers"
_COMPLETE: Final = "complete"


def storage_source(url: str) -> OtherCache:
    """The classifiers in a storage, as a second cache for `gbc.training.tasks.obtain`.

    Raises:
        BadInput: the storage cannot be used; so does what is returned.
    """
    root = storage.open_storage(url)
    return lambda name: download(root, name)


def node_cache() -> Path:
    """The folder in which a node of a cluster keeps the classifiers it fetched: those of all its workers and all sweeps.

    The name is known to all, so another user may have made it first: then what lies in it is not ours.

    Raises:
        BadInput: it is not a folder that belongs to this user, and to nobody else.
    """
    cache = Path(tempfile.gettempdir()) / f"gbc-classifiers-{os.getuid()}"
    try:
        with contextlib.suppress(FileExistsError):
            cache.mkdir(mode=0o700)
        status = cache.lstat()
    except OSError as fault:
        raise BadInput(f"{cache}: cannot be used: {fault.strerror}; let TMPDIR name another folder") from None
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.getuid() or stat.S_IMODE(status.st_mode) & 0o022:
        raise BadInput(f"{cache}: belongs to another user, or others may write there; let TMPDIR name another folder")
    return cache


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
