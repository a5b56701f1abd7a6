"""What figures are made of, on records small enough to check by hand."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from dashboards import curves, landscape, running, scores
from dashboards.panels import needs_log
from dashboards.place import Record
from dashboards.records import Evaluation, Sweep, Trial
from dashboards.sections import outcome
from dashboards.store import Logged

EVALUATION = Evaluation(
    1,
    {
        "generator": {"ssim/coverage": 0.5},
        "black": {"ssim/coverage": 0.1},
        "class means": {"ssim/coverage": 0.4},
        "other real images": {"ssim/coverage": 0.6},
    },
    {},
)


def sweep(*trials: Trial, direction: str = "max", scheduler: dict[str, Any] | None = None) -> Sweep:
    data = {
        "objective": {"metric": "ssim/coverage", "direction": direction},
        "trial": {"steps": 90, "report_every": 10},
        "space": {"lr": {"log10": [-3, -2]}, "batch_size": {"choice": [16, 32]}},
        "scheduler": scheduler or {"name": "asha", "reduction_factor": 3},
    }
    record: Any = Record("hand", data, "")
    store: Any = type("Store", (), {"tags": {}, "status": "FINISHED"})()
    ledger: Any = None
    return Sweep(record, list(trials), 100.0, ledger, store, EVALUATION)


def full(number: int, value: float, **more: Any) -> Trial:
    return Trial(number, "complete", {"lr": 0.001 * (number + 1), "batch_size": 16}, {90: value}, **more)


def stopped(number: int, step: int, speed: float = 2.0) -> Trial:
    logged = Logged("run", {}, {}, {}, {"time/steps_per_s": {step: speed}})
    return Trial(number, "stopped", {"lr": 0.005, "batch_size": 32}, {step: 0.2}, logged=logged)


@pytest.mark.parametrize(("direction", "best", "line"), [("max", 1, [0.3, 0.5, 0.5]), ("min", 2, [0.3, 0.3, 0.1])])
def test_the_best_depends_on_the_direction(direction: str, best: int, line: list[float]) -> None:
    found = sweep(full(0, 0.3), full(1, 0.5), full(2, 0.1), direction=direction)
    assert found.best.number == best
    assert list(landscape.best_so_far(found)) == line


def test_a_trial_that_misses_what_is_required_is_not_the_best() -> None:
    found = sweep(full(0, 0.9, missed=("kkt/active 0.01",)), full(1, 0.5), full(2, 0.4))
    assert [trial.number for trial in found.ranked] == [1, 2, 0]
    assert list(landscape.best_so_far(found)) == [0.5, 0.5]
    assert sweep(full(0, 0.9, missed=("kkt/active 0.01",))).best.number == 0


def test_what_the_best_is_worth_is_shown_of_the_trial_it_was_said_of() -> None:
    found = sweep(full(0, 0.3), full(1, 0.5))
    assert found.verdict_lines == []  # a sweep of an earlier version
    said = replace(found, verdict={"trial": 1, "lines": ["The KKT conditions took no part in it."]})
    assert "The KKT conditions took no part in it." in outcome.header(said, {})
    assert replace(found, verdict={"trial": 0, "lines": ["another one"]}).verdict_lines == []
    assert replace(found, verdict=["damaged"]).verdict_lines == []


def test_a_trial_without_a_finite_value_is_never_the_best() -> None:
    found = sweep(full(0, float("nan")), full(1, 0.2), stopped(2, 30))
    assert [trial.number for trial in found.ranked] == [1]
    assert [trial.number for trial in found.ranked_all] == [1, 0, 2]


def test_shares_between_floor_and_ceiling() -> None:
    assert EVALUATION.floor("ssim/coverage") == ("class means", 0.4)
    assert EVALUATION.share("ssim/coverage", 0.5) == pytest.approx(0.5)
    assert EVALUATION.share("kkt/rho", 0.5) is None
    panel = scores.between_floor_and_ceiling(EVALUATION)
    assert [trace["name"] for trace in panel.figure["data"]] == ["black", "class means", "other real images", "generator"]
    assert [shape["y0"] for shape in scores.levels(EVALUATION, "ssim/coverage")["shapes"]] == [0.4, 0.6]


@pytest.mark.parametrize("broken", [None, [], {"scores": {}}, {"trial": 1, "scores": {"a": {}}}, {"scores": 3, "trial": 1}])
def test_an_evaluation_that_says_nothing_is_left_out(broken: object) -> None:
    assert Evaluation.of(broken) is None


def test_rungs_are_where_asha_decides() -> None:
    assert sweep().record.rungs == (10, 30)
    assert sweep(scheduler={"name": "asha", "reduction_factor": 2, "grace": 20}).record.rungs == (20, 40, 80)
    assert sweep(scheduler={"name": "none"}).record.rungs == ()


def test_survival_counts_each_trial_once() -> None:
    failed = Trial(4, "failed", {}, {10: 0.1})
    panel = running.survival(sweep(full(0, 0.3), full(1, 0.4), stopped(2, 10), stopped(3, 30), failed))
    bars = {trace["name"]: dict(zip(trace["x"], trace["y"], strict=True)) for trace in panel.figure["data"]}
    assert bars == {
        "went on, or complete": {"10": 3, "30": 2, "90": 2},
        "stopped here": {"10": 1, "30": 1, "90": 0},
        "failed here": {"10": 1, "30": 0, "90": 0},
    }
    assert "ASHA decides at steps 10, 30" in panel.caption


def test_what_early_stopping_saved() -> None:
    spent = running.cost(sweep(full(0, 0.3), stopped(1, 10, speed=2.0), stopped(2, 30, speed=4.0)))
    assert (spent.steps, spent.saved_steps) == (130, 140)
    assert spent.saved == pytest.approx(80 / 2 + 60 / 4)
    assert spent.speed == 3.0


def test_lanes_are_as_many_as_overlap() -> None:
    assert running.lanes([(0, 10), (1, 5), (5, 8), (10, 12), (2, 3)]) == [0, 1, 1, 0, 2]


def test_an_interruption_cuts_a_bar() -> None:
    times = {10: 1010.0, 20: 1020.0, 30: 5000.0, 40: 5010.0}
    trial = full(0, 0.3, started=1000.0, ended=5020.0, logged=Logged("run", {}, {}, {}, {}, times))
    assert running.work_of(trial) == [(1000.0, 1020.0), (5000.0, 5020.0)]
    assert running.work_of(full(0, 0.3)) == []


def test_log_axes_where_they_are_needed() -> None:
    assert needs_log([1e-6, 1e-3, 0.0])
    assert not needs_log([0.5, 1.0, 2.0]) and not needs_log([-1, 1e-3, 1]) and not needs_log([0.0]) and not needs_log([])


def test_curves_are_aligned_and_hold_no_nan() -> None:
    first = Logged("a", {}, {}, {}, {"kkt/rho": {10: 1.2, 20: float("nan"), 30: 0.9}, "system/cpu": {10: 1.0}})
    second = Logged("b", {}, {}, {}, {"kkt/rho": {10: 0.8}})
    found, panels = curves.curves_of(sweep(full(0, 0.3, logged=first), full(1, 0.4, logged=second), full(2, 0.1)))
    assert found.steps == [10, 20, 30] and [one["n"] for one in found.trials] == [0, 1]
    assert found.metrics["kkt/rho"] == [[1.2, None, 0.9], [0.8]]
    explained = found.metrics["1 − ρ"]
    assert explained[0][0] == 0.0 and explained[0][2] == pytest.approx(0.1)
    assert not any("system" in panel.title for panel in panels)


def test_a_contour_is_a_local_mean_and_blank_far_away() -> None:
    surface = landscape.local_mean(np.array([[0.0, 0.0], [0.05, 0.0]]), np.array([1.0, 3.0]), 11)
    assert surface.shape == (11, 11) and np.isnan(surface[-1, -1])
    assert 1.0 < surface[0, 0] < 2.0  # nearer to the first


def test_slices_and_coordinates_know_choices_and_logs() -> None:
    found = sweep(full(0, 0.3), full(1, 0.5), stopped(2, 30))
    parallel = landscape.parallel(found)
    assert parallel is not None
    lr, batch, value = parallel.figure["data"][0]["dimensions"]
    assert lr["values"][0] == pytest.approx(-3) and batch["values"] == [0, 0, 1] and value["values"] == [0.3, 0.5, 0.2]
    by_lr, by_batch = landscape.slices(found, ["lr"])
    assert by_lr.figure["layout"]["xaxis"]["type"] == "log" and by_batch.figure["layout"]["xaxis"]["type"] == "category"
    assert landscape.contours(found, []) == []  # too few trials, and one range alone
    assert landscape.importances(found) == {}  # too few
