"""Faults from outside that stop a sweep in good order: a full disk, a database or server that is gone, a Ray that died.

None of it is a trial's fault, so no trial is told FAIL for it: everything stays open, and the same command continues.
"""

from __future__ import annotations

import errno
import math
import shutil
import sqlite3
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from gbc.errors import BadInput, CorruptFile
from records.addresses import first_line, public
from records.database import connection_lost
from records.errors import Damaged, Unreadable

PATIENCE = 60.0
"""Seconds that a locked database, or Ray after the clock was set back, is waited for."""
_POLL_INTERVAL: Final = 0.2  # seconds
_DAMAGED: Final = ("malformed", "not a database")
_FULL: Final = (errno.ENOSPC, errno.EDQUOT)


class Halted(Exception):
    """The sweep was stopped by something outside it. Nothing is damaged, and the same command continues."""

    def __init__(self, reason: str, *, abandoned: bool = False) -> None:
        """`abandoned`: Ray is dead or stuck, and what of it is in this process would wait for the rest as it exits."""
        super().__init__(reason)
        self.abandoned = abandoned

    def describe(self) -> str:
        """The last line that the user sees."""
        return f"stopped: {self}; the same command continues"


class RayAbandoned(BaseException):
    """Leaves Ray's loop at once, past its handlers of errors and its shutdown, because both would wait for what is dead."""


class HaltMonitor:
    """Knows whether a run must end, and why. The first reason counts; once there is one, nothing more is written down."""

    def __init__(self, folder: Path, tracking_uri: str | None = None) -> None:
        """`folder` is the sweep's, `tracking_uri` that of its MLflow store."""
        self._folder, self._tracking_uri = folder, tracking_uri
        self._why: str | None = None
        self._cause: Callable[[], str | None] = lambda: None
        self._polled = -math.inf
        self.records_fail = False
        """True if the records themselves cannot be written: then the next start closes what this one leaves."""

    def watch(self, cause: Callable[[], str | None]) -> None:
        """Ask `cause` for a reason from now on."""
        self._cause, self._polled = cause, -math.inf

    def poll(self) -> None:
        """Ask for a reason now, because what comes next may be a consequence of it."""
        self._polled = time.monotonic()
        self._why = self._why or self._cause()

    @property
    def reason(self) -> str | None:
        """The reason why the run must end; None while it need not. Checked a few times a second, however often it is read."""
        if time.monotonic() - self._polled >= _POLL_INTERVAL:
            self.poll()
        return self._why

    def stop(self, reason: str) -> None:
        """End the run because the records cannot be written."""
        self.records_fail = True
        self._why = self._why or reason

    @contextmanager
    def guard(self) -> Iterator[None]:
        """Take faults from outside as a reason to end; others pass."""
        try:
            yield
        except Exception as fault:
            reason = external_fault(fault, self._folder, self._tracking_uri)
            if reason is None:
                raise
            self.stop(reason)

    def raise_if_halted(self) -> None:
        """Raise `Halted` if there is a reason.

        Raises:
            Halted: with that reason.
        """
        if self._why is not None:
            raise Halted(self._why, abandoned=not self.records_fail)


class Clock:
    """Notices that the wall clock is set back. Ray's timers go by it: until it has caught up no worker starts."""

    def __init__(self, wall: Callable[[], float] = time.time, steady: Callable[[], float] = time.monotonic) -> None:
        self._wall, self._steady = wall, steady
        self._ahead = wall() - steady()

    def set_back(self) -> str | None:
        """The reason to stop once it was set back by more than is waited for; None until then."""
        ahead = self._wall() - self._steady()
        self._ahead = max(self._ahead, ahead)
        behind = self._ahead - ahead
        return f"the clock was set back by {behind / 60:.0f} minutes, which Ray does not survive" if behind > PATIENCE else None


@contextmanager
def halting(folder: Path, tracking_uri: str | None = None) -> Iterator[None]:
    """Turn faults from outside into `Halted`; `folder` and `tracking_uri` as for `HaltMonitor`.

    Raises:
        Halted: in place of such a fault.
    """
    halt = HaltMonitor(folder, tracking_uri)
    with halt.guard():
        yield
    halt.raise_if_halted()


@contextmanager
def readable() -> Iterator[None]:
    """Turn the errors of `records` into those that the commands print.

    Raises:
        CorruptFile: in place of `Damaged`.
        BadInput: in place of `Unreadable`.
    """
    try:
        yield
    except Damaged as fault:
        raise CorruptFile(f"{fault}; restore it, or choose another --name") from None
    except Unreadable as fault:
        raise BadInput(str(fault)) from None


def external_fault(fault: BaseException, folder: Path, tracking_uri: str | None = None) -> str | None:
    """Describe `fault`, without a password, if it comes from a full disk, a database or MLflow's server.

    None if it is of another kind.
    """
    from sqlalchemy.exc import DatabaseError, OperationalError

    for cause in _causes(fault):
        if (isinstance(cause, OSError) and cause.errno in _FULL) or "database or disk is full" in str(cause).partition("\n")[0]:
            return f"no space left on the disk of {_fullest_disk(folder)}; free some"
        if isinstance(cause, sqlite3.DatabaseError | DatabaseError):
            text = str(cause.orig if isinstance(cause, DatabaseError) else cause).partition("\n")[0]
            if not (isinstance(cause, sqlite3.OperationalError | OperationalError) or any(part in text for part in _DAMAGED)):
                continue
            store = "MLflow's store" if _passed_through(fault, "mlflow") else "the study"
            if "locked" in text:
                return f"{store} has been locked by another process for a minute"
            if isinstance(fault, BadInput):  # refused at the start, with a mend
                continue
            if isinstance(cause, DatabaseError) and connection_lost(cause):
                return f"the database of {store} cannot be reached: {text}"
            return f"{store} cannot be used: {text}"
    if tracking_uri is not None and not isinstance(fault, BadInput) and _from_server(fault, tracking_uri):
        return f"MLflow's server {public(tracking_uri)} cannot be used: {_reason(fault, tracking_uri)}"
    return None


def _from_server(fault: BaseException, tracking_uri: str) -> bool:
    """True if MLflow's client says that its server did not answer, or that it answered with an error."""
    failed = any(isinstance(cause, OSError) or type(cause).__module__ == "mlflow.exceptions" for cause in _causes(fault))
    return failed and tracking_uri.startswith("http") and _passed_through(fault, "mlflow")


def _reason(fault: BaseException, tracking_uri: str) -> str:
    """The operating system's message, if there is one: MLflow adds its address and each attempt."""
    messages = (cause.strerror for cause in _causes(fault) if isinstance(cause, OSError) and cause.strerror)
    return next(messages, None) or first_line(fault, tracking_uri)


def _causes(fault: BaseException | None) -> Iterator[BaseException]:
    """Yield the fault and its causes, the innermost first: libraries wrap what databases raise."""
    if fault is not None:
        yield from _causes(fault.__cause__ or fault.__context__)
        yield fault


def _passed_through(fault: BaseException, *packages: str) -> bool:
    for cause in _causes(fault):
        trace = cause.__traceback__
        while trace is not None:
            name = trace.tb_frame.f_globals.get("__name__", "")
            if any(name == package or name.startswith(f"{package}.") for package in packages):
                return True
            trace = trace.tb_next
    return False


def _fullest_disk(folder: Path) -> Path:
    """The disk with the least room among those that are written to: databases do not name theirs."""
    folders = [path for path in (folder.resolve(), Path.cwd(), Path(tempfile.gettempdir())) if path.exists()]
    return min(folders, key=lambda path: shutil.disk_usage(path).free)
