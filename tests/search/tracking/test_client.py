"""A real MLflow store in a file, read through MLflow's client and as what it is."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
from mlflow import MlflowClient

from search.spec.config import SweepConfig
from search.tracking.client import Known, known_runs, of_trials, pages
from search.tracking.tracker import Tracker
from search.worker.messages import Progress
from tests.support.stores import lay_down_store


def test_the_file_says_what_mlflow_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, config: SweepConfig) -> None:
    """Pins the tables that are read."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    lay_down_store(tmp_path)
    other = Tracker(config.model_copy(update={"name": "other"}), {})
    other.open_trial(0, {"lr": 1.0})
    tracker = Tracker(config, {})
    for number in range(4):
        tracker.open_trial(number, {"lr": 0.1} if number else None)
    tracker.log(1, [Progress(step, {"loss/total": 1 / step, "kkt/rho": 1.0}, 0.0) for step in (3, 6)])
    tracker.log(2, [Progress(3, {"loss/total": math.nan, "kkt/rho": math.inf, "kkt/alpha": -math.inf}, 0.0)])
    tracker.close_trial(1, "complete", None, tmp_path / "none.png")
    tracker.close_trial(2, "failed", "diverged", tmp_path / "none.png")
    deleted = tracker.run(3)
    assert deleted is not None
    tracker.discard(deleted)

    uri, client = tracker.uri, MlflowClient(tracker.uri)
    experiment = client.get_experiment_by_name("gbc-fashion_mnist")
    assert experiment is not None
    wanted = [Known.of(run) for run in pages(client, experiment.experiment_id, of_trials("tiny"))]
    found = known_runs(client, uri, experiment.experiment_id, "tiny")
    assert len(wanted) == 3 and [one.mark for one in wanted][::-1] == [0, 6, 3]
    assert repr(_sorted(found)) == repr(_sorted(wanted))  # NaN is not equal to itself
    assert known_runs(client, f"{uri}?timeout=5", experiment.experiment_id, "tiny")[0].run == wanted[0].run


def _sorted(runs: list[Known]) -> list[Known]:
    for one in runs:
        one.tags, one.metrics = dict(sorted(one.tags.items())), dict(sorted(one.metrics.items()))
    return runs
