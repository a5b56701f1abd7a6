"""The report of a sweep, written by a process of `dashboards/`, which knows nothing of this package: at the end and before."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Final

from records.paths import REPORT
from search.files.paths import sweep_folder
from search.spec.config import SweepConfig
from search.study.ledger import Ledger

_DASHBOARD: Final = Path(__file__).resolve().parents[2] / "dashboards" / "report.py"
_NICE: Final = 10
"""Priority of the process that writes while trials run, lower than theirs."""


def begin_report(name: str, refresh: float | None = None) -> subprocess.Popen[str]:
    """Begin to write `report.html` into the folder of a sweep; with `refresh` the page reloads itself after so many seconds.

    A Ctrl-C for this process does not reach the new one.
    """
    command = [sys.executable, str(_DASHBOARD), "--sweep", name, "--out", str(sweep_folder(name) / REPORT)]
    if refresh is not None:
        command += ["--refresh", str(max(1, round(refresh)))]
    return subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, start_new_session=True
    )


def await_report(process: subprocess.Popen[str]) -> str | None:
    """Wait for what `begin_report` began; the reason in a line if there is no report."""
    _, error = process.communicate()
    if not process.returncode:
        return None
    lines = [line for line in error.splitlines() if line.strip()]
    return (lines[-1] if lines else f"exit code {process.returncode}").removeprefix("error: ")


class LiveReport:
    """Writes the report every so often as long as the context lasts, in a thread that nobody waits for.

    The next process begins a period after the one before has ended, so there are never two.
    """

    def __init__(self, config: SweepConfig, ledger: Ledger, note: Callable[[str], None]) -> None:
        """Without `report_every`, or with 0, it does nothing. `note` is given what fails, a line each."""
        self._name, self._ledger, self._note = config.name, ledger, note
        self._seconds = (config.report_every or 0) * 60
        self._over = threading.Event()
        self._lock = threading.Lock()
        self._process: subprocess.Popen[str] | None = None

    def __enter__(self) -> LiveReport:
        """Begin to wait."""
        if self._seconds:
            threading.Thread(target=self._write_again, args=[self._seconds], name="live-report", daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        """End the process that writes at this moment, if one does: what it would write has been overtaken."""
        with self._lock:
            self._over.set()
            if self._process is not None:
                self._process.kill()
                self._process.wait()

    def _write_again(self, seconds: float) -> None:
        last_fault = None
        while not self._over.wait(seconds):
            if not any(trial.state == "complete" for trial in self._ledger.entries()):
                continue  # there is nothing to show
            fault = self._write(seconds)
            if fault is not None and fault != last_fault and not self._over.is_set():
                self._note(f"note: no report meanwhile: {fault}")
            last_fault = fault

    def _write(self, seconds: float) -> str | None:
        with self._lock:
            if self._over.is_set():
                return None
            try:
                self._process = begin_report(self._name, refresh=seconds)
            except OSError as fault:
                return str(fault)
            with suppress(OSError):
                os.setpriority(os.PRIO_PROCESS, self._process.pid, _NICE)
        return await_report(self._process)
