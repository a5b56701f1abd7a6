"""Damage to the records of the sweep `tiny` in this folder; each function does one fault and gives its names and values."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

from records.paths import SWEEPS
from search.files.lock import LOCK_HOLDER
from search.files.paths import CHECKPOINT, HISTORY, PICTURE
from tests.search.worker.test_trial import cut_short, flip_a_bit
from tests.support.records import client, run_of, store, study

TRIALS = SWEEPS / "tiny" / "trials"


def best() -> int:
    return next(number for number in (0, 1) if (TRIALS / f"{number:04d}" / CHECKPOINT).exists())


def worse() -> int:
    return 1 - best()


def trial(number: int) -> str:
    return f"trial-{number:04d}"


def lose_reports() -> list[str]:
    """The driver was killed between the study and MLflow."""
    run = run_of(worse())
    store("DELETE FROM metrics WHERE run_uuid = ? AND step > 6", run)
    store("DELETE FROM latest_metrics WHERE run_uuid = ?", run)
    store(
        "INSERT INTO latest_metrics (key, value, timestamp, step, is_nan, run_uuid) "
        "SELECT key, value, timestamp, step, is_nan, run_uuid FROM metrics WHERE run_uuid = ? AND step = 6",
        run,
    )
    return [trial(worse()), "MLflow", " 6", "study", " 12"]


def lose_a_report_in_the_middle() -> list[str]:
    store("DELETE FROM metrics WHERE run_uuid = ? AND step = 6", run_of(best()))
    return [trial(best()), "MLflow", " 6"]


def repeat_a_report() -> list[str]:
    client().log_metric(run_of(2), "loss/total", 0.5, step=3)
    return [trial(2), "MLflow", " 3"]


def change_a_value() -> list[str]:
    store("UPDATE metrics SET value = 0.99 WHERE run_uuid = ? AND key = 'ssim/coverage' AND step = 3", run_of(2))
    return [trial(2), "ssim/coverage", "MLflow", "study", " 3"]


def change_a_parameter() -> list[str]:
    store("UPDATE params SET value = '0.5' WHERE run_uuid = ? AND key = 'lr'", run_of(2))
    return [trial(2), "MLflow", "lr ", " 0.5"]


def lose_a_run() -> list[str]:
    client().delete_run(run_of(3))
    return [trial(3), "MLflow", " 0 ", " 1"]


def double_a_run() -> list[str]:
    original = client().get_run(run_of(2))
    tags = {key: value for key, value in original.data.tags.items() if key != "mlflow.runName"}
    run = client().create_run(original.info.experiment_id, tags=tags, run_name="trial-0002")
    client().log_metric(run.info.run_id, "loss/total", 0.5, step=3)
    return [trial(2), "MLflow", " 2 ", " 1"]


def change_an_outcome() -> list[str]:
    client().set_tag(run_of(2), "sweep.outcome", "complete")
    return [trial(2), "stopped", "study", "complete", "MLflow"]


def leave_a_run_open() -> list[str]:
    client().update_run(run_of(4), status="RUNNING")
    return [trial(4), "MLflow", "RUNNING"]


def close_in_mlflow_only() -> list[str]:
    study("UPDATE trials SET state = 'RUNNING' WHERE number = 2")
    return [trial(2), "open", "study", "stopped", "MLflow"]


def lose_the_studys_last_words() -> list[str]:
    """A power cut took what sqlite had not yet synced."""
    study("UPDATE trials SET state = 'RUNNING' WHERE number = 2")
    study("DELETE FROM trial_intermediate_values WHERE step = 6 AND trial_id = (SELECT trial_id FROM trials WHERE number = 2)")
    study("DELETE FROM trial_user_attributes WHERE trial_id = (SELECT trial_id FROM trials WHERE number = 2)")
    return [trial(2), "study", " 3", "MLflow", " 6"]


def leave_temporary_files() -> list[str]:
    child = subprocess.Popen([sys.executable, "-c", ""])
    child.wait()
    (TRIALS / "0004" / f".last.ckpt.{child.pid}-abcdefgh").write_text("half a file")
    (SWEEPS / "tiny" / ".ray" / "run").mkdir(parents=True)
    return [f".last.ckpt.{child.pid}-abcdefgh"]


def leave_a_lock() -> list[str]:
    (SWEEPS / "tiny" / LOCK_HOLDER).write_text('{"pid": 1, "host": "x", "since": "y"}')
    return [LOCK_HOLDER]


def lose_a_picture() -> list[str]:
    (TRIALS / "0002" / PICTURE).unlink()
    return [trial(2), PICTURE]


def lose_mlflows_picture() -> list[str]:
    (picture,) = Path("mlruns", "artifacts").rglob(f"{run_of(2)}/**/{PICTURE}")
    picture.unlink()
    return [trial(2), "MLflow", PICTURE]


def cut_the_open_checkpoint() -> list[str]:
    cut_short(TRIALS / "0004" / CHECKPOINT)
    return [trial(4), CHECKPOINT, " 3"]


def flip_a_bit_in_the_best() -> list[str]:
    flip_a_bit(TRIALS / f"{best():04d}" / CHECKPOINT)
    return [trial(best()), CHECKPOINT]


def lose_the_best() -> list[str]:
    path = TRIALS / f"{best():04d}" / CHECKPOINT
    path.unlink()
    return [str(path), "best"]


def cut_a_history() -> list[str]:
    cut_short(TRIALS / "0002" / HISTORY)
    return [trial(2), HISTORY]


def lose_a_history() -> list[str]:
    (TRIALS / "0002" / HISTORY).unlink()
    return [trial(2), "checkpoint", "history"]


def double_the_parent() -> list[str]:
    run = client().get_run(run_of(0))
    client().create_run(run.info.experiment_id, tags={"sweep.name": "tiny", "sweep.role": "sweep"}, run_name="tiny")
    return ["MLflow", " 2 ", " 1"]


def leave_the_parent_open() -> list[str]:
    client().update_run(client().get_run(run_of(0)).data.tags["mlflow.parentRunId"], status="RUNNING")
    return ["MLflow", "RUNNING", "KILLED"]


def add_a_stray_run() -> list[str]:
    client().set_tag(client().create_run(client().get_run(run_of(0)).info.experiment_id).info.run_id, "sweep.trial", "77")
    run = store("SELECT run_uuid FROM tags WHERE key = 'sweep.trial' AND value = '77'")[0][0]
    for key, value in (("sweep.name", "tiny"), ("sweep.role", "trial")):
        client().set_tag(str(run), key, value)
    return ["MLflow", " 77", "study"]


def add_a_stray_folder() -> list[str]:
    shutil.copytree(TRIALS / "0002", TRIALS / "0077")
    return [str(TRIALS / "0077"), "study"]


def lose_the_store() -> list[str]:
    Path("mlflow.db").unlink()
    return [trial(2), "MLflow", " 0 ", " 1"]


FAULTS = [
    lose_reports, lose_a_report_in_the_middle, repeat_a_report, change_a_value, change_a_parameter, lose_a_run, double_a_run,
    change_an_outcome, leave_a_run_open, close_in_mlflow_only, lose_the_studys_last_words, leave_temporary_files, leave_a_lock,
    lose_a_picture, lose_mlflows_picture, cut_the_open_checkpoint, flip_a_bit_in_the_best, lose_the_best, cut_a_history,
    lose_a_history, double_the_parent, leave_the_parent_open, add_a_stray_run, add_a_stray_folder, lose_the_store,
]  # fmt: skip
