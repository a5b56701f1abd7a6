"""The share of a sweep's wall time in which its trials compute: `python tests/benchmarks/share.py --dataset fashion_mnist`.

Runs `search/run.py` with the words given, in the folder where it is called, and adds up the CPU time of the workers from the
moment when every slot has a trial until they are gone. With one thread a trial, 1 means that no core of theirs was idle.
"""

from __future__ import annotations

import contextlib
import re
import subprocess
import sys
import threading
import time
from pathlib import Path

import psutil

ROOT = Path(__file__).resolve().parents[2]


def main() -> int:
    began = time.perf_counter()
    command = [sys.executable, str(ROOT / "search" / "run.py"), *sys.argv[1:]]
    driver = subprocess.Popen(command, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    assert driver.stdout is not None
    slots, running, ready = 0, 0, None
    sampler = Sampler(driver.pid)
    for line in driver.stdout:
        print(line, end="", flush=True)
        if announced := re.search(r"(\d+) at a time on", line):
            slots = int(announced[1])
        running += bool(re.match(r"trial \d+  (starts|continues)", line))
        if ready is None and slots and running == slots:
            ready = time.perf_counter()
            sampler.start()
    driver.wait()
    assert ready is not None, "the sweep was over before every slot had a trial"
    busy, until = sampler.stop()
    wall = until - ready
    print(f"\n{slots} trials at a time after {ready - began:.1f} s; from then on {wall:.0f} s until the last worker was seen")
    print(f"workers computed {busy / (slots * wall):.3f} of that; the driver took {sampler.driver_cpu:.0f} s of CPU in all")
    return driver.returncode


class Sampler(threading.Thread):
    """CPU time of the processes that hold trials, read once a second."""

    def __init__(self, driver: int) -> None:
        super().__init__(daemon=True)
        self._driver = psutil.Process(driver)
        self._first: dict[int, float] = {}
        self._last: dict[int, float] = {}
        self._over = threading.Event()
        self._seen = 0.0
        self.driver_cpu = 0.0

    def run(self) -> None:
        while not self._over.is_set():
            with contextlib.suppress(psutil.Error):
                self.driver_cpu = sum(self._driver.cpu_times()[:2])
                for process in self._driver.children(recursive=True):
                    with contextlib.suppress(psutil.Error):
                        if process.name().startswith("ray::"):
                            used = sum(process.cpu_times()[:2])
                            self._first.setdefault(process.pid, used)
                            self._last[process.pid] = used
                            self._seen = time.perf_counter()
            self._over.wait(1.0)

    def stop(self) -> tuple[float, float]:
        """CPU seconds of the workers, and the moment when one was last seen."""
        self._over.set()
        self.join()
        return sum(used - self._first[pid] for pid, used in self._last.items()), self._seen


if __name__ == "__main__":
    sys.exit(main())
