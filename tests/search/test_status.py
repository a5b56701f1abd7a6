"""The view of a sweep from another terminal; a real study, written by Optuna, read as the file it is."""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from records.paths import RECORD
from search.files.paths import sweep_folder
from search.run import main
from search.spec.config import SweepConfig
from search.status import read_overview, read_overviews
from search.study.ledger import Ledger
from tests.search.conftest import fill, tiny_sweep
from tests.search.files.test_lock import another_driver
from tests.support import ROOT, missing
from tests.support.records import read_study


@pytest.fixture(autouse=True)
def _in_a_new_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def make(name: str, **changes: object) -> tuple[SweepConfig, Path]:
    """A sweep with a trial of each kind; the last is open."""
    config = SweepConfig.parse(tiny_sweep(name=name, **changes), "test")
    folder = sweep_folder(name)
    folder.mkdir(parents=True)
    (folder / RECORD).write_text(yaml.safe_dump(config.model_dump(mode="json", exclude_none=True)))
    ledger = Ledger(config, folder)
    fill(ledger, (0.25, "complete"), (0.5, "complete"), (0.125, "stopped"), (0.0625, "failed"), (0.75, None))
    ledger.count_lost_worker(4)
    ledger.set_seconds(100.0)
    ledger.close()
    return config, folder


def test_the_file_says_what_optuna_says(tmp_path: Path) -> None:
    """Pins the tables that are read."""
    config, folder = make("tiny")
    ledger = Ledger(config, folder)
    for value in (math.nan, math.inf, -math.inf):
        ledger.record(ledger.ask().number, 3, value, stop=False)
    ledger.flush()
    entries, seconds = read_study(folder / "study.db")  # while Optuna has it open
    assert repr(entries) == repr(ledger.entries()) and seconds == ledger.seconds == 100.0  # repr: NaN equals nothing
    assert {type(value) for value in entries[0].params.values()} == {float, int}
    ledger.close()
    assert repr(read_study(folder / "study.db")[0]) == repr(entries)


def test_looking_changes_no_file() -> None:
    _, folder = make("tiny")

    def files() -> dict[str, str]:
        return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.iterdir() if path.is_file()}

    before = files()
    read_overview("tiny")
    assert files() == before


def test_the_study_of_a_driver_that_was_killed_can_be_read() -> None:
    """Its last words are in the write-ahead log."""
    config, folder = make("tiny", trials=9)
    program = f"""
import os, signal, yaml
from pathlib import Path
from search.spec.config import SweepConfig
from search.study.ledger import Ledger
config = SweepConfig.parse(yaml.safe_load(Path({str(folder / RECORD)!r}).read_text()), "test")
ledger = Ledger(config, Path({str(folder)!r}))
ledger.record(ledger.ask().number, 3, 0.375, stop=False)
ledger.flush()
os.kill(os.getpid(), signal.SIGKILL)
"""
    done = subprocess.run([sys.executable, "-c", program], check=False, env={**os.environ, "PYTHONPATH": str(ROOT)})
    assert done.returncode == -signal.SIGKILL and (folder / "study.db-wal").stat().st_size
    entries, _ = read_study(folder / "study.db")
    assert entries[5].values == {3: 0.375}
    assert Ledger(config, folder).entries() == entries  # and nothing was lost by reading


def test_states_counts_and_what_is_left(tmp_path: Path) -> None:
    make("half", time_budget=5.0, trials=9)
    overview = read_overview("half")
    assert (overview.state, overview.complete, overview.stopped, overview.failed, overview.open) == ("interrupted", 2, 1, 1, 1)
    assert (overview.best_trial, overview.best_value, overview.objective) == (1, 0.5, "ssim/coverage")
    assert (overview.trials, overview.trials_left, overview.seconds, overview.seconds_left) == (9, 4, 100.0, 200.0)
    assert overview.running == [{"trial": 4, "step": 6, "steps": 12, "value": 0.75}]
    assert overview.failures == [{"trial": 3, "reason": "MemoryError", "retries": 0, "log": None}]
    assert overview.bytes > 10_000
    with another_driver(tmp_path / sweep_folder("half")) as driver:
        running = read_overview("half")
        assert running.state == "running" and running.driver is not None and running.driver["pid"] == driver.pid
    config, folder = make("done", trials=5)
    ledger = Ledger(config, folder)
    ledger.tell(4, "stopped")
    ledger.close()
    assert read_overview("done").state == "finished"
    assert [(sweep.name, sweep.state) for sweep in read_overviews()] == [
        ("done", "finished"),
        ("half", "interrupted"),
    ]


def test_every_budget_says_what_it_has_left(capsys: pytest.CaptureFixture[str]) -> None:
    config, folder = make("half", trials=9, max_steps=100, patience=3)
    overview = read_overview("half")
    assert (overview.steps, overview.steps_left, overview.patience_left, overview.ended_by) == (42, 58, 3, None)
    assert main(["--status", "half"]) == 0
    shown = capsys.readouterr().out
    assert re.search(r"\b4 trials .*; 58 steps .*; .*\b3 ", shown), shown
    ledger = Ledger(config, folder)
    ledger.record(4, 12, 0.375, stop=False)
    ledger.tell(4, "complete")
    for value in (0.5, 0.125):  # as good is not better
        number = ledger.ask().number
        ledger.record(number, 12, value, stop=False)
        ledger.tell(number, "complete")
    ledger.close()
    overview = read_overview("half")
    assert (overview.state, overview.ended_by, overview.steps_left, overview.patience_left) == ("finished", "patience", 28, 0)
    assert main(["--status", "half"]) == 0
    assert re.search("^ended     .*--patience", capsys.readouterr().out, re.MULTILINE)


def test_a_folder_without_sweeps_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["--list"]) == 0
    assert f"{tmp_path}/mlruns/sweeps" in capsys.readouterr().out
    assert main(["--status", "mine"]) == 2
    assert not missing(["'mine'", f"{tmp_path}/mlruns/sweeps", "search/run.py"], capsys.readouterr().err)


def test_the_list_and_the_status_are_for_people_and_programs(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--list"]) == 0
    assert capsys.readouterr().out.endswith(" python search/run.py\n")
    make("half", time_budget=5.0, trials=9)
    broken = sweep_folder("broken")
    broken.mkdir()
    (broken / "study.db").write_bytes(b"not a database" * 500)
    assert main(["--list"]) == 0
    head, first, second = capsys.readouterr().out.splitlines()
    assert head.split() == ["sweep", "state", "trials", "best", "time", "on", "disk"]
    assert first.startswith("broken  damaged") and "sweep.yaml: " in first
    assert re.match(r"half    interrupted  4 of 9 \(2 complete, 1 stopped.*, 1 failed, 1 open\)", second), second
    assert "ssim/coverage 0.5 (trial 1)" in second and "2 min" in second
    assert main(["--list", "--json"]) == 0
    data = json.loads(capsys.readouterr().out)
    assert [(sweep["name"], sweep["state"], sweep["best_value"]) for sweep in data] == [
        ("broken", "damaged", None), ("half", "interrupted", 0.5),
    ]  # fmt: skip

    assert main(["--status", "half"]) == 0
    shown = capsys.readouterr().out
    assert shown.startswith("sweep half: interrupted\n")
    assert "open      0004  step 6/12  ssim/coverage 0.75" in shown
    assert "failed    0003  MemoryError\n" in shown
    assert re.search(r"\b4 trials .*; 3 min ", shown), shown
    assert main(["--status", "half", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["running"][0]["step"] == 6


def test_list_and_status_import_nothing_heavy() -> None:
    for name in ("one", "two"):
        make(name)
    for arguments in (["--list"], ["--status", "one", "--json"]):
        program = f"""
import runpy, sys
sys.argv = ["search/run.py", *{arguments!r}]
try:
    runpy.run_path({str(ROOT / "search" / "run.py")!r}, run_name="__main__")
except SystemExit as end:
    assert end.code == 0
heavy = {{"torch", "ray", "mlflow", "optuna", "pandas", "numpy"}} & set(sys.modules)
assert not heavy, heavy
"""
        subprocess.run([sys.executable, "-c", program], check=True, capture_output=True)


@pytest.mark.parametrize("arguments", [["--list", "--status", "x"], ["--status", "x", "--check", "x"]])
def test_two_commands_at_once_are_refused(arguments: list[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == 2
