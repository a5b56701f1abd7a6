"""MLflow in a thread of its own, before a real store that is locked for a while."""

from __future__ import annotations

import io
import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest
from mlflow import MlflowClient
from rich.console import Console

from search.driver import recorder as recording
from search.driver.progress import ProgressDisplay
from search.driver.recorder import Recorder
from search.spec.config import SweepConfig
from search.study.ledger import Ledger
from search.tracking.async_writer import AsyncWriter
from search.tracking.tracker import Tracker
from search.worker.messages import Progress
from tests.support.stores import lay_down_store


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("writer")
    lay_down_store(folder)
    return folder / "mlflow.db"


@pytest.fixture
def tracker(config: SweepConfig, store: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> Tracker:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{store}")
    monkeypatch.chdir(store.parent)
    tracker = Tracker(config.model_copy(update={"name": request.node.name}), {})
    tracker.load_runs()
    return tracker


@contextmanager
def locked(store: Path) -> Iterator[None]:
    with closing(sqlite3.connect(store, isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        yield
        other.execute("ROLLBACK")


@contextmanager
def out_of_order(store: Path) -> Iterator[None]:
    """Refuses metrics at once, where a locked store takes MLflow twenty seconds to give up on."""
    with closing(sqlite3.connect(store, isolation_level=None)) as other:
        other.execute("ALTER TABLE metrics RENAME TO gone")
        yield
        other.execute("ALTER TABLE gone RENAME TO metrics")


def steps(tracker: Tracker, metric: str = "loss/total") -> dict[str, list[int]]:
    client = MlflowClient(tracker.uri)
    (experiment,) = client.search_experiments(filter_string="name LIKE 'gbc-%'")
    query = f"tags.`sweep.role` = 'trial' and tags.`sweep.name` = '{tracker.config.name}'"
    runs = client.search_runs([experiment.experiment_id], query)
    return {
        run.data.tags["sweep.trial"]: [point.step for point in client.get_metric_history(run.info.run_id, metric)]
        for run in runs
    }


def test_nobody_waits_for_a_store_that_does_not_answer(tracker: Tracker, store: Path, tmp_path: Path) -> None:
    writer = AsyncWriter(tracker)
    with locked(store):
        began = time.perf_counter()
        for number in range(3):
            writer.open_trial(number, {"lr": 0.1 * number})
        for step in range(1, 101):
            for number in range(3):
                writer.log(number, Progress(step, {"loss/total": 1 / step, "kkt/rho": float(step)}, time.time()))
        for number in range(3):
            writer.close_trial(number, "complete", None, tmp_path / "none.png", tmp_path / "none.log", 0)
        took = time.perf_counter() - began
        time.sleep(0.5)
        assert writer.waiting == 3
    writer.drain(20)
    assert writer.fault is None and writer.waiting == 0
    assert steps(tracker) == {str(number): list(range(1, 101)) for number in range(3)}
    assert tracker.metrics(2) == {"loss/total": 0.01, "kkt/rho": 100.0}
    assert not any(tracker.lacks(number, 100, finished=True) for number in range(3))
    # 300 reports into a store take seconds; it is the order of magnitude that tells waiting from not waiting.
    assert took < 1


def test_a_store_that_refuses_is_asked_again(tracker: Tracker, store: Path) -> None:
    writer = AsyncWriter(tracker)
    writer.open_trial(0, {"lr": 0.1})
    writer.drain(20)
    with out_of_order(store):
        writer.log(0, Progress(3, {"loss/total": 1.0}, 0.0))
        with pytest.raises(Exception, match="metrics"):
            writer.drain(0.5)
        assert tracker.lacks(0, 3, finished=False)
    later = AsyncWriter(tracker)  # as in the next run
    with out_of_order(store):
        later.log(0, Progress(3, {"loss/total": 1.0}, 0.0))
        deadline = time.monotonic() + 20
        while later.fault is None:
            assert time.monotonic() < deadline
            time.sleep(0.02)
    later.drain(20)
    assert later.fault is None and steps(tracker) == {"0": [3]}


def test_its_thread_ends_with_it(tracker: Tracker, store: Path) -> None:
    idle = AsyncWriter(tracker)
    idle.open_trial(0, {"lr": 0.1})
    idle.drain(20)
    refused = AsyncWriter(tracker)
    with out_of_order(store):
        refused.log(0, Progress(3, {"loss/total": 1.0}, 0.0))
        for writer in (idle, refused):
            writer.close()
            assert writer._thread is not None
            writer._thread.join(20)
            assert not writer._thread.is_alive()
    AsyncWriter(tracker).close()  # which never had one
    assert steps(tracker) == {"0": []}


def test_the_order_of_each_trial_is_kept(tracker: Tracker, tmp_path: Path) -> None:
    writer = AsyncWriter(tracker)
    picture, log = tmp_path / "none.png", tmp_path / "none.log"
    writer.open_trial(0, {"lr": 0.1})
    writer.log(0, Progress(1, {"loss/total": 1.0}, 1.0))
    writer.close_trial(0, "failed", "why", picture, log, 1)
    writer.open_trial(0, {"lr": 0.1})
    writer.log(0, Progress(2, {"loss/total": 0.5}, 2.0))
    writer.close_trial(0, "complete", None, picture, log, 1)
    writer.drain(20)
    client = MlflowClient(tracker.uri)
    (run,) = client.search_runs(["1"], f"tags.`sweep.role` = 'trial' and tags.`sweep.name` = '{tracker.config.name}'")
    assert (run.info.status, run.data.tags["sweep.outcome"]) == ("FINISHED", "complete")
    assert "sweep.reason" not in run.data.tags
    points = client.get_metric_history(run.info.run_id, "loss/total")
    assert [(point.step, point.value, point.timestamp) for point in points] == [(1, 1.0, 1000), (2, 0.5, 2000)]


def test_more_reports_than_one_batch_takes(tracker: Tracker) -> None:
    tracker.open_trial(0, {})
    metrics = {f"loss/{index}": 1.0 for index in range(300)}
    reports = [Progress(step, {"loss/total": 1.0, **metrics}, 0.0) for step in range(1, 9)]
    tracker.log(0, reports)
    tracker.log(0, reports)
    tracker.log(0, [Progress(step, {"loss/total": 1.0, **metrics}, 0.0) for step in (8, 9, 8, 9, 10)])  # a worker died at 9
    assert steps(tracker) == steps(tracker, "loss/299") == {"0": list(range(1, 11))}


def test_what_a_store_says_is_shown_once_and_without_its_password(
    tracker: Tracker, config: SweepConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recording, "_SILENCE", 0.0)
    screen, ledger = io.StringIO(), Ledger(config, tmp_path)
    recorder = Recorder(ledger, tracker, ProgressDisplay(config, Console(file=screen, width=200)), tmp_path)
    tracker.uri = "http://me:pa55@tracking:5000"
    recorder._writer.fault = OSError(f"no answer from {tracker.uri}/api\nand more")
    for _ in range(2):
        recorder.tick()
    recorder.finish()
    (line,) = screen.getvalue().splitlines()
    assert "no answer from http://me@tracking:5000/api" in line and "and more" not in line
    ledger.close()
