"""The records of a sweep without Ray: real training, a real study and a real MLflow store, written by the recorder itself.

What is asked and changed here in SQL is of the sweep `tiny` in this folder.
"""

from __future__ import annotations

import io
import shutil
import sqlite3
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path

import pytest
import yaml
from mlflow import MlflowClient
from rich.console import Console

from gbc.training import tasks
from records.addresses import sqlite_url
from records.paths import RECORD, SWEEPS
from records.study import Study
from records.trial import TrialRecord
from search.driver.progress import ProgressDisplay
from search.driver.recorder import Recorder, WorkerFailure
from search.driver.summary import summarise
from search.files.paths import PICTURE, sweep_folder, trial_folder
from search.policy.budget import exhausted_budget
from search.policy.early_stopping import Decision
from search.run import main
from search.spec.config import SweepConfig
from search.study import warm_start
from search.study.ledger import Ledger
from search.tracking.lineage import Inputs
from search.tracking.tracker import Tracker
from search.worker.messages import Progress
from search.worker.trial import assignment_of, train
from tests.support.stores import lay_down_store


class Script:
    """A stopping rule that stops trials at the steps it was given, by number."""

    def __init__(self, stop: Mapping[int, int]) -> None:
        self.stop = stop

    def decide(self, number: int, step: int, value: float, second: float | None = None) -> Decision:
        return Decision.STOP if self.stop.get(number) == step else Decision.KEEP


def play(config: SweepConfig, cache: Path, stop: dict[int, int], leave: dict[int, int], fail: dict[int, str]) -> None:
    """Run every trial in this process and folder, as a driver would.

    `stop` are the steps at which the scheduler stops a trial, `leave` those after which it stays open (0: it never starts),
    and `fail` trials whose workers die after the first report until no retry is left, with the last line of the error.
    """
    if not Path("mlflow.db").exists():
        lay_down_store(Path())
    folder = sweep_folder(config.name)
    folder.mkdir(parents=True)
    (folder / RECORD).write_text(yaml.safe_dump(config.model_dump(mode="json", exclude_none=True)))
    (folder / ".lock").touch()
    prior = warm_start.load(config)
    noted = warm_start.write_note(config, prior, folder)
    inputs = Inputs([(config.trial, tasks.obtain(config.trial, cache))])
    ledger, tracker = Ledger(config, folder, prior), Tracker(config, {}, inputs)
    tracker.begin(noted, {})
    recorder = Recorder(ledger, tracker, ProgressDisplay(config, Console(file=io.StringIO())), folder, Script(stop))
    for number in range(config.trials):
        if leave.get(number) == 0:
            ledger.ask()
            continue
        assignment = assignment_of(config, ledger.ask(), cache, threads=1)
        recorder.started(assignment)
        for message in train(assignment):
            assert isinstance(message, Progress)
            recorder.reported(assignment, message)
            if message.step in (stop.get(number), leave.get(number)) or number in fail:
                break
        if number in fail:
            for _ in range(config.retries):
                recorder.recovered(number)
            log = f"Traceback (most recent call last):\n  …\n{fail[number]}\n"
            recorder.ended(number, WorkerFailure(fail[number], log))
        elif number not in leave:
            recorder.ended(number)
    if exhausted_budget(config, ledger.entries(), recorder.elapsed()):
        recorder.close_open_trials()
    recorder.finish()
    summary = summarise(config, ledger, tracker.metrics, folder)
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


def read_study(path: Path) -> tuple[list[TrialRecord], float]:
    return Study("", None, path).trials()


def sql(file: Path | str, statement: str, *values: object) -> list[tuple[object, ...]]:
    with closing(sqlite3.connect(file)) as connection, connection:
        return connection.execute(statement, values).fetchall()


def store(statement: str, *values: object) -> list[tuple[object, ...]]:
    return sql("mlflow.db", statement, *values)


def study(statement: str, *values: object) -> None:
    sql(SWEEPS / "tiny" / "study.db", statement, *values)


def client() -> MlflowClient:
    return MlflowClient(sqlite_url(Path("mlflow.db").resolve()))  # MLflow remembers stores by address


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
