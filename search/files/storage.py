"""Files of trials, here or far away: a folder of this machine (also one that machines share), or any URL that pyarrow knows.

Local files are `pathlib.Path`s and are written as everything else is (`gbc.checkpoint.write_atomic`). What is far away is a
`RemotePath`, which answers to the same few names. In both a reader sees the old file or the new one, never a part.
"""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import stat
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path, PurePosixPath
from typing import Any, Final

from gbc import checkpoint
from gbc.errors import BadInput
from records.addresses import fault_line, public, remember_secrets

_ATOMIC_UPLOADS: Final = frozenset({"s3", "gcs", "abfs"})
"""Stores in which an upload appears when it is complete."""


@dataclass(frozen=True)
class RemotePath:
    """A file or folder in one of pyarrow's file systems."""

    root: str
    """The URL, with its password: never shown."""
    inside: PurePosixPath = field(default_factory=PurePosixPath)
    """Below the root."""

    def __truediv__(self, name: str) -> RemotePath:
        """A file or folder below this one."""
        return RemotePath(self.root, self.inside / name)

    def __str__(self) -> str:
        """The URL without its password; what follows a question mark belongs to the store, not to the file."""
        scheme, mark, path = public(self.root).partition("?")[0].partition("://")
        base = scheme + mark + path.rstrip("/")
        return base if self.inside == PurePosixPath() else f"{base}/{self.inside}"

    def __repr__(self) -> str:
        """Return the text of `str`, because the root is secret."""
        return f"Remote({self})"

    @property
    def name(self) -> str:
        """The last part."""
        return self.inside.name

    @property
    def parent(self) -> RemotePath:
        """The folder it lies in."""
        return RemotePath(self.root, self.inside.parent)

    def with_name(self, name: str) -> RemotePath:
        """Its neighbour of that name."""
        return RemotePath(self.root, self.inside.with_name(name))

    def exists(self) -> bool:
        """True if there is a file of this name. Raises OSError when the store cannot be asked."""
        with self._plain_errors():
            return bool(self._system.get_file_info(self._path).is_file)

    def read_bytes(self) -> bytes:
        """Read all of it. Raises OSError."""
        with self._plain_errors(), self._system.open_input_stream(self._path) as stream:
            content: bytes = stream.read()
        return content

    def read_text(self) -> str:
        """Read all of it as UTF-8. Raises OSError."""
        return self.read_bytes().decode()

    def write_bytes(self, content: bytes) -> None:
        """Replace it, whole or not at all. Raises OSError."""
        with self._plain_errors():
            if self._system.type_name in _ATOMIC_UPLOADS:
                self._put(self._path, content)
                return
            self._system.create_dir(str(PurePosixPath(self._path).parent), recursive=True)
            part = self.with_name(f".{self.name}.{os.getpid()}-part")
            try:
                self._put(part._path, content)
                self._system.move(part._path, self._path)
            except OSError:
                part.unlink(missing_ok=True)
                raise

    def unlink(self, missing_ok: bool = False) -> None:
        """Delete it. Raises OSError."""
        with self._plain_errors():
            try:
                self._system.delete_file(self._path)
            except FileNotFoundError:
                if not missing_ok:
                    raise

    def copy_to(self, beside: RemotePath) -> None:
        """Copy it to `beside`. Raises OSError."""
        with self._plain_errors():
            if self._system.type_name in _ATOMIC_UPLOADS:
                self._system.copy_file(self._path, beside._path)
            else:
                beside.write_bytes(self.read_bytes())

    def _put(self, path: str, content: bytes) -> None:
        # Of a writer that dies before the end of this block a store shows nothing.
        with self._system.open_output_stream(path) as stream:
            stream.write(content)

    @property
    def _system(self) -> Any:
        return _file_system(self.root)[0]

    @property
    def _path(self) -> str:
        base = _file_system(self.root)[1]
        return base if self.inside == PurePosixPath() else f"{base.rstrip('/')}/{self.inside}"

    @contextlib.contextmanager
    def _plain_errors(self) -> Iterator[None]:
        """Turn what pyarrow raises into an OSError whose `strerror` is one line without passwords."""
        try:
            yield
        except FileNotFoundError:
            raise FileNotFoundError(errno.ENOENT, "no such file", str(self)) from None
        except (OSError, ValueError) as fault:  # of what pyarrow raises ArrowInvalid is a ValueError
            reason = fault_line(getattr(fault, "strerror", None) or fault, self.root)
            raise OSError(getattr(fault, "errno", None) or errno.EIO, reason, str(self)) from None


Location = Path | RemotePath


def open_storage(url: str) -> Location:
    """The folder that `--storage` names.

    Raises:
        BadInput: pyarrow knows no such file system, or it cannot be reached.
    """
    if "://" not in url:
        return Path(url)
    remember_secrets(url)
    _file_system(url)
    return RemotePath(url)


@cache
def _file_system(url: str) -> tuple[Any, str]:
    """The file system behind a URL, and the path in it."""
    from pyarrow import fs

    try:
        system, path = fs.FileSystem.from_uri(url)
    except (ValueError, OSError, ImportError, NotImplementedError, TypeError) as fault:
        raise BadInput(f"--storage {public(url)}: cannot be used: {fault_line(fault, url)}") from None
    return system, path


def check_folder(folder: Path) -> None:
    """Refuse a folder in which no file could be written, without writing one.

    Raises:
        BadInput: a file is in the way, or the user may not write there.
    """
    nearest = next(path for path in (folder, *folder.parents) if path.exists())
    if not nearest.is_dir():
        raise BadInput(f"--storage {folder}: {nearest} is a file; name a folder")
    if not os.access(nearest, os.W_OK | os.X_OK):
        raise BadInput(f"--storage {folder}: this user may not write in {nearest}")


def check_writable(location: Location) -> None:
    """Try to write, read and delete a file there.

    Raises:
        BadInput: one of these fails.
    """
    probe = location / f".probe-{os.getpid()}"
    try:
        if isinstance(probe, Path):
            checkpoint.write_atomic(probe, b"probe")
        else:
            probe.write_bytes(b"probe")
        if probe.read_bytes() != b"probe":
            raise BadInput(f"--storage {location}: does not give back what was written")
        probe.unlink()
    except OSError as fault:
        raise BadInput(f"--storage {location}: cannot be used: {fault.strerror or fault}") from None


def write(location: Location, content: bytes) -> None:
    """Put `content` at `location` so that no reader, and no crash, ever sees part of it.

    Raises:
        BadInput: it cannot be written.
    """
    if isinstance(location, Path):
        checkpoint.write_atomic(location, content)
        return
    try:
        location.write_bytes(content)
    except OSError as fault:
        raise BadInput(f"{location}: cannot be written: {fault.strerror}") from None


def save_checkpoint(location: Location, state: dict[str, Any], previous: Location) -> None:
    """Write a checkpoint to `location`; what was there before is kept at `previous`. At every moment one of the two is whole.

    Raises:
        BadInput: it cannot be written.
    """
    if isinstance(location, Path):
        assert isinstance(previous, Path)
        checkpoint.save(location, state, previous)
        return
    assert isinstance(previous, RemotePath)
    content = checkpoint.dumps(state)
    try:
        if location.exists():
            location.copy_to(previous)
        location.write_bytes(content)
    except OSError as fault:
        raise BadInput(f"{location}: cannot be written: {fault.strerror}") from None


def move_file(source: Location, target: Location) -> None:
    """Move `source` to `target`, in place of what is there. Raises OSError."""
    if isinstance(source, Path):
        os.replace(source, target)  # type: ignore[arg-type]
    elif isinstance(target, RemotePath):
        source.copy_to(target)
        source.unlink()


def delete(location: Location) -> None:
    """Delete a file or a folder; nothing when there is none."""
    if isinstance(location, Path):
        if location.is_dir():
            shutil.rmtree(location, ignore_errors=True)
        else:
            location.unlink(missing_ok=True)
        return
    with contextlib.suppress(OSError), location._plain_errors():
        info = location._system.get_file_info(location._path)
        if info.is_file:
            location.unlink(missing_ok=True)
        else:
            location._system.delete_dir(location._path)


def list_files(location: Location) -> list[tuple[Location, int]]:
    """Every file below a folder and its bytes, in as few requests as the store allows; empty when there is no such folder.

    Raises:
        BadInput: the store cannot be asked.
    """
    if isinstance(location, Path):
        files = list[tuple[Location, int]]()
        for path in sorted(location.rglob("*")):
            with contextlib.suppress(FileNotFoundError):  # replaced in the meantime
                if stat.S_ISREG((about := path.stat()).st_mode):
                    files.append((path, about.st_size))
        return files
    from pyarrow import fs

    try:
        with location._plain_errors():
            listed = location._system.get_file_info(fs.FileSelector(location._path, allow_not_found=True, recursive=True))
    except OSError as fault:
        raise BadInput(f"{location}: cannot be listed: {fault.strerror}") from None
    base = location._path.rstrip("/") + "/"
    return [
        (location / listed_file.path.removeprefix(base), listed_file.size or 0)
        for listed_file in sorted(listed, key=lambda listed_file: str(listed_file.path))
        if listed_file.is_file
    ]


def list_folder(location: Location) -> list[Location]:
    """The folders and files in a folder, by name; empty when there is no such folder.

    Raises:
        BadInput: the store cannot be asked.
    """
    if isinstance(location, Path):
        return list[Location](sorted(location.glob("*")))
    inside = len(location.inside.parts)
    return [location / name for name in sorted({path.inside.parts[inside] for path, _ in list_files(location)})]  # type: ignore[union-attr]


@contextlib.contextmanager
def local_copy(location: Location) -> Iterator[Path]:
    """The file on this machine, under its own name, as long as the context lasts: a copy of a remote one. Raises OSError."""
    if isinstance(location, Path):
        yield location
        return
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / location.name
        path.write_bytes(location.read_bytes())
        yield path
