"""What Ray is given next, from a real ledger; Ray's calls are made in the order in which it makes them."""

from __future__ import annotations

import io
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from ray.tune.search import Searcher
from rich.console import Console

from records.trial import Entry
from search.driver.progress import Progress
from search.driver.recorder import Recorder
from search.driver.searcher import LedgerSearcher
from search.spec.config import SweepConfig
from search.spec.faults import Halt
from search.study.ledger import Ledger
from search.tracking.tracker import Tracker
from search.worker.trial import assignment_of
from tests.search.conftest import tiny_sweep
from tests.support.stores import lay_down_store

WHERE = Path("mlruns/sweeps/tiny")


@pytest.fixture
def parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Ledger, Recorder, LedgerSearcher, Halt]:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    lay_down_store(tmp_path)
    config = SweepConfig.parse(tiny_sweep(trials=2, retries=1), "test")
    WHERE.mkdir(parents=True)
    ledger, halt = Ledger(config, WHERE), Halt(WHERE)
    recorder = Recorder(ledger, Tracker(config, {}), Progress(config, Console(file=io.StringIO())), WHERE)

    def assign(entry: Entry) -> Any:
        return assignment_of(config, entry, Path("cache"), 1)

    return ledger, recorder, LedgerSearcher(ledger, assign, halt), halt


def test_a_worker_that_dies_before_its_trial_begins_is_replaced_too(
    parts: tuple[Ledger, Recorder, LedgerSearcher, Halt],
) -> None:
    """Ray retries only trials that run; of one that waits for its worker it says at once that it failed."""
    ledger, recorder, searcher, _ = parts

    def die(trial_id: str, number: int) -> None:
        searcher.on_trial_complete(trial_id, error=True)
        trial: Any = SimpleNamespace(config={"number": number}, error_file=None)
        recorder.on_trial_error(0, [], trial)

    def given(trial_id: str) -> int:
        found = searcher.suggest(trial_id)
        assert isinstance(found, dict)
        return int(found["number"])

    assert (given("a"), given("b")) == (0, 1)
    die("a", 0)
    assert not ledger.entry(0).finished and ledger.entry(0).lost == 1
    assert given("c") == 0  # though both trials were asked for
    die("c", 0)
    assert ledger.entry(0).state == "failed" and "worker process died" in (ledger.entry(0).reason or "")
    assert searcher.suggest("d") is None  # trial 1 may come back
    ledger.tell(1, "stopped")
    searcher.on_trial_complete("b")
    assert searcher.suggest("e") == Searcher.FINISHED


def test_a_worker_says_again_what_one_of_the_records_lacks(parts: tuple[Ledger, Recorder, LedgerSearcher, Halt]) -> None:
    """The driver died with MLflow behind the study, and the checkpoint that had the reports is gone."""
    ledger, recorder, _, _ = parts
    ledger.ask()
    for step in (3, 6, 9):
        ledger.record(0, step, 0.1 * step, stop=False)
    ledger.flush()
    recorder.catch_up()
    assert recorder.acknowledged(0) == 0
    trial: Any = SimpleNamespace(config={"number": 0}, error_file=None)
    for step in (3, 6):
        recorder.on_trial_result(0, [], trial, {"step": step, "ssim/coverage": 0.1 * step, "loss/total": 1.0})
    recorder.finish()
    assert recorder.acknowledged(0) == 6 and ledger.entry(0).values == {3: 0.1 * 3, 6: 0.1 * 6, 9: 0.1 * 9}


def test_nothing_new_is_begun_once_the_sweep_must_halt(parts: tuple[Ledger, Recorder, LedgerSearcher, Halt]) -> None:
    ledger, _, searcher, halt = parts
    assert isinstance(searcher.suggest("a"), dict)
    halt.stop("no space left")
    assert searcher.suggest("b") == Searcher.FINISHED and len(ledger.entries()) == 1
