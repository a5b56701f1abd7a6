"""The cost of sweeps that were checked by hand."""

from __future__ import annotations

import pytest

from dashboards.cost import busy_spans, cost_of
from dashboards.mlflow_runs import RecordedRun
from tests.dashboards.small_sweeps import full, stopped, sweep


def test_what_early_stopping_saved() -> None:
    spent = cost_of(sweep(full(0, 0.3), stopped(1, 10, speed=2.0), stopped(2, 30, speed=4.0)))
    assert (spent.steps, spent.saved_steps) == (130, 140)
    assert spent.saved == pytest.approx(80 / 2 + 60 / 4)
    assert spent.speed == 3.0


def test_an_interruption_cuts_a_bar() -> None:
    times = {10: 1010.0, 20: 1020.0, 30: 5000.0, 40: 5010.0}
    trial = full(0, 0.3, started=1000.0, ended=5020.0, run=RecordedRun("run", times=times))
    assert busy_spans(trial) == [(1000.0, 1020.0), (5000.0, 5020.0)]
    assert busy_spans(full(0, 0.3)) == []
