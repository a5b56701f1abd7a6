"""Curves are drawn on common steps, on a log axis where that is needed."""

from __future__ import annotations

import pytest

from dashboards.figures.curves import curve_figures
from dashboards.figures.panel import needs_log
from dashboards.mlflow_runs import RecordedRun
from tests.dashboards.small_sweeps import full, sweep


def test_log_axes_where_they_are_needed() -> None:
    assert needs_log([1e-6, 1e-3, 0.0])
    assert not needs_log([0.5, 1.0, 2.0]) and not needs_log([-1, 1e-3, 1]) and not needs_log([0.0]) and not needs_log([])


def test_curves_are_aligned_and_hold_no_nan() -> None:
    first = RecordedRun("a", curves={"kkt/rho": {10: 1.2, 20: float("nan"), 30: 0.9}, "system/cpu": {10: 1.0}})
    second = RecordedRun("b", curves={"kkt/rho": {10: 0.8}})
    curves, panels = curve_figures(sweep(full(0, 0.3, run=first), full(1, 0.4, run=second), full(2, 0.1)))
    assert curves.steps == [10, 20, 30] and [trial["number"] for trial in curves.trials] == [0, 1]
    assert curves.metrics["kkt/rho"] == [[1.2, None, 0.9], [0.8]]
    explained = curves.metrics["1 − ρ"]
    assert explained[0][0] == 0.0 and explained[0][2] == pytest.approx(0.1)
    assert not any("system" in panel.title for panel in panels)
