"""Figures of the search space."""

from __future__ import annotations

import numpy as np
import pytest

from dashboards.figures import search
from tests.dashboards.small_sweeps import full, stopped, sweep


def test_a_contour_is_a_local_mean_and_blank_far_away() -> None:
    surface = search.local_mean(np.array([[0.0, 0.0], [0.05, 0.0]]), np.array([1.0, 3.0]), 11)
    assert surface.shape == (11, 11) and np.isnan(surface[-1, -1])
    assert 1.0 < surface[0, 0] < 2.0  # nearer to the first


def test_slices_and_coordinates_know_choices_and_logs() -> None:
    found = sweep(full(0, 0.3), full(1, 0.5), stopped(2, 30))
    parallel = search.parallel_coordinates(found)
    assert parallel is not None
    lr, batch, value = parallel.figure["data"][0]["dimensions"]
    assert lr["values"][0] == pytest.approx(-3) and batch["values"] == [0, 0, 1] and value["values"] == [0.3, 0.5, 0.2]
    by_lr, by_batch = search.slices(found, ["lr"])
    assert by_lr.figure["layout"]["xaxis"]["type"] == "log" and by_batch.figure["layout"]["xaxis"]["type"] == "category"
    assert search.contours(found, []) == []  # too few trials, and one range alone
    assert search.importance_shares(found) == {}  # too few
