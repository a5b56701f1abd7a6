"""Settings and trials of a sweep: its rungs, and which trial is the best."""

from __future__ import annotations

from dataclasses import replace

import pytest

from dashboards.cost import cost_of
from dashboards.figures import search
from dashboards.sections.results import best_trial
from tests.dashboards.small_sweeps import full, stopped, sweep
from tests.support import missing


@pytest.mark.parametrize(("direction", "best", "line"), [("max", 1, [0.3, 0.5, 0.5]), ("min", 2, [0.3, 0.3, 0.1])])
def test_the_best_depends_on_the_direction(direction: str, best: int, line: list[float]) -> None:
    recorded_sweep = sweep(full(0, 0.3), full(1, 0.5), full(2, 0.1), direction=direction)
    assert recorded_sweep.best.number == best
    assert list(search.best_so_far(recorded_sweep)) == line


def test_a_trial_that_misses_what_is_required_is_not_the_best() -> None:
    recorded_sweep = sweep(full(0, 0.9, missed=("kkt/active 0.01",)), full(1, 0.5), full(2, 0.4))
    assert [trial.number for trial in recorded_sweep.ranked] == [1, 2, 0]
    assert list(search.best_so_far(recorded_sweep)) == [0.5, 0.5]
    assert sweep(full(0, 0.9, missed=("kkt/active 0.01",))).best.number == 0


def test_a_trial_without_a_finite_value_is_never_the_best() -> None:
    recorded_sweep = sweep(full(0, float("nan")), full(1, 0.2), stopped(2, 30))
    assert [trial.number for trial in recorded_sweep.ranked] == [1]
    assert [trial.number for trial in recorded_sweep.ranked_all] == [1, 0, 2]


def test_what_ran_again_is_ranked_by_its_mean_and_is_in_no_figure() -> None:
    again = [full(2 + n, value, repeats=of) for n, (of, value) in enumerate([(1, 0.1), (1, 0.3), (0, 0.28), (0, 0.32)])]
    recorded_sweep = replace(sweep(full(0, 0.3), full(1, 0.5)), repetitions=again)
    assert recorded_sweep.best.number == 0 and list(search.best_so_far(recorded_sweep)) == [0.3, 0.5]
    assert cost_of(recorded_sweep).steps == 6 * 90
    page = best_trial(recorded_sweep, None, {})
    assert missing(["0.300 ± 0.028", "0.200 ± 0.141", "trial 1", "cannot be told apart"], page) == []


def test_rungs_are_where_asha_decides() -> None:
    assert sweep().settings.rungs == [10, 30]
    assert sweep(scheduler={"name": "asha", "reduction_factor": 2, "grace": 20}).settings.rungs == [20, 40, 80]
    assert sweep(scheduler={"name": "hyperband", "reduction_factor": 2, "grace": 20}).settings.rungs == [20, 40, 80]
    assert sweep(scheduler={"name": "none"}).settings.rungs == []
