"""Figures of the search space."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from dashboards.figures import search
from search.files.paths import sweep_folder
from search.spec.config import SweepConfig
from search.study.ledger import Ledger
from tests.dashboards.small_sweeps import full, stopped, sweep
from tests.search.conftest import fill, tiny_sweep


def test_a_contour_is_a_local_mean_and_blank_far_away() -> None:
    surface = search.local_mean(np.array([[0.0, 0.0], [0.05, 0.0]]), np.array([1.0, 3.0]), 11)
    assert surface.shape == (11, 11) and np.isnan(surface[-1, -1])
    assert 1.0 < surface[0, 0] < 2.0  # nearer to the first


def test_slices_and_coordinates_know_choices_and_logs() -> None:
    recorded_sweep = sweep(full(0, 0.3), full(1, 0.5), stopped(2, 30))
    parallel = search.parallel_coordinates(recorded_sweep)
    assert parallel is not None
    lr, batch, value = parallel.figure["data"][0]["dimensions"]
    assert lr["values"][0] == pytest.approx(-3) and batch["values"] == [0, 0, 1] and value["values"] == [0.3, 0.5, 0.2]
    by_lr, by_batch = search.slices(recorded_sweep, ["lr"])
    assert by_lr.figure["layout"]["xaxis"]["type"] == "log" and by_batch.figure["layout"]["xaxis"]["type"] == "category"
    assert search.contours(recorded_sweep, []) == []  # too few trials, and one range alone
    assert search.importance_shares(recorded_sweep) == {}  # too few


def test_repetitions_take_no_part_in_importance(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    config = SweepConfig.parse(tiny_sweep(name="hand"), "test")
    folder = sweep_folder("hand")
    folder.mkdir(parents=True)
    ledger = Ledger(config, folder)
    fill(ledger, *[(0.1 * number**2, "complete") for number in range(9)])
    recorded_sweep = sweep(*[full(number, 0.1 * number**2) for number in range(9)])
    shares = search.importance_shares(recorded_sweep)
    for _ in range(4):
        number = ledger.repeat(8).number
        ledger.record(number, 12, -50.0, stop=False)
        ledger.tell(number, "complete")
    ledger.close()
    assert shares and search.importance_shares(recorded_sweep) == shares


def test_trials_that_lack_a_conditional_setting_pass_below_it_in_coordinates_and_are_in_no_other_figure_of_it() -> None:
    recorded_sweep = sweep(*[full(number, 0.1 * number) for number in range(9)])
    recorded_sweep.settings.data["space"] |= {
        "delta": {"uniform": [0.1, 0.9], "when": {"batch_size": 16}},
        "estimator": {"choice": ["norm", "cosine"], "when": {"batch_size": 16}},
        "beta": {"log10": [-2, 0], "when": {"batch_size": 16}},
    }
    for trial in recorded_sweep.trials[:8]:
        trial.params.update(delta=0.1 + 0.1 * trial.number, estimator="cosine", beta=0.01 * (trial.number + 1))
    assert recorded_sweep.best.number == 8  # which lacks all three
    parallel = search.parallel_coordinates(recorded_sweep)
    assert parallel is not None
    axes = {axis["label"]: axis for axis in parallel.figure["data"][0]["dimensions"]}
    for name in ("delta", "estimator", "beta"):
        values, ticks = axes[name]["values"], dict(zip(axes[name]["ticktext"], axes[name]["tickvals"], strict=True))
        assert np.isfinite(values).all() and values[8] == ticks["not searched"] < min(values[:8])
    assert "not searched" not in axes["lr"]["ticktext"] and "ticktext" not in axes["ssim/coverage"]
    (delta,) = [panel for panel in search.slices(recorded_sweep, []) if panel.title == "delta"]
    assert [len(trace["x"]) for trace in delta.figure["data"]] == [8]
    contours = {panel.title: panel for panel in search.contours(recorded_sweep, ["lr", "delta"])}
    assert contours["lr and delta"].figure["data"][-1]["x"] == []
    shares = search.importance_bars(recorded_sweep, {"lr": 1.0})
    assert "some full trials lack" in shares.caption
