"""Processes of a sweep on this machine: Ray's daemons and workers carry the sweep's folder in their environment.

A driver that was killed leaves them behind for some seconds. Whoever holds the sweep's lock may end them, for no other
driver can have started them.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import psutil

from records.addresses import redacted
from search.files.paths import SCRATCH
from search.spec.faults import Halted

_ENVIRONMENT_TAG: Final = "GBC_SWEEP"
_DAEMONS: Final = ("raylet", "gcs_server")
_SESSION_FILE: Final = "session"
_SOCKET_IN_SESSION: Final = "r/session_2026-01-01_00-00-00_000000_4194304/sockets/plasma_store"
_LONGEST_SOCKET: Final = 103 if sys.platform == "darwin" else 107  # bytes; the kernel's limit
_PREFIX: Final = "gbc-"
_RANDOM: Final = 8  # characters that `tempfile` puts behind it
_POLL_INTERVAL: Final = 0.5  # seconds
_PATIENCE: Final = 10.0  # seconds: a process that was killed may still be in the middle of a write


@contextmanager
def tag_processes(sweep: Path) -> Iterator[None]:
    """Tag the processes that are started in this context, and their children, as those of the sweep in this folder."""
    os.environ[_ENVIRONMENT_TAG] = str(sweep.resolve())
    try:
        yield
    finally:
        del os.environ[_ENVIRONMENT_TAG]


def sweep_processes(sweep: Path) -> list[psutil.Process]:
    """Every process on this machine that was started as one of the sweep in this folder.

    Some of Ray's write their title over their environment; those are known by the logs of their session, which they have open.
    """
    session, processes = _session(sweep / SCRATCH), []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):  # gone, or of another user
            if process.pid != os.getpid() and (
                process.environ().get(_ENVIRONMENT_TAG) == str(sweep.resolve())
                or (session is not None and any(Path(file.path).is_relative_to(session) for file in process.open_files()))
            ):
                processes.append(process)
    return processes


def kill_processes(sweep: Path) -> None:
    """Kill every process of the sweep in this folder, and wait until it is gone."""
    while processes := sweep_processes(sweep):  # again: a raylet may be starting a worker
        for process in processes:
            with contextlib.suppress(psutil.Error):
                process.kill()
        if psutil.wait_procs(processes, timeout=_PATIENCE)[1]:
            return  # stuck in the kernel: nothing more can be done, and it cannot write either


def ray_daemons() -> list[psutil.Process]:
    """Ray's daemons that this process started; none where a cluster was joined."""
    return [process for process in psutil.Process().children() if process.name() in _DAEMONS]


def death_of_daemons(processes: list[psutil.Process]) -> str | None:
    """The reason to stop if one of these processes has died; None while all run."""
    for process in processes:
        try:
            if process.status() != psutil.STATUS_ZOMBIE:
                continue
        except psutil.NoSuchProcess:
            pass
        return "Ray's own processes died: killed, out of memory or crashed"
    return None


def exit_when_stuck(reason_to_exit: Callable[[], str | None]) -> threading.Event:
    """Exit this process when `reason_to_exit` gives one and the returned event is not set within some seconds.

    A call into Ray that asks a dead daemon, or waits by a clock that was set back, comes back after a minute or never. The
    records stay as after kill -9.
    """
    out = threading.Event()

    def watch() -> None:
        while not out.wait(_POLL_INTERVAL):
            if (reason := reason_to_exit()) and not out.wait(_PATIENCE):
                print(redacted(Halted(reason).describe()), file=sys.stderr, flush=True)
                os._exit(130)

    threading.Thread(target=watch, daemon=True).start()
    return out


def private_folder() -> Path:
    """Make a new folder for Ray's logs and sockets: of an unpredictable name, and closed to other users.

    It is made in `RAY_TMPDIR`, or in the folder for temporary files; in /tmp where that has too long a name for sockets.

    Raises:
        OSError: it cannot be made, or RAY_TMPDIR is too long.
    """
    room = _LONGEST_SOCKET - len(f"/{_PREFIX}{_SOCKET_IN_SESSION}/") - _RANDOM
    asked = os.environ.get("RAY_TMPDIR")
    base = os.path.abspath(asked or tempfile.gettempdir())
    if len(os.fsencode(base)) > room:
        if asked:
            raise OSError(f"RAY_TMPDIR {asked}: too long for the names of Ray's sockets; name a folder of at most {room} bytes")
        base = "/tmp"
    return Path(tempfile.mkdtemp(prefix=_PREFIX, dir=base))


def remember_session(scratch: Path, session: Path) -> None:
    """Remember where Ray keeps its logs and sockets, for `delete_session`."""
    scratch.mkdir(mode=0o700, parents=True, exist_ok=True)
    (scratch / _SESSION_FILE).write_text(f"{session}\n")


def delete_session(scratch: Path) -> None:
    """Delete the scratch folder, and Ray's folder of that run: tens of files that nobody reads."""
    if (session := _session(scratch)) is not None:
        shutil.rmtree(session, ignore_errors=True)
    shutil.rmtree(scratch, ignore_errors=True)


def _session(scratch: Path) -> Path | None:
    with contextlib.suppress(OSError):
        session, end, _ = (scratch / _SESSION_FILE).read_text().partition("\n")
        if end and Path(session).name.startswith(_PREFIX):  # a note cut short must not delete more
            return Path(session)
    return None
