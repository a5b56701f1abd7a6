"""Checkpoints: atomic, versioned, verified and free of code.

A file is one header line (format, version, SHA-256 of the rest) and a `torch.save` archive that is read with
`weights_only=True`. It is written beside its place and moved there, so a reader sees the old file or the new one.
torch is imported where it is used: files are written by commands that need no tensor.
"""

from __future__ import annotations

import hashlib
import io
import os
import pickle
import re
import shutil
import tempfile
from pathlib import Path
from typing import Any, Final, Protocol

from gbc.errors import BadInput, CorruptFile

VERSION: Final = 1
_FORMAT: Final = b"gbc-checkpoint"


class Named(Protocol):
    """A file, wherever it lies."""

    @property
    def name(self) -> str:
        """The last part of its path."""


class Readable(Protocol):
    """A file, wherever it lies; `str` names it for people."""

    def read_bytes(self) -> bytes:
        """All of it; an OSError when that fails."""


def write_atomic(path: Path, content: bytes) -> None:
    """Put `content` at `path` so that no reader, and no crash, ever sees part of it.

    Raises:
        BadInput: the folder cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=_temporary(path))
    except OSError as fault:
        raise BadInput(f"{path.parent}: cannot be written: {fault.strerror}") from None
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except OSError as fault:
        Path(temporary).unlink(missing_ok=True)
        raise BadInput(f"{path}: cannot be written: {fault.strerror}") from None


def keep(path: Path, beside: Path) -> None:
    """Let what is at `path` be at `beside` too, where it stays when `path` is replaced. Atomic; a link, not a copy.

    Does nothing when there is no file at `path`.

    Raises:
        BadInput: the folder cannot be written.
    """
    temporary = beside.with_name(f"{_temporary(beside)}keep")
    try:
        temporary.unlink(missing_ok=True)
        try:
            os.link(path, temporary)
        except FileNotFoundError:
            return
        except OSError:  # a file system without links
            shutil.copyfile(path, temporary)
        os.replace(temporary, beside)
    except OSError as fault:
        raise BadInput(f"{beside}: cannot be written: {fault.strerror}") from None
    finally:
        temporary.unlink(missing_ok=True)  # to rename a file to a link of itself does nothing


def writer_of(path: Named) -> int | None:
    """The process that made the temporary file at `path`; None when it is no such file."""
    found = re.fullmatch(r"\..+\.(\d+)-\w+", path.name)
    return int(found[1]) if found else None


def save(path: Path, state: dict[str, Any], previous: Path | None = None) -> None:
    """Write `state` (tensors, numbers, text, lists and dictionaries of them) to `path`.

    What was there before is kept at `previous`, when that is given: at every moment one of the two is whole.

    Raises:
        BadInput: the folder cannot be written.
    """
    content = dumps(state)
    if previous is not None:
        keep(path, previous)
    write_atomic(path, content)


def dumps(state: dict[str, Any]) -> bytes:
    """The content of the file that `save` writes."""
    import torch

    archive = io.BytesIO()
    torch.save(state, archive)
    content = archive.getvalue()
    return b"%s %d %s\n" % (_FORMAT, VERSION, hashlib.sha256(content).hexdigest().encode()) + content


def load(path: Readable) -> dict[str, Any]:
    """The state that `save` wrote, on the CPU.

    Raises:
        BadInput: there is no such file, or another version wrote it.
        CorruptFile: it is not a checkpoint, is cut short or was changed.
    """
    import torch

    content = _verified(path)
    try:
        state: dict[str, Any] = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError) as fault:
        raise CorruptFile(f"{path}: cannot be unpacked: {str(fault).splitlines()[0]}") from None
    return state


def verified(path: Readable) -> bool:
    """Whether the file at `path` is a whole checkpoint; without unpacking it."""
    try:
        _verified(path)
    except BadInput:
        return False
    return True


def _verified(path: Readable) -> bytes:
    try:
        header, _, content = path.read_bytes().partition(b"\n")
    except OSError as fault:
        raise BadInput(f"{path}: cannot be read: {fault.strerror or fault}") from None
    fields = header.split(b" ")
    if len(fields) != 3 or fields[0] != _FORMAT:
        raise CorruptFile(f"{path}: not a checkpoint of this package")
    if fields[1] != b"%d" % VERSION:
        raise BadInput(f"{path}: checkpoint version {fields[1].decode()}, this package reads version {VERSION}")
    if hashlib.sha256(content).hexdigest().encode() != fields[2]:
        raise CorruptFile(f"{path}: damaged (its SHA-256 does not match); delete it to start over")
    return content


def _temporary(path: Path) -> str:
    """How the name of a temporary file for `path` begins: hidden, and with the process that writes it."""
    return f".{path.name}.{os.getpid()}-"
