"""One driver for each sweep."""

from __future__ import annotations

import json
import os
import socket
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from gbc.checkpoint import write_atomic
from gbc.errors import BadInput

LOCK: Final = ".lock"
HOLDER: Final = "driver.json"
# `driver_of` holds the lock for a moment when nobody else does: a driver that starts then must not be refused.
_PATIENCE: Final = 0.5  # seconds


@dataclass(frozen=True)
class Driver:
    """The process that runs a sweep."""

    pid: int
    host: str
    since: str

    @classmethod
    def of(cls, note: Mapping[str, Any]) -> Driver | None:
        """From what `asdict` made of it, in a file or a study; None when that is no driver."""
        try:
            return cls(int(note["pid"]), str(note["host"]), str(note["since"]))
        except (ValueError, KeyError, TypeError):
            return None

    def words(self) -> str:
        """For people."""
        return f"pid {self.pid} on {self.host}, since {self.since}"


def me() -> Driver:
    """This process."""
    return Driver(os.getpid(), socket.gethostname(), time.strftime("%Y-%m-%d %H:%M:%S"))


UNKNOWN: Final = Driver(0, "unknown", "a moment ago")
"""Who holds the lock of a sweep and has not said so yet."""


def refusal(name: str, who: Driver | None) -> BadInput:
    """Why a second driver cannot run the sweep."""
    detail = f" ({who.words()})" if who else ""
    return BadInput(f"sweep {name!r} is being run already{detail}; wait for it, or choose another --name")


@contextmanager
def only_driver(folder: Path) -> Iterator[None]:
    """Hold the sweep's lock; a dead driver's lock is free by itself.

    Raises:
        BadInput: another driver holds it, or the folder cannot be written.
    """
    from filelock import FileLock, Timeout

    holder = folder / HOLDER
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder / LOCK, timeout=_PATIENCE)
        lock.acquire()
    except Timeout:
        raise refusal(folder.name, _noted(holder)) from None
    except OSError as fault:
        raise BadInput(f"{folder}: cannot be written: {fault.strerror}") from None
    try:
        write_atomic(holder, json.dumps(asdict(me())).encode())
        yield
    finally:
        holder.unlink(missing_ok=True)
        lock.release()


def driver_of(folder: Path) -> Driver | None:
    """Who runs the sweep in `folder` right now, without getting in its way; None when nobody does."""
    import fcntl

    try:
        handle = os.open(folder / LOCK, os.O_RDONLY)
    except OSError:  # never run, or of another user
        return None
    try:
        # Shared: those who only ask do not hide a driver from each other.
        fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:
        return _noted(folder / HOLDER) or UNKNOWN
    finally:
        os.close(handle)
    return None


def _noted(holder: Path) -> Driver | None:
    try:
        return Driver.of(json.loads(holder.read_text()))
    except (OSError, ValueError):
        return None
