"""The records of a sweep without Ray: real training, a real study and a real MLflow store, written by the recorder itself.

What is asked and changed here in SQL is of the sweep `tiny` in this folder.
"""

from __future__ import annotations

import io
import shutil
import sqlite3
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml
from mlflow import MlflowClient
from rich.console import Console

from gbc.training import tasks
from search.driver.progress import Progress
from search.driver.recorder import Recorder
from search.driver.summary import sum_up
from search.files.paths import PICTURE, RECORD, SWEEPS, folder_of, trial_folder
from search.policy.budget import spent
from search.run import main
from search.spec.config import SweepConfig
from search.study import warm_start
from search.study.ledger import Ledger
from search.tracking.lineage import Inputs
from search.tracking.tracker import Tracker
from search.worker.trial import assignment_of, rows


def play(config: SweepConfig, cache: Path, stop: dict[int, int], leave: dict[int, int], fail: dict[int, str]) -> None:
    """Run every trial in this process and folder, as a driver would.

    `stop` are the steps at which the scheduler stops a trial, `leave` those after which it stays open (0: it never starts),
    and `fail` trials whose workers die after the first report until no retry is left, with the last line of the error.
    """
    folder = folder_of(config.name)
    folder.mkdir(parents=True)
    (folder / RECORD).write_text(yaml.safe_dump(config.model_dump(mode="json", exclude_none=True)))
    (folder / ".lock").touch()
    prior = warm_start.load(config)
    noted = warm_start.note(config, prior, folder)
    inputs = Inputs(tasks.obtain(config.trial, cache), config.trial)
    ledger, tracker = Ledger(config, folder, prior), Tracker(config, {}, inputs)
    tracker.begin(noted, {})
    recorder = Recorder(ledger, tracker, Progress(config, Console(file=io.StringIO())), folder)
    for number in range(config.trials):
        if leave.get(number) == 0:
            ledger.ask()
            continue
        assignment = assignment_of(config, ledger.ask(), cache, threads=1)
        trial: Any = SimpleNamespace(config=assignment, error_file=None)
        recorder.on_trial_start(0, [], trial)
        for row in rows(assignment):
            recorder.on_trial_result(0, [], trial, {**row, "done": stop.get(number) == row["step"]})
            if row["step"] in (stop.get(number), leave.get(number)) or number in fail:
                break
        if number in fail:
            trial.error_file = str(folder / "ray-error.txt")
            Path(trial.error_file).write_text(f"Traceback (most recent call last):\n  …\n{fail[number]}\n")
            for _ in range(config.retries):
                recorder.on_trial_recover(0, [], trial)
            recorder.on_trial_error(0, [], trial)
            Path(trial.error_file).unlink()
        elif number not in leave:
            recorder.on_trial_complete(0, [], trial)
    if spent(config, ledger.entries(), recorder.elapsed()):
        recorder.close_open()
    recorder.finish()
    summary = sum_up(config, ledger, tracker.metrics, folder)
    front = [point["trial"] for point in summary.front]
    picture = None if summary.best_trial is None else trial_folder(folder, summary.best_trial) / PICTURE
    tracker.end("FINISHED" if summary.finished else "KILLED", summary.best_metrics, summary.best_trial, picture, front)
    ledger.close()


def move(source: Path, target: Path) -> None:
    """Copy a folder with a sweep; MLflow's absolute paths follow."""
    shutil.copytree(source, target, dirs_exist_ok=True)
    with closing(sqlite3.connect(target / "mlflow.db")) as store, store:
        for table, column in (("experiments", "artifact_location"), ("runs", "artifact_uri")):
            store.execute(f"UPDATE {table} SET {column} = replace({column}, ?, ?)", (str(source), str(target)))


def sql(file: Path | str, statement: str, *values: object) -> list[tuple[object, ...]]:
    with closing(sqlite3.connect(file)) as connection, connection:
        return connection.execute(statement, values).fetchall()


def store(statement: str, *values: object) -> list[tuple[object, ...]]:
    return sql("mlflow.db", statement, *values)


def study(statement: str, *values: object) -> None:
    sql(SWEEPS / "tiny" / "study.db", statement, *values)


def client() -> MlflowClient:
    return MlflowClient(f"sqlite:///{Path('mlflow.db').resolve()}")  # MLflow remembers stores by address


def run_of(trial: int) -> str:
    ((run,),) = store(
        "SELECT run_uuid FROM tags JOIN runs USING (run_uuid) "
        "WHERE key = 'sweep.trial' AND tags.value = ? AND lifecycle_stage = 'active'",
        str(trial),
    )
    return str(run)


def check(capsys: pytest.CaptureFixture[str], *flags: str) -> tuple[int, str]:
    capsys.readouterr()
    code = main(["--check", "tiny", *flags])
    return code, capsys.readouterr().out
