"""Records that are damaged on purpose, one fault at a time; real training, a real study, a real MLflow store."""

from __future__ import annotations

import json
import re
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest
import torch
from mlflow import MlflowClient
from mlflow.tracking._tracking_service import utils

from gbc import checkpoint
from search.config import SweepConfig
from search.folder import CHECKPOINT, HISTORY, LOG, PICTURE, PREVIOUS, SWEEPS, trial_folder
from search.lock import HOLDER
from search.run import main
from search.tables import read_study
from tests.search.conftest import tiny_sweep
from tests.search.records import move, play
from tests.search.test_lock import another_driver
from tests.search.test_trial import cut_short, flip_a_bit

TRIALS = SWEEPS / "tiny" / "trials"


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory, classifier_cache: Path) -> Iterator[Path]:
    """Trials 0 and 1 complete, 2 stopped at step 6, 3 failed after step 3, 4 open after step 6. One checkpoint is kept."""
    folder = tmp_path_factory.mktemp("records")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        config = SweepConfig.parse(tiny_sweep(trials=5, keep=1), "test")
        play(config, classifier_cache, stop={2: 6}, leave={4: 6}, fail={3: "ray.exceptions.OutOfMemoryError: too much"})
        yield folder


@pytest.fixture(autouse=True)
def place(template: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    move(template, tmp_path)
    utils._artifact_repos_cache.clear()  # by run, and every copy of the template has the same runs
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    return tmp_path


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


def best() -> int:
    return next(number for number in (0, 1) if (TRIALS / f"{number:04d}" / CHECKPOINT).exists())


def worse() -> int:
    return 1 - best()


def lose_reports() -> str:
    """The driver was killed between the study and MLflow."""
    run = run_of(worse())
    store("DELETE FROM metrics WHERE run_uuid = ? AND step > 6", run)
    store("DELETE FROM latest_metrics WHERE run_uuid = ?", run)
    store(
        "INSERT INTO latest_metrics (key, value, timestamp, step, is_nan, run_uuid) "
        "SELECT key, value, timestamp, step, is_nan, run_uuid FROM metrics WHERE run_uuid = ? AND step = 6",
        run,
    )
    return "MLflow ends at step 6, the study at 12"


def lose_a_report_in_the_middle() -> str:
    store("DELETE FROM metrics WHERE run_uuid = ? AND step = 6", run_of(best()))
    return "MLflow's steps have a gap: 6"


def repeat_a_report() -> str:
    client().log_metric(run_of(2), "loss/total", 0.5, step=3)
    return "trial-0002: MLflow's steps repeat: 3"


def change_a_value() -> str:
    store("UPDATE metrics SET value = 0.99 WHERE run_uuid = ? AND key = 'ssim/coverage' AND step = 3", run_of(2))
    return "trial-0002: ssim/coverage differs between MLflow and the study at step 3"


def change_a_parameter() -> str:
    store("UPDATE params SET value = '0.5' WHERE run_uuid = ? AND key = 'lr'", run_of(2))
    return "trial-0002: MLflow's parameters differ: lr is 0.5, not "


def lose_a_run() -> str:
    client().delete_run(run_of(3))
    return "trial-0003: has 0 MLflow runs, not 1"


def double_a_run() -> str:
    original = client().get_run(run_of(2))
    tags = {key: value for key, value in original.data.tags.items() if key != "mlflow.runName"}
    run = client().create_run(original.info.experiment_id, tags=tags, run_name="trial-0002")
    client().log_metric(run.info.run_id, "loss/total", 0.5, step=3)
    return "trial-0002: has 2 MLflow runs, not 1"


def change_an_outcome() -> str:
    client().set_tag(run_of(2), "sweep.outcome", "complete")
    return "trial-0002: stopped in the study, complete in MLflow"


def leave_a_run_open() -> str:
    client().update_run(run_of(4), status="RUNNING")
    return "trial-0004: its MLflow run is RUNNING, and no driver is"


def close_in_mlflow_only() -> str:
    study("UPDATE trials SET state = 'RUNNING' WHERE number = 2")
    return "trial-0002: open in the study, stopped in MLflow"


def lose_the_studys_last_words() -> str:
    """A power cut took what sqlite had not yet synced."""
    study("UPDATE trials SET state = 'RUNNING' WHERE number = 2")
    study("DELETE FROM trial_intermediate_values WHERE step = 6 AND trial_id = (SELECT trial_id FROM trials WHERE number = 2)")
    study("DELETE FROM trial_user_attributes WHERE trial_id = (SELECT trial_id FROM trials WHERE number = 2)")
    return "trial-0002: the study ends at step 3, MLflow at 6"


def leave_temporary_files() -> str:
    child = subprocess.Popen([sys.executable, "-c", ""])
    child.wait()
    (TRIALS / "0004" / f".last.ckpt.{child.pid}-abcdefgh").write_text("half a file")
    (SWEEPS / "tiny" / ".ray" / "run").mkdir(parents=True)
    return f".last.ckpt.{child.pid}-abcdefgh: left by a process that is no more"


def leave_a_lock() -> str:
    (SWEEPS / "tiny" / HOLDER).write_text('{"pid": 1, "host": "x", "since": "y"}')
    return "driver.json: left by a driver that is no more"


def lose_a_picture() -> str:
    (TRIALS / "0002" / PICTURE).unlink()
    return "samples.png: missing"


def lose_mlflows_picture() -> str:
    (found,) = Path("mlruns", "artifacts").rglob(f"{run_of(2)}/**/{PICTURE}")
    found.unlink()
    return "trial-0002: its MLflow run has no samples.png"


def cut_the_open_checkpoint() -> str:
    cut_short(TRIALS / "0004" / CHECKPOINT)
    return "last.ckpt: damaged; the one before it has step 3"


def flip_a_bit_in_the_best() -> str:
    flip_a_bit(TRIALS / f"{best():04d}" / CHECKPOINT)
    return "last.ckpt: damaged"


def lose_the_best() -> str:
    (TRIALS / f"{best():04d}" / CHECKPOINT).unlink()
    return "last.ckpt: missing, and it is the best trial"


def cut_a_history() -> str:
    cut_short(TRIALS / "0002" / HISTORY)
    return "history.json: damaged"


def lose_a_history() -> str:
    (TRIALS / "0002" / HISTORY).unlink()
    return "trial-0002: neither checkpoint nor history on disk"


def double_the_parent() -> str:
    run = client().get_run(run_of(0))
    client().create_run(run.info.experiment_id, tags={"sweep.name": "tiny", "sweep.role": "sweep"}, run_name="tiny")
    return "MLflow has 2 runs for the sweep, not 1"


def leave_the_parent_open() -> str:
    client().update_run(client().get_run(run_of(0)).data.tags["mlflow.parentRunId"], status="RUNNING")
    return "the sweep's MLflow run is RUNNING, not KILLED"


def add_a_stray_run() -> str:
    client().set_tag(client().create_run(client().get_run(run_of(0)).info.experiment_id).info.run_id, "sweep.trial", "77")
    run = store("SELECT run_uuid FROM tags WHERE key = 'sweep.trial' AND value = '77'")[0][0]
    for key, value in (("sweep.name", "tiny"), ("sweep.role", "trial")):
        client().set_tag(str(run), key, value)
    return "is of trial 77, which the study does not know"


def add_a_stray_folder() -> str:
    shutil.copytree(TRIALS / "0002", TRIALS / "0077")
    return "0077: the study knows no such trial"


def lose_the_store() -> str:
    Path("mlflow.db").unlink()
    return "trial-0002: has 0 MLflow runs, not 1"


FAULTS = [
    lose_reports, lose_a_report_in_the_middle, repeat_a_report, change_a_value, change_a_parameter, lose_a_run, double_a_run,
    change_an_outcome, leave_a_run_open, close_in_mlflow_only, lose_the_studys_last_words, leave_temporary_files, leave_a_lock,
    lose_a_picture, lose_mlflows_picture, cut_the_open_checkpoint, flip_a_bit_in_the_best, lose_the_best, cut_a_history,
    lose_a_history, double_the_parent, leave_the_parent_open, add_a_stray_run, add_a_stray_folder, lose_the_store,
]  # fmt: skip


def check(capsys: pytest.CaptureFixture[str], *flags: str) -> tuple[int, str]:
    capsys.readouterr()
    code = main(["--check", "tiny", *flags])
    return code, capsys.readouterr().out


def test_records_that_agree(capsys: pytest.CaptureFixture[str]) -> None:
    assert check(capsys) == (0, "sweep tiny: 5 trials, 13 reports: all records agree\n")
    code, output = check(capsys, "--json", "--repair")
    assert code == 0
    assert json.loads(output) == {
        "name": "tiny", "agree": True, "running": False, "trials": 5, "findings": [], "notes": [], "repaired": [],
    }  # fmt: skip


@pytest.mark.parametrize("fault", FAULTS)
def test_each_fault_is_named_and_mended(fault: Callable[[], str], capsys: pytest.CaptureFixture[str]) -> None:
    before = {entry.number: entry.values for entry in read_study(SWEEPS / "tiny" / "study.db")[0]}
    expected = fault()
    code, output = check(capsys)
    assert code == 1 and expected in output and "--check tiny --repair" in output, output
    code, output = check(capsys, "--repair")
    assert code == 0, output
    assert re.search(rf"^repaired  .*{re.escape(expected)}", output, flags=re.MULTILINE), output
    assert check(capsys)[0] == 0
    # The study has every value it had, and what MLflow holds is what an undisturbed sweep holds.
    after = {entry.number: entry.values for entry in read_study(SWEEPS / "tiny" / "study.db")[0]}
    assert after == before
    for number, values in before.items():
        history = client().get_metric_history(run_of(number), "loss/total")
        assert [point.step for point in history] == list(values)
        assert "ssim/nearest" in client().get_run(run_of(number)).data.metrics


def test_a_best_checkpoint_that_was_damaged_is_trained_again_bit_for_bit(capsys: pytest.CaptureFixture[str]) -> None:
    path = TRIALS / f"{best():04d}" / CHECKPOINT
    before = checkpoint.load(path)["trainer"]
    flip_a_bit(path)
    code, output = check(capsys, "--repair")
    assert code == 0 and "trained again in" in output and "with the same numbers" in output
    after = checkpoint.load(path)["trainer"]
    assert after["step"] == before["step"]
    assert all(torch.equal(after["generator"][key], value) for key, value in before["generator"].items())


def test_the_last_open_trial_ends_the_sweep_when_it_is_closed(capsys: pytest.CaptureFixture[str]) -> None:
    """The driver died between the decision to stop and the trial's end."""
    columns = "trial_user_attributes (trial_id, key, value_json)"
    study(f"INSERT INTO {columns} SELECT trial_id, 'stopped_at', '6' FROM trials WHERE number = 4")
    code, output = check(capsys)
    assert code == 1 and "trial-0004: open in the study, and stopped by its reports" in output
    code, output = check(capsys, "--repair")
    assert code == 0, output
    parent = client().get_run(client().get_run(run_of(4)).data.tags["mlflow.parentRunId"])
    assert parent.info.status == "FINISHED" and parent.data.tags["sweep.best_trial"] == str(best())
    assert client().get_run(run_of(4)).data.tags["sweep.outcome"] == "stopped"


def test_a_kill_between_checkpoint_and_report_is_in_order(capsys: pytest.CaptureFixture[str]) -> None:
    """One report more or less is what a kill leaves, and what the next run mends by itself."""
    study("DELETE FROM trial_intermediate_values WHERE step = 6 AND trial_id = (SELECT trial_id FROM trials WHERE number = 4)")
    run = run_of(4)
    store("DELETE FROM metrics WHERE run_uuid = ? AND step = 6", run)
    code, output = check(capsys)
    assert (
        code == 0 and "note      trial-0004: last.ckpt ends at step 6, the study at 3; the next run reports the rest" in output
    )


def test_what_cannot_be_mended_stays_a_disagreement(capsys: pytest.CaptureFixture[str]) -> None:
    study("DELETE FROM trial_intermediate_values WHERE step = 3 AND trial_id = (SELECT trial_id FROM trials WHERE number = 2)")
    for flags in ((), ("--repair",)):
        code, output = check(capsys, *flags)
        assert code == 1 and "disagree  trial-0002: the study's steps have a gap: 3" in output


def test_lost_checkpoints_of_an_open_trial_are_the_next_runs_to_mend(capsys: pytest.CaptureFixture[str]) -> None:
    for name in (CHECKPOINT, PREVIOUS):
        (TRIALS / "0004" / name).unlink()
    code, output = check(capsys, "--repair")
    assert code == 1 and "trial-0004: no checkpoint on disk; the next run trains it again, with the same numbers" in output


def test_a_running_sweep_is_audited_and_not_repaired(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    leave_a_run_open()
    change_an_outcome()
    with another_driver(place / SWEEPS / "tiny") as driver:
        code, output = check(capsys)
        assert code == 1 and "trial-0002: stopped in the study" in output and "trial-0004" not in output
        assert main(["--check", "tiny", "--repair"]) == 2
        error = capsys.readouterr().err
        assert error.count("\n") == 1 and f"sweep 'tiny' is being run already (pid {driver.pid} on " in error
        client().set_tag(run_of(2), "sweep.outcome", "stopped")
        assert check(capsys)[0] == 0


def test_a_failed_trial_says_why_and_where_to_read_more() -> None:
    run = client().get_run(run_of(3))
    assert run.info.status == "FAILED"
    assert run.data.tags["sweep.reason"] == "ray.exceptions.OutOfMemoryError: too much"
    assert run.data.tags["sweep.retries"] == "2"
    log = Path(run.data.tags["sweep.log"])
    assert log == trial_folder(SWEEPS / "tiny", 3) / LOG and log.read_text().startswith("Traceback")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--check", "tinny"], "no sweep 'tinny' here; did you mean 'tiny'?"),
        (["--status", "tinny"], "no sweep 'tinny' here; did you mean 'tiny'?"),
        (["--check", "../tiny"], "no sweep '../tiny' here"),
        (["--repair"], "--repair needs to know which sweep; write --check NAME --repair"),
        (["--repair", "--list"], "--repair needs to know which sweep"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and error.count("\n") == 1 and message in error


def test_records_that_cannot_be_read_are_named(capsys: pytest.CaptureFixture[str]) -> None:
    (SWEEPS / "tiny" / "study.db").write_bytes(b"not a database" * 500)
    assert main(["--check", "tiny"]) == 2
    assert "study.db: damaged" in capsys.readouterr().err
    (SWEEPS / "tiny" / "sweep.yaml").write_text("trial: [")
    assert main(["--check", "tiny"]) == 2
    assert "sweep.yaml: not valid YAML" in capsys.readouterr().err
    Path("mlflow.db").write_bytes(b"not a database" * 500)
    assert main(["--status", "tiny"]) == 2
