"""Faults from outside are told from those of a trial, real ones: a locked database, a full device, a dead process."""

from __future__ import annotations

import contextlib
import os
import re
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from gbc.checkpoint import write_atomic
from gbc.errors import BadInput, Diverged
from search.driver.processes import (
    death_of_daemons,
    delete_session,
    kill_processes,
    remember_session,
    sweep_processes,
    tag_processes,
)
from search.spec import faults
from search.spec.config import SweepConfig
from search.spec.faults import Clock, Halted, HaltMonitor, external_fault, halting
from search.study.ledger import Ledger
from search.tracking.tracker import Tracker
from search.worker.watchdog import silence_limit, take_hang_report
from tests.search.conftest import tiny_sweep
from tests.support import ROOT
from tests.support.stores import lay_down_store


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("BEGIN EXCLUSIVE")
        yield


def test_a_study_that_stays_locked_halts_the_sweep(
    config: SweepConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(faults, "PATIENCE", 0.1)
    ledger = Ledger(config, tmp_path)
    ledger.ask()
    halt = HaltMonitor(tmp_path)
    with locked(tmp_path / "study.db"), halt.guard():
        ledger.record(0, 3, 0.5, stop=False)
        ledger.flush()
    assert halt.reason == "the study has been locked by another process for a minute"  # golden
    assert halt.records_fail
    assert not ledger.study.trials[0].intermediate_values
    ledger.flush()
    assert ledger.study.trials[0].intermediate_values == {3: 0.5}
    ledger.close()
    with pytest.raises(Halted, match=r"study .*locked"), locked(tmp_path / "study.db"), halting(tmp_path):
        Ledger(config, tmp_path)


@pytest.mark.long
def test_an_mlflow_store_that_stays_locked_halts_the_sweep(
    config: SweepConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(faults, "PATIENCE", 0.1)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path / 'mlflow.db'}")
    lay_down_store(tmp_path)
    tracker, halt = Tracker(config, {}), HaltMonitor(tmp_path)
    with locked(tmp_path / "mlflow.db"), halt.guard():
        tracker.open_trial(0, {})
    assert re.match("MLflow's store .*locked", halt.reason or "")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
def test_a_full_disk_is_nobodys_fault(tmp_path: Path) -> None:
    try:
        with open("/dev/full", "wb") as file:
            file.write(b"x" * 100_000)
    except OSError as fault:
        assert (external_fault(fault, tmp_path) or "").startswith("no space left")
    assert external_fault(Diverged(3, "loss/total"), tmp_path) is None
    assert external_fault(ZeroDivisionError(), tmp_path) is None
    try:
        write_atomic(Path("/proc/nowhere/file"), b"")
    except BadInput as fault:  # the folder cannot be made: that is the user's to mend
        assert external_fault(fault, tmp_path) is None


def test_what_a_killed_driver_started_is_ended_and_nothing_else(tmp_path: Path) -> None:
    sleep = [sys.executable, "-c", "import time; time.sleep(60)"]
    with tag_processes(tmp_path / "one"):
        first = subprocess.Popen(sleep)
    with tag_processes(tmp_path / "other"):
        second = subprocess.Popen(sleep)
    assert [process.pid for process in sweep_processes(tmp_path / "one")] == [first.pid]
    daemons = [psutil.Process(first.pid)]
    assert death_of_daemons(daemons) is None
    kill_processes(tmp_path / "one")
    assert "died" in (death_of_daemons(daemons) or "")
    first.wait(10)
    assert second.poll() is None
    kill_processes(tmp_path / "other")
    second.wait(10)
    assert "GBC_SWEEP" not in os.environ


def test_a_process_that_wrote_over_its_environment_is_known_by_its_log(tmp_path: Path) -> None:
    """Ray's agents put their title there, and sometimes outlive a raylet that was killed."""
    sweep, session = tmp_path / "sweep", tmp_path / "gbc-session"
    session.mkdir()
    remember_session(sweep / ".ray", session)
    program = "import sys, time; log = open(sys.argv[1], 'w'); print(flush=True); time.sleep(60)"
    agent = subprocess.Popen([sys.executable, "-c", program, str(session / "agent.log")], stdout=subprocess.PIPE)
    assert agent.stdout is not None and agent.stdout.readline()
    with (session / "driver.log").open("w"):  # our own, which must not be ended
        assert [process.pid for process in sweep_processes(sweep)] == [agent.pid]
        kill_processes(sweep)
    agent.wait(10)
    agent.stdout.close()


def test_rays_folder_goes_with_the_note_of_it_and_nothing_else_does(tmp_path: Path) -> None:
    session, scratch = tmp_path / "gbc-session", tmp_path / "sweep" / ".ray"
    session.mkdir()
    for written, last, goes in ((tmp_path, "\n", False), (session, "", False), (session, "\n", True)):
        remember_session(scratch, written)
        (scratch / "session").write_text(f"{written}{last}")  # without its end: a note cut short
        delete_session(scratch)
        assert session.exists() != goes and not scratch.exists()
    delete_session(scratch)  # nothing to do


def test_a_limit_is_what_is_asked_or_follows_the_speed() -> None:
    config = SweepConfig.parse(tiny_sweep(), "test")
    assert silence_limit(config, steps_per_second=100.0) == 600
    assert silence_limit(config, steps_per_second=0.01) == 20 * 3 / 0.01
    assert silence_limit(config.model_copy(update={"hang_limit": 0.5}), 100.0) == 30


@pytest.mark.parametrize("silence", ["time.sleep(60)", "sum(range(10**12))"])  # the latter keeps the interpreter to itself
@pytest.mark.parametrize("to_file", [True, False], ids=["file", "standard error"])
def test_a_process_that_is_silent_too_long_says_where_it_is_and_ends(tmp_path: Path, silence: str, to_file: bool) -> None:
    file = tmp_path / "reports" / "hang"
    program = (
        "import sys, time\nfrom search.worker.watchdog import with_watchdog\n"
        "def work():\n    yield 1\n    yield 2\n"
        f"    {silence}  # here\n    yield 3\n"
        "for item in with_watchdog(work(), 0.5, sys.argv[1]):\n"
        "    time.sleep(0.8)  # the driver takes its time\n    print(item)\n"
    )
    (tmp_path / "program.py").write_text(program)
    ended = subprocess.run(
        [sys.executable, "-u", str(tmp_path / "program.py"), str(file) if to_file else ""],
        env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True, timeout=30, check=False,
    )  # fmt: skip
    assert ended.returncode == 1 and ended.stdout == "1\n2\n"
    if not to_file:
        assert "line 6 in work" in ended.stderr and not file.parent.exists()
        return
    hang_report = take_hang_report(file)
    assert hang_report is not None
    reason, traceback_text = hang_report
    assert " 0 s" in reason and "error.log" in reason and "line 6 in work" in traceback_text
    assert take_hang_report(file) is None  # once


def test_a_clock_that_is_set_back_is_noticed_whatever_it_did_before() -> None:
    wall, steady = [1000.0], [10.0]
    clock = Clock(lambda: wall[0], lambda: steady[0])
    for at, passed in ((4600, 20), (4590, 30), (4580, 50)):  # an hour forward, then back by seconds
        wall[0], steady[0] = at, passed
        assert clock.set_back() is None
    wall[0] = 1030.0
    assert re.search("clock .*60 minutes", clock.set_back() or "")
