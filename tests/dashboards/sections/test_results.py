"""The verdict on a sweep."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from dashboards.sections.results import header, verdict
from dashboards.sweep import read_sweep
from tests.dashboards.small_sweeps import full, sweep
from tests.support import missing


def test_what_the_best_is_worth_is_shown_of_the_trial_it_was_said_of() -> None:
    found = sweep(full(0, 0.3), full(1, 0.5))
    assert found.verdict_lines == []  # a sweep of an earlier version
    said = replace(found, verdict={"trial": 1, "lines": ["Said of it."]})
    assert "Said of it." in header(said, {})
    assert replace(found, verdict={"trial": 0, "lines": ["another one"]}).verdict_lines == []
    assert replace(found, verdict=["damaged"]).verdict_lines == []


def test_the_verdict_places_the_best_between_floor_and_ceiling(recorded: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(recorded)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    sweep = read_sweep("tiny")
    assert not missing(["class means", "(0.41)"], verdict(sweep)) and "%" not in verdict(sweep)
    assert sweep.evaluation is not None
    sweep.evaluation.scores["generator"]["ssim/coverage"] = 0.5
    way = "50% of the way from class means (0.41, the best that worthless images get) to other real images (0.589)"  # golden
    assert way in verdict(sweep)
