"""The lock that lets one driver at a time run a sweep."""

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
LOCK_HOLDER: Final = "driver.json"
# `current_driver` holds the lock for a moment when nobody else does: a driver that starts then must not be refused.
_PATIENCE: Final = 0.5  # seconds


@dataclass(frozen=True)
class Driver:
    """The process that runs a sweep."""

    pid: int
    host: str
    since: str

    @classmethod
    def from_note(cls, note: Mapping[str, Any]) -> Driver | None:
        """Parse what `asdict` made of a driver, in a file or a study; None when that is no driver."""
        try:
            return cls(int(note["pid"]), str(note["host"]), str(note["since"]))
        except (ValueError, KeyError, TypeError):
            return None

    def describe(self) -> str:
        """For people."""
        return f"pid {self.pid} on {self.host}, since {self.since}"


def this_process() -> Driver:
    """This process."""
    return Driver(os.getpid(), socket.gethostname(), time.strftime("%Y-%m-%d %H:%M:%S"))


UNKNOWN_DRIVER: Final = Driver(0, "unknown", "a moment ago")
"""A driver that holds the lock of a sweep and has not yet written who it is."""


def already_running(name: str, driver: Driver | None) -> BadInput:
    """The error for a second driver of a sweep."""
    detail = f" ({driver.describe()})" if driver else ""
    return BadInput(f"sweep {name!r} is being run already{detail}; wait for it, or choose another --name")


@contextmanager
def driver_lock(folder: Path) -> Iterator[None]:
    """Hold the sweep's lock; a dead driver's lock is free by itself.

    Raises:
        BadInput: another driver holds it, or the folder cannot be written.
    """
    from filelock import FileLock, Timeout

    holder = folder / LOCK_HOLDER
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder / LOCK, timeout=_PATIENCE)
        lock.acquire()
    except Timeout:
        raise already_running(folder.name, _recorded_holder(holder)) from None
    except OSError as fault:
        raise BadInput(f"{folder}: cannot be written: {fault.strerror}") from None
    try:
        write_atomic(holder, json.dumps(asdict(this_process())).encode())
        yield
    finally:
        holder.unlink(missing_ok=True)
        lock.release()


def current_driver(folder: Path) -> Driver | None:
    """The driver that runs the sweep in `folder` right now; None when there is none. It is not disturbed."""
    import fcntl

    try:
        handle = os.open(folder / LOCK, os.O_RDONLY)
    except OSError:  # never run, or of another user
        return None
    try:
        # Shared: those who only ask do not hide a driver from each other.
        fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:
        return _recorded_holder(folder / LOCK_HOLDER) or UNKNOWN_DRIVER
    finally:
        os.close(handle)
    return None


def _recorded_holder(holder: Path) -> Driver | None:
    try:
        return Driver.from_note(json.loads(holder.read_text()))
    except (OSError, ValueError):
        return None
