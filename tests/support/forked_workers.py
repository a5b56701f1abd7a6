"""Ray workers, and Ray's agents, forked from a process that has the libraries loaded, for drivers of `tests.support.drivers`.

A worker spends five seconds of a CPU on imports, more than on the trials of a tiny sweep. Ray starts a worker by a command
that begins with `sys.executable`; here that is a few lines which ask a server to fork, wait for the fork and end as it ends.
The fork runs the same file with the same arguments, environment and streams as a worker of a user's sweep, and dies with the
process that Ray started; only its parent is another one. The chaos test, that of open doors and sweeps on clusters have workers
as users have them.
"""

from __future__ import annotations

import atexit
import contextlib
import gc
import json
import multiprocessing
import os
import runpy
import select
import signal
import socket
import stat
import sys
import tempfile
import threading
import traceback
from pathlib import Path
from typing import Any, Final

import psutil

FIRST_JOB: Final = "01000000"
"""The job of a driver whose Ray is its own. Ray's core reads the job of a worker when it is loaded, so forks have no other."""
_WORKER: Final = "/setup_worker.py"
_FILES: Final = (_WORKER, "/ray/dashboard/agent.py", "/runtime_env/agent/main.py", "/dashboards/report.py")
"""Programs of Ray's, and the driver's own report, that are forked."""
_LENGTH: Final = 8  # bytes of the size of a request

_EXECUTABLE: Final = """#!/bin/sh
exec {python!r} -IS {script!r} "$@"
"""
_SCRIPT: Final = """
import json, os, socket, sys

words = [word for word in sys.argv[1:] if word != "-u"]
server = socket.socket(socket.AF_UNIX)
try:
    if not words or not words[0].endswith({files!r}) or os.environ.get("RAY_JOB_ID", {job!r}) != {job!r}:
        raise OSError
    server.connect({address!r})
except OSError:
    os.execv({python!r}, [{python!r}, *sys.argv[1:]])
request = json.dumps([words, dict(os.environ), os.getcwd()]).encode()
socket.send_fds(server, [len(request).to_bytes({length}, "big")], [0, 1, 2])
server.sendall(request)
status = server.recv(4)
os._exit(int(status or 1))
"""


class WorkerServer:
    """A process that forks workers, started at the first use and ended with this one."""

    def __init__(self, context: multiprocessing.context.ForkServerContext) -> None:
        """`context` makes the process, with the libraries loaded."""
        self._folder = tempfile.TemporaryDirectory(prefix="gbc-workers-")
        folder = Path(self._folder.name)
        address, script, executable = folder / "server", folder / "worker.py", folder / "python"
        script.write_text(
            _SCRIPT.format(address=str(address), python=sys.executable, length=_LENGTH, job=FIRST_JOB, files=_FILES)
        )
        executable.write_text(_EXECUTABLE.format(python=sys.executable, script=str(script)))
        executable.chmod(stat.S_IRWXU)
        self.executable = str(executable)
        """Stands in for `sys.executable` in a driver."""
        ready = context.Event()
        self._process = context.Process(target=_serve, args=(str(address), ready), daemon=True)
        self._process.start()
        if not ready.wait(120):
            raise RuntimeError("the server of workers did not start")


def _serve(address: str, ready: Any) -> None:
    """Fork a worker for each connection, and send each its exit status."""
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(address)
    listener.listen(64)
    woken, wake = os.pipe()
    for end in (woken, wake):
        os.set_blocking(end, False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.set_wakeup_fd(wake)
    gc.freeze()
    ready.set()
    working = dict[int, socket.socket]()
    while True:
        readable, _, _ = select.select([listener, woken], [], [])
        if woken in readable:
            os.read(woken, 4096)
            while working and (ended := os.waitpid(-1, os.WNOHANG))[0]:
                _tell(working.pop(ended[0]), os.waitstatus_to_exitcode(ended[1]))
        if listener in readable:
            asking, _ = listener.accept()
            head, streams, _, _ = socket.recv_fds(asking, _LENGTH, 3)
            if len(streams) < 3:
                asking.close()
                continue
            if worker := os.fork():
                for stream in streams:
                    os.close(stream)
                working[worker] = asking  # whose request the fork reads
                continue
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            listener.close()
            for other in working.values():
                other.close()
            _be_a_worker(asking, int.from_bytes(head, "big"), streams)


def _tell(asking: socket.socket, status: int) -> None:
    with asking, contextlib.suppress(OSError):  # nobody may wait for it
        asking.sendall(str(status if status >= 0 else 128 - status).encode())


def _be_a_worker(asking: socket.socket, size: int, streams: list[int]) -> None:
    """Be, in a new process, the worker that Ray asked for."""
    code = 1
    os.setsid()  # the raylet ends the whole process group of a worker
    try:
        request = b""
        while len(request) < size:
            request += asking.recv(size - len(request))
        arguments, environment, folder = json.loads(request)
        for number, stream in enumerate(streams):
            os.dup2(stream, number)
            os.close(stream)
        sys.stdin = os.fdopen(0, encoding="utf-8", closefd=False)
        sys.stdout, sys.stderr = (os.fdopen(stream, "w", buffering=1, encoding="utf-8", closefd=False) for stream in (1, 2))
        os.environ.clear()
        os.environ.update(environment)
        os.chdir(folder)
        raylet = int(os.environ.get("RAY_RAYLET_PID", os.getppid()))
        os.environ["RAY_RAYLET_PID"] = str(os.getppid())  # what Ray's agents take for their parent
        threading.Thread(target=_die_with, args=(asking, raylet), daemon=True).start()
        code = _work(arguments)
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else 0 if end.code is None else 1
    except BaseException:
        traceback.print_exc()
    finally:
        threading._shutdown()  # type: ignore[attr-defined]
        atexit._run_exitfuncs()
        os._exit(code)


def _die_with(asking: socket.socket, raylet: int) -> None:
    """End when the process that Ray started ends, and when the raylet does: Ray's core watches over another number."""
    while psutil.pid_exists(raylet):
        if select.select([asking], [], [], 0.5)[0]:  # nothing is sent before the worker has ended: it was closed
            break
    os.kill(os.getpid(), signal.SIGKILL)


def _work(arguments: list[str]) -> int:
    """Run a program with its arguments; a worker's is what `setup_worker.py` becomes."""
    import ray._raylet
    from ray._private.runtime_env.context import RuntimeEnvContext
    from ray._private.utils import update_envs
    from ray._private.workers import setup_worker

    ray._raylet.Config.initialize("")  # Ray read the server's environment when it was loaded
    if arguments[0].endswith(_WORKER):
        about, arguments = setup_worker.parser.parse_known_args(arguments[1:])
        context = RuntimeEnvContext.deserialize(about.serialized_runtime_env_context or "{}")
        update_envs(context.env_vars)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    sys.argv = arguments
    sys.path[:0] = [str(Path(arguments[0]).parent), *filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))]
    runpy.run_path(arguments[0], run_name="__main__")
    return 0
