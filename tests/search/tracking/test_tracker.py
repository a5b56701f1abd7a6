"""A real MLflow store in sqlite; every call is made twice."""

from __future__ import annotations

import multiprocessing
from multiprocessing.synchronize import Barrier
from pathlib import Path

import pytest
from mlflow import MlflowClient

from gbc.errors import BadInput
from records.mlflow_store import default_address
from search.spec.config import SweepConfig
from search.tracking.tracker import Tracker
from search.worker.messages import Progress
from tests.support.stores import lay_down_store


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    lay_down_store(tmp_path)
    return tmp_path


def test_a_sweep_is_a_parent_with_one_child_for_each_trial(folder: Path, config: SweepConfig) -> None:
    picture = folder / "samples.png"
    picture.write_bytes(b"png")
    for _ in range(2):  # the second time as after kill -9
        tracker = Tracker(config, {"version.torch": "x"})
        tracker.begin({"sweep.yaml": "a: 1"}, {"seed": 1})
        for number in (0, 1):
            tracker.open_trial(number, {"lr": 0.1, "classifier": {"hidden": 8}})
            for step in (3, 6):
                tracker.log(number, [Progress(step, {"loss/total": 1 / step, "ssim/coverage": 0.1 * step}, 0.0)])
        tracker.close_trial(0, "complete", None, picture)
        tracker.close_trial(1, "failed", "diverged", folder / "none.png")
        tracker.end("FINISHED", {"ssim/coverage": 0.6}, 0, picture)

    client = MlflowClient(f"sqlite:///{folder / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("gbc-fashion_mnist")
    assert experiment is not None
    runs = {run.info.run_name: run for run in client.search_runs([experiment.experiment_id])}
    assert sorted(runs) == ["tiny", "trial-0000", "trial-0001"]
    parent, first, second = runs["tiny"], runs["trial-0000"], runs["trial-0001"]
    assert parent.data.tags["sweep.role"] == "sweep" and parent.data.tags["version.torch"] == "x"
    assert parent.data.tags["sweep.best_trial"] == "0" and parent.info.status == "FINISHED"
    assert parent.data.metrics["best/ssim/coverage"] == 0.6
    assert first.data.params == {"lr": "0.1", "classifier.hidden": "8"}
    wanted = {"sweep.name": "tiny", "sweep.role": "trial", "sweep.trial": "0", "sweep.outcome": "complete"}
    assert wanted.items() <= first.data.tags.items()
    assert first.data.tags["mlflow.parentRunId"] == parent.info.run_id
    assert (first.info.status, second.info.status) == ("FINISHED", "FAILED")
    assert second.data.tags["sweep.reason"] == "diverged"
    assert [m.step for m in client.get_metric_history(first.info.run_id, "loss/total")] == [3, 6]
    assert [a.path for a in client.list_artifacts(first.info.run_id)] == ["samples.png"]
    assert {a.path for a in client.list_artifacts(parent.info.run_id)} == {"samples.png", "sweep.yaml"}


def test_artifacts_lie_under_mlruns_where_a_bare_mlflow_ui_finds_them(folder: Path, config: SweepConfig) -> None:
    (folder / "mlflow.db").unlink()  # MLflow makes it
    tracker = Tracker(config, {})
    tracker.begin({"sweep.yaml": "a: 1"}, {})
    assert (folder / "mlflow.db").exists()
    assert list((folder / "mlruns" / "artifacts").rglob("sweep.yaml"))
    assert not list((folder / "mlruns").glob("*/meta.yaml"))  # would make MLflow take mlruns for its old file store


def test_a_run_whose_number_somebody_changed_is_left_alone(folder: Path, config: SweepConfig) -> None:
    tracker = Tracker(config, {})
    tracker.open_trial(0, {"lr": 0.1})
    tracker.open_trial(1, {"lr": 0.1})
    MlflowClient(f"sqlite:///{folder / 'mlflow.db'}").set_tag(str(tracker.run(0)), "sweep.trial", "the best")
    assert Tracker(config, {}).numbers() == {1}


def test_an_interrupted_trial_is_marked_and_opened_again(folder: Path, config: SweepConfig) -> None:
    tracker = Tracker(config, {})
    tracker.open_trial(0, {"lr": 1})
    tracker.interrupt_trial(0)
    client = MlflowClient(tracker.uri)
    (run,) = client.search_runs([tracker.experiment], "tags.`sweep.trial` = '0'")
    assert run.info.status == "KILLED"
    again = Tracker(config, {})
    assert again.lacks(0, 0, False) is False and again.lacks(0, 3, False) is True
    again.open_trial(0, {"lr": 1})
    assert client.get_run(run.info.run_id).info.status == "RUNNING"


def test_a_store_that_is_no_database_is_named(folder: Path, config: SweepConfig) -> None:
    (folder / "mlflow.db").write_bytes(b"not a database" * 500)
    with pytest.raises(BadInput, match=r"MLflow store sqlite:///.*mlflow\.db: "):
        Tracker(config, {})


def test_a_deleted_experiment_says_how_to_get_it_back(folder: Path, config: SweepConfig) -> None:
    tracker = Tracker(config, {})
    MlflowClient(tracker.uri).delete_experiment(tracker.experiment)
    with pytest.raises(BadInput, match="mlflow experiments restore -x"):
        Tracker(config, {})


def _open_tracker(config: SweepConfig, barrier: Barrier) -> None:
    barrier.wait()
    Tracker(config, {})


def test_two_drivers_create_one_store_at_the_same_moment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, config: SweepConfig
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    context = multiprocessing.get_context("fork")  # with MLflow loaded, so that both are at the store within milliseconds
    barrier = context.Barrier(2)
    drivers = [
        context.Process(target=_open_tracker, args=(config.model_copy(update={"name": name}), barrier)) for name in ("a", "b")
    ]
    for driver in drivers:
        driver.start()
    for driver in drivers:
        driver.join(120)
    assert [driver.exitcode for driver in drivers] == [0, 0]
    client = MlflowClient(default_address())
    names = [run.data.tags["sweep.name"] for run in client.search_runs([Tracker(config, {}).experiment])]
    assert {"a", "b"} <= set(names)
