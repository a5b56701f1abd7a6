"""Every trial is in the figures once."""

from __future__ import annotations

from dashboards.figures import workers
from dashboards.sweep import Trial
from tests.dashboards.small_sweeps import full, stopped, sweep


def test_survival_counts_each_trial_once() -> None:
    failed = Trial(4, {}, "failed", {10: 0.1})
    panel = workers.survival(sweep(full(0, 0.3), full(1, 0.4), stopped(2, 10), stopped(3, 30), failed))
    bars = {trace["name"]: dict(zip(trace["x"], trace["y"], strict=True)) for trace in panel.figure["data"]}
    assert bars == {
        "went on, or complete": {"10": 3, "30": 2, "90": 2},
        "stopped here": {"10": 1, "30": 1, "90": 0},
        "failed here": {"10": 1, "30": 0, "90": 0},
    }
    assert "10, 30" in panel.caption


def test_counts_have_ticks_at_whole_numbers() -> None:
    few = workers.survival(sweep(full(0, 0.3), stopped(1, 10)))
    many = workers.survival(sweep(*[full(number, 0.3) for number in range(9)]))
    assert few.figure["layout"]["yaxis"]["dtick"] == 1 and "dtick" not in many.figure["layout"]["yaxis"]


def test_lanes_are_as_many_as_overlap() -> None:
    assert workers.rows_of([(0, 10), (1, 5), (5, 8), (10, 12), (2, 3)]) == [0, 1, 1, 0, 2]
