"""Checkpoints: atomic, versioned, verified and free of code.

A file is one header line (format, version, SHA-256 of the rest) and a `torch.save` archive that is read with
`weights_only=True`. It is written beside its place and moved there, so a reader sees the old file or the new one.
"""

from __future__ import annotations

import hashlib
import io
import os
import pickle
import tempfile
from pathlib import Path
from typing import Any, Final

import torch

from gbc.errors import BadInput, CorruptFile

VERSION: Final = 1
_FORMAT: Final = b"gbc-checkpoint"


def write_atomic(path: Path, content: bytes) -> None:
    """Put `content` at `path` so that no reader, and no crash, ever sees part of it.

    Raises:
        BadInput: the folder cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
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


def save(path: Path, state: dict[str, Any]) -> None:
    """Write `state` (tensors, numbers, text, lists and dictionaries of them) to `path`.

    Raises:
        BadInput: the folder cannot be written.
    """
    archive = io.BytesIO()
    torch.save(state, archive)
    content = archive.getvalue()
    header = b"%s %d %s\n" % (_FORMAT, VERSION, hashlib.sha256(content).hexdigest().encode())
    write_atomic(path, header + content)


def load(path: Path) -> dict[str, Any]:
    """The state that `save` wrote, on the CPU.

    Raises:
        BadInput: there is no such file, or another version wrote it.
        CorruptFile: it is not a checkpoint, is cut short or was changed.
    """
    try:
        header, _, content = path.read_bytes().partition(b"\n")
    except OSError as fault:
        raise BadInput(f"{path}: cannot be read: {fault.strerror}") from None
    fields = header.split(b" ")
    if len(fields) != 3 or fields[0] != _FORMAT:
        raise CorruptFile(f"{path}: not a checkpoint of this package")
    if fields[1] != b"%d" % VERSION:
        raise BadInput(f"{path}: checkpoint version {fields[1].decode()}, this package reads version {VERSION}")
    if hashlib.sha256(content).hexdigest().encode() != fields[2]:
        raise CorruptFile(f"{path}: damaged (its SHA-256 does not match); delete it to start over")
    try:
        state: dict[str, Any] = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError) as fault:
        raise CorruptFile(f"{path}: cannot be unpacked: {str(fault).splitlines()[0]}") from None
    return state
