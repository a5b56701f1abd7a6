"""Drivers of sweeps as processes of their own, forked from a server that has the libraries loaded.

Importing torch, Ray and MLflow is most of the time of a tiny sweep. Apart from that, a forked driver is what a user's command
starts: a process in a session of its own, with its own output, signals and exit code.
"""

from __future__ import annotations

import atexit
import contextlib
import importlib
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from multiprocessing import forkserver, resource_tracker
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Final, TextIO

from tests.support import ROOT
from tests.support.forked_workers import WorkerServer

_server = multiprocessing.get_context("forkserver")
_PRELOADED: Final = ("tests.support.preloaded", "tests.support.forked_workers", __name__)
_started: set[int] = set()
"""Process numbers of servers that have loaded these."""


def start_server() -> None:
    """Start the server if it does not run. It lives on, with the environment that it finds now, but not with the folder.

    A process has one server. Where a benchmark started it, with other libraries, it gives way.
    """
    running = forkserver._forkserver  # type: ignore[attr-defined]
    with contextlib.chdir(ROOT):
        resource_tracker.ensure_running()
        if running._forkserver_pid not in _started:
            running._stop()
            _server.set_forkserver_preload([*_PRELOADED])
        forkserver.ensure_running()
    _started.add(running._forkserver_pid)


@cache
def _worker_server() -> WorkerServer:
    return WorkerServer(_server)


class Driver:
    """A command of `search/` that runs. It is used as `subprocess.Popen` with text and one stream for all output."""

    def __init__(
        self,
        command: str,
        arguments: Sequence[str],
        folder: Path,
        before: Callable[[], None] | None = None,
        *,
        fresh_workers: bool = False,
    ) -> None:
        """`before`, a function of a module, is what the process does first. `fresh_workers` are started as a user's are."""
        start_server()
        executable = sys.executable if fresh_workers else _worker_server().executable
        reading, writing = _server.Pipe(duplex=False)
        process_arguments = (command, list(arguments), str(folder), dict(os.environ), executable, before, writing)
        self._process = _server.Process(target=_run, args=process_arguments)
        self._process.start()
        writing.close()
        self.stdout: TextIO = os.fdopen(os.dup(reading.fileno()), encoding="utf-8")
        reading.close()
        assert self._process.pid is not None
        self.pid: int = self._process.pid

    @property
    def returncode(self) -> int | None:
        """None while it runs; the signal's number with a minus for a process that a signal ended."""
        return self._process.exitcode

    def poll(self) -> int | None:
        return self._process.exitcode

    def wait(self, timeout: float) -> int:
        self._process.join(timeout)
        if self._process.exitcode is None:
            raise subprocess.TimeoutExpired(["driver", str(self.pid)], timeout)
        return self._process.exitcode

    def communicate(self, timeout: float) -> tuple[str, None]:
        """The rest of its output, when it has ended; after `timeout` seconds it is killed."""
        alarm = threading.Timer(timeout, self.send_signal, [signal.SIGKILL])
        alarm.start()
        try:
            with self.stdout:
                output = self.stdout.read()
            self.wait(timeout)
        finally:
            alarm.cancel()
        return output, None

    def send_signal(self, number: int) -> None:
        os.kill(self.pid, number)


def _run(
    command: str,
    arguments: list[str],
    folder: str,
    environment: Mapping[str, str],
    executable: str,
    before: Callable[[], None] | None,
    output: Connection,
) -> None:
    """In the new process: be what `python search/COMMAND.py ARGUMENTS` in the folder is."""
    os.setsid()
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    importlib.import_module("ray._raylet").Config.initialize("")  # Ray read the server's environment when it was loaded
    for stream in (1, 2):
        os.dup2(output.fileno(), stream)
    output.close()
    # Python's own may be of a file, which a pipe is not.
    sys.stdout, sys.stderr = (os.fdopen(stream, "w", buffering=1, encoding="utf-8", closefd=False) for stream in (1, 2))
    sys.executable = executable  # Ray starts its workers with it
    file = ROOT / "search" / f"{command}.py"
    sys.argv = [str(file), *arguments]
    sys.path[:0] = [str(ROOT), folder]
    if before:
        before()
    signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        code = importlib.import_module(f"search.{command}").main()
    finally:
        atexit._run_exitfuncs()
    sys.exit(code)
