"""What a sweep requires of its best, from the workers' reports to every record."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from search.config import SweepConfig
from search.folder import CLASSIFIERS, SWEEPS
from search.ledger import Ledger
from search.overview import look
from search.ranking import best
from search.summary import Summary
from tests.search.conftest import tiny_sweep
from tests.search.records import play


def test_reports_are_held_against_what_is_required(
    classifier_cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    shutil.copytree(classifier_cache, CLASSIFIERS)
    # Of nine tenths and more of the gradient, with 0 for the weight of nothing else: out of reach, and always reached.
    objective = {"metric": "ssim/coverage", "require": {"kkt/active": 0.999, "loss/total": 1e9}}
    config = SweepConfig.parse(tiny_sweep(objective=objective, trials=2), "test")
    play(config, classifier_cache, stop={}, leave={}, fail={})
    entries = Ledger(config, SWEEPS / "tiny").entries()
    for entry in entries:
        (missed,) = entry.missed
        assert missed.startswith("kkt/active 0.") and missed.endswith("(required: at least 0.999)")
    found, shown, said = best(config, entries), look("tiny"), Summary.read(SWEEPS / "tiny")
    assert found is not None and shown.best_trial == found.number
    assert said is None or said.best_trial == found.number
