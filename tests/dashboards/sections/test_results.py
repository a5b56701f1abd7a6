"""The verdict on a sweep."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from dashboards.sections.results import best_trial, header, verdict
from dashboards.sweep import read_sweep
from tests.dashboards.small_sweeps import full, sweep
from tests.support import missing


def test_what_the_best_is_worth_is_shown_of_the_trial_it_was_said_of() -> None:
    recorded_sweep = sweep(full(0, 0.3), full(1, 0.5))
    assert recorded_sweep.verdict_lines == []  # a sweep of an earlier version
    with_verdict = replace(recorded_sweep, verdict={"trial": 1, "lines": ["Said of it."]})
    assert "Said of it." in header(with_verdict, {})
    assert replace(recorded_sweep, verdict={"trial": 0, "lines": ["another one"]}).verdict_lines == []
    assert replace(recorded_sweep, verdict=["damaged"]).verdict_lines == []


@pytest.mark.long
def test_the_verdict_places_the_best_between_floor_and_ceiling(recorded: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(recorded)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    sweep = read_sweep("tiny")
    assert not missing(["class means", "(0.41)"], verdict(sweep)) and "%" not in verdict(sweep)
    assert sweep.evaluation is not None
    sweep.evaluation.scores["generator"]["ssim/coverage"] = 0.5
    way = "50% of the way from class means (0.41, the best that worthless images get) to other real images (0.589)"  # golden
    assert way in verdict(sweep)


@pytest.mark.parametrize(("columns", "known"), [(4, True), (3, False)])
def test_the_columns_of_a_sheet_have_the_names_of_classes_where_there_were_no_images(columns: int, known: bool) -> None:
    regimes = {"their_net": {"class_names": ["face", "no face"]}, "of an earlier version": {"steps": 3}, "damaged": None}
    recorded_sweep = replace(sweep(full(0, 0.3)), evaluation=None, regimes=regimes)
    sheet = np.full((30, 10 * columns), 255, np.uint8)
    for left in range(0, sheet.shape[1], 10):
        sheet[1:9, left + 1 : left + 9] = sheet[11:19, left + 1 : left + 9] = sheet[21:29, left + 1 : left + 9] = 0
    assert recorded_sweep.class_names == ["face", "no face"]
    assert ("face, no face" in best_trial(recorded_sweep, sheet, {})) is known
