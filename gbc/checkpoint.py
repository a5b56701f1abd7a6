"""Checkpoints: written atomically, with a version and a checksum, and read without running code.

A file is one header line (format, version, SHA-256 of the rest) and a `torch.save` archive that is read with
`weights_only=True`. It is written under a temporary name and then renamed, so a reader sees the old file or the new one.
torch is imported inside functions, because commands that need no tensor also write files.
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


class NamedFile(Protocol):
    """A local or remote file with a name."""

    @property
    def name(self) -> str:
        """The last part of its path."""


class ReadableFile(Protocol):
    """A local or remote file that can be read; `str` gives its path for messages."""

    def read_bytes(self) -> bytes:
        """The content; raises an OSError if that fails."""


def write_atomic(path: Path, content: bytes) -> None:
    """Write `content` to `path` atomically: neither a reader nor a crash leaves a partial file there.

    Raises:
        BadInput: the folder cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=_temporary_prefix(path))
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


def preserve(path: Path, beside: Path) -> None:
    """Make the file at `path` available at `beside` too, where it remains when `path` is replaced.

    Atomic. It makes a hard link, or a copy if the file system has no links. Does nothing if there is no file at `path`.

    Raises:
        BadInput: the folder cannot be written.
    """
    temporary = beside.with_name(f"{_temporary_prefix(beside)}keep")
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
        temporary.unlink(missing_ok=True)  # os.replace leaves it there if both are links of one file


def writer_pid(path: NamedFile) -> int | None:
    """The id of the process that made the temporary file at `path`; None if it is not a temporary file of `write_atomic`."""
    match = re.fullmatch(r"\..+\.(\d+)-\w+", path.name)
    return int(match[1]) if match else None


def save(path: Path, state: dict[str, Any], previous: Path | None = None) -> None:
    """Write `state` (tensors, numbers, text, lists and dictionaries of them) to `path`.

    With `previous`, the file that was there before is preserved under that path. At every moment one of the two is complete.

    Raises:
        BadInput: the folder cannot be written.
    """
    content = dumps(state)
    if previous is not None:
        preserve(path, previous)
    write_atomic(path, content)


def dumps(state: dict[str, Any]) -> bytes:
    """The content of the file that `save` writes."""
    import torch

    archive = io.BytesIO()
    torch.save(state, archive)
    content = archive.getvalue()
    return b"%s %d %s\n" % (_FORMAT, VERSION, hashlib.sha256(content).hexdigest().encode()) + content


def load(path: ReadableFile) -> dict[str, Any]:
    """The state that `save` wrote, on the CPU.

    Raises:
        BadInput: there is no such file, or another version wrote it.
        CorruptFile: it is not a checkpoint, is cut short or was changed.
    """
    import torch

    content = _verified_content(path)
    try:
        state: dict[str, Any] = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError) as fault:
        raise CorruptFile(f"{path}: cannot be unpacked: {str(fault).splitlines()[0]}") from None
    return state


def is_intact(path: ReadableFile) -> bool:
    """True if the file at `path` is a complete checkpoint. Checks the header and the SHA-256, and does not unpack it."""
    try:
        _verified_content(path)
    except BadInput:
        return False
    return True


def _verified_content(path: ReadableFile) -> bytes:
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


def _temporary_prefix(path: Path) -> str:
    """Start of the name of a temporary file for `path`: hidden, with the id of the process that writes it."""
    return f".{path.name}.{os.getpid()}-"
