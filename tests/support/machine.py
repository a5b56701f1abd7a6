"""The machine under a sweep that is disturbed: a clock that can be set, a small disk, its processes."""

from __future__ import annotations

import contextlib
import os
import shutil
import struct
import subprocess
from pathlib import Path
from typing import Any, Final

import psutil

CLOCK: Final = """
import mmap, os, struct, time
with open(os.environ["CLOCK_OFFSET"], "rb") as file:
    offset = mmap.mmap(file.fileno(), 8, prot=mmap.PROT_READ)
true = time.time
time.time = lambda: true() + struct.unpack("q", offset)[0]
"""


def set_clock() -> None:
    """Make this process follow the clock in its environment, as its workers do from their start."""
    exec(CLOCK, {})


def ray_sessions() -> set[Path]:
    """The folders of Ray's sessions on this machine."""
    return set(Path("/tmp").glob("gbc-*/r/session_2*"))


class JumpingClock:
    """The wall clock of the Python processes that get `environment`: `time.time` alone, as when a machine's time is set.

    Ray's own timers in C++ do not jump.
    """

    def __init__(self, folder: Path) -> None:
        self._file, code = folder / "clock", folder / "jumping"
        self._offset = 0  # seconds
        self._file.write_bytes(struct.pack("q", self._offset))
        code.mkdir()
        (code / "sitecustomize.py").write_text(CLOCK)
        path = os.pathsep.join(filter(None, [str(code), os.environ.get("PYTHONPATH")]))
        self.environment = {"PYTHONPATH": path, "CLOCK_OFFSET": str(self._file)}

    def jump(self, seconds: float) -> None:
        self._offset += int(seconds)
        with self._file.open("r+b") as file:  # in place: it is mapped into memory
            file.write(struct.pack("q", self._offset))


def small_disk(folder: Path, megabytes: int) -> bool:
    """Put a disk of this size at `folder`; whether that is allowed here. `umount` it afterwards."""
    if not shutil.which("mount"):
        return False
    command = ["mount", "-t", "tmpfs", "-o", f"size={megabytes}m", "chaos", str(folder)]
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


def processes_about(folder: Path, but: set[int]) -> list[str]:
    """Processes that know of `folder`, by command line, working folder or environment."""
    about: list[str] = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):
            facts: list[Any] = [*process.cmdline(), process.cwd(), *process.environ().values()]
            if process.pid not in but and any(str(folder) in str(fact) for fact in facts):
                about.append(f"{process.pid}: {' '.join(process.cmdline())}")
    return about
