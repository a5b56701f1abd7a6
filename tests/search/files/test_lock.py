"""Real locks between real processes."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from gbc.errors import BadInput
from search.files.lock import LOCK, LOCK_HOLDER, Driver, current_driver, driver_lock

HOLD = """
import sys
from pathlib import Path
from search.files.lock import driver_lock
with driver_lock(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


@contextmanager
def another_driver(folder: Path) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-c", HOLD, str(folder)]
    with subprocess.Popen(command, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None and process.stdout.readline() == "held\n"
        yield process
        process.kill()


def test_a_second_driver_is_told_who_the_first_is(tmp_path: Path) -> None:
    with another_driver(tmp_path) as first:
        driver = current_driver(tmp_path)
        assert driver is not None and (driver.pid, driver.host) == (first.pid, socket.gethostname())
        refusal = rf"is being run already \(pid {first.pid} on .+, since 20\d\d-\d\d-\d\d \d\d:\d\d:\d\d\); wait"  # golden
        with pytest.raises(BadInput, match=refusal), driver_lock(tmp_path):
            pass


def test_a_dead_drivers_lock_is_taken_over(tmp_path: Path) -> None:
    with another_driver(tmp_path) as first:
        first.kill()
        first.wait()
        assert json.loads((tmp_path / LOCK_HOLDER).read_text())["pid"] == first.pid  # it could not tidy up
        assert current_driver(tmp_path) is None
        with driver_lock(tmp_path):
            assert json.loads((tmp_path / LOCK_HOLDER).read_text())["pid"] == os.getpid()
    assert current_driver(tmp_path) is None and not (tmp_path / LOCK_HOLDER).exists()


def test_asking_keeps_no_driver_out(tmp_path: Path) -> None:
    asking = subprocess.Popen(
        [sys.executable, "-c", "import sys; from pathlib import Path; from search.files.lock import current_driver\n"
         "print('asking', flush=True)\nwhile True: current_driver(Path(sys.argv[1]))", str(tmp_path)],
        text=True, stdout=subprocess.PIPE,
    )  # fmt: skip
    assert asking.stdout is not None and asking.stdout.readline() == "asking\n"
    try:
        for _ in range(20):
            with driver_lock(tmp_path):
                pass
    finally:
        asking.kill()
        asking.communicate()


@pytest.mark.parametrize("content", ["", "{}", "[1]", '{"pid": "x", "host": 1, "since": 2}'])
def test_a_holder_that_cannot_be_read_is_a_driver_all_the_same(tmp_path: Path, content: str) -> None:
    assert current_driver(tmp_path) is None
    with another_driver(tmp_path):
        (tmp_path / LOCK_HOLDER).write_text(content)
        assert current_driver(tmp_path) == Driver(0, "unknown", "a moment ago")
        with pytest.raises(BadInput, match="already; wait"), driver_lock(tmp_path):
            pass
    assert (tmp_path / LOCK).exists()
