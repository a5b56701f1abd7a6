"""Addresses of MLflow's stores, and what a real one says of a sweep's trials."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
from mlflow import MlflowClient

from records.mlflow_store import all_runs, default_address, missing, runs_query
from search.spec.config import SweepConfig
from search.tracking.client import TrialRun, experiments, with_timeout
from search.tracking.tracker import Tracker
from search.worker.messages import Progress
from tests.support.stores import lay_down_store


def test_the_last_report_and_the_newest_values_of_each_trial(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, config: SweepConfig
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    lay_down_store(tmp_path)
    other = Tracker(config.model_copy(update={"name": "other"}), {})
    other.open_trial(0, {"lr": 1.0})
    tracker = Tracker(config, {})
    for number in range(4):
        tracker.open_trial(number, {"lr": 0.1} if number else None)
    tracker.log(1, [Progress(step, {"loss/total": 1 / step, "kkt/rho": 1.0}, 0.0) for step in (3, 6)])
    tracker.log(2, [Progress(3, {"loss/total": math.nan}, 0.0)])
    tracker.close_trial(1, "complete", None, tmp_path / "none.png")
    tracker.close_trial(2, "failed", "diverged", tmp_path / "none.png")
    deleted = tracker.run(3)
    assert deleted is not None
    tracker.discard(deleted)

    runs = all_runs(MlflowClient(tracker.uri), tracker.experiment, runs_query("tiny", "trial"))
    trial_runs = [TrialRun.of(run) for run in runs][::-1]
    assert [(run.tags["sweep.trial"], run.status, run.has_params, run.last_step) for run in trial_runs] == [
        ("0", "RUNNING", False, 0), ("1", "FINISHED", True, 6), ("2", "FAILED", True, 3),
    ]  # fmt: skip
    assert trial_runs[1].metrics == {"loss/total": 1 / 6, "kkt/rho": 1.0}
    assert math.isnan(trial_runs[2].metrics["loss/total"])


@pytest.mark.parametrize("name", ["plain", "a b", "50% off", "%41", "what?", "é#1"])
def test_a_store_in_a_folder_of_any_name(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / name
    folder.mkdir()
    monkeypatch.chdir(folder)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    assert missing(default_address()) and missing(with_timeout(default_address()))
    lay_down_store(folder)
    assert not missing(default_address()) and not missing(with_timeout(default_address()))
    assert experiments(with_timeout(default_address())) == {"Default": "0"}


def test_a_locked_file_is_waited_for_a_minute() -> None:
    assert with_timeout("sqlite:///mlflow.db") == "sqlite:///mlflow.db?timeout=60.0"
    assert with_timeout("sqlite:///mlflow.db?timeout=5") == "sqlite:///mlflow.db?timeout=5"
    assert with_timeout("http://host:5000") == "http://host:5000"
