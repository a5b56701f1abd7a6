"""Ends of a sweep, asked of a real study that is reopened each time."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rich.console import Console

from records.trial import TrialRecord
from search.driver.pending_orders import PendingOrders
from search.driver.progress import ProgressDisplay
from search.driver.tune_adapter import BudgetStopper
from search.policy.budget import exhausted_budget, has_work_left, planning_ended_by, remedy
from search.spec.config import SweepConfig
from search.spec.faults import HaltMonitor
from search.study.ledger import Ledger
from tests.search.conftest import tiny_sweep


def config_with(**changes: Any) -> SweepConfig:
    return SweepConfig.parse(tiny_sweep(**{"trials": 100, **changes}), "test")


def play(ledger: Ledger, values: list[float], outcome: str = "complete") -> None:
    """Full trials, one after the other."""
    for value in values:
        number = ledger.ask().number
        ledger.record(number, 12, value, stop=False)
        ledger.tell(number, outcome)


def reopened(config: SweepConfig, folder: Path) -> list[TrialRecord]:
    return Ledger(config, folder).entries()


def test_trials_and_grid_let_open_trials_go_on(tmp_path: Path) -> None:
    config = config_with(trials=2)
    ledger = Ledger(config, tmp_path)
    play(ledger, [0.1])
    assert planning_ended_by(config, ledger.entries(), 0.0) is None and has_work_left(config, ledger.entries(), 0.0)
    number = ledger.ask().number
    entries = reopened(config, tmp_path)
    assert planning_ended_by(config, entries, 0.0) == "trials" and exhausted_budget(config, entries, 0.0) is None
    assert has_work_left(config, entries, 0.0)
    ledger.tell(number, "failed", "why")
    assert not has_work_left(config, reopened(config, tmp_path), 0.0)
    more = config_with(trials=3)
    assert planning_ended_by(more, reopened(more, tmp_path), 0.0) is None


def test_a_grid_ends_when_every_point_was_asked_for(tmp_path: Path) -> None:
    space = {"lr": {"log10": [-3.0, -2.0], "points": 2}, "batch_size": {"choice": [16, 32]}}
    config = config_with(sampler="grid", space=space)
    ledger = Ledger(config, tmp_path)
    play(ledger, [0.1, 0.2, 0.3])
    assert planning_ended_by(config, ledger.entries(), 0.0) is None
    play(ledger, [0.4])
    assert planning_ended_by(config, reopened(config, tmp_path), 0.0) == "grid"
    assert "grid" in remedy(config, "grid")


def test_the_step_budget_counts_every_trial_and_ends_open_ones(tmp_path: Path) -> None:
    config = config_with(max_steps=30)
    ledger = Ledger(config, tmp_path)
    play(ledger, [0.1], "complete")
    play(ledger, [0.1], "stopped")
    number = ledger.ask().number
    ledger.record(number, 3, 0.1, stop=False)
    ledger.flush()
    assert exhausted_budget(config, reopened(config, tmp_path), 0.0) is None  # 27
    ledger.record(number, 6, 0.1, stop=False)
    ledger.flush()
    entries = reopened(config, tmp_path)
    assert exhausted_budget(config, entries, 0.0) == planning_ended_by(config, entries, 0.0) == "steps"
    assert not has_work_left(config, entries, 0.0)
    more = config_with(max_steps=31)
    assert has_work_left(more, reopened(more, tmp_path), 0.0)


def test_patience_counts_full_trials_since_the_last_gain(tmp_path: Path) -> None:
    config = config_with(patience=3)
    ledger = Ledger(config, tmp_path)
    play(ledger, [0.5, 0.4, 0.6])
    play(ledger, [0.9, 0.9, 0.9], "stopped")  # not at the horizon: they do not count
    play(ledger, [0.6, 0.1])  # as good is not better
    assert exhausted_budget(config, reopened(config, tmp_path), 0.0) is None
    play(ledger, [0.2])
    assert exhausted_budget(config, reopened(config, tmp_path), 0.0) == "patience"
    more = config_with(patience=4)
    assert exhausted_budget(more, reopened(more, tmp_path), 0.0) is None
    down = config_with(patience=3, objective={"metric": "kkt/rho", "direction": "min"})
    assert exhausted_budget(down, reopened(config, tmp_path), 0.0) is None  # 0.1 was the best, one trial ago


def test_patience_goes_by_the_order_of_ending_not_of_asking(tmp_path: Path) -> None:
    config = config_with(patience=2)
    ledger = Ledger(config, tmp_path)
    numbers = [ledger.ask().number for _ in range(3)]
    for number, value in zip((2, 0, 1), (0.5, 0.6, 0.4), strict=True):
        ledger.record(numbers[number], 12, value, stop=False)
        ledger.tell(numbers[number], "complete")
    assert exhausted_budget(config, reopened(config, tmp_path), 0.0) is None
    play(ledger, [0.3])
    assert exhausted_budget(config, reopened(config, tmp_path), 0.0) == "patience"


def test_time_is_minutes_of_all_runs() -> None:
    config = config_with(time_budget=1.0)
    assert exhausted_budget(config, [], 50.0) is None and exhausted_budget(config, [], 60.0) == "time"


def test_every_reason_has_its_remedy(tmp_path: Path) -> None:
    for reason in ("trials", "grid", "time", "steps", "patience"):
        assert "--" in remedy(config_with(patience=7), reason)
    assert " 7 " in remedy(config_with(patience=7), "patience")


def test_ray_is_stopped_once_the_ledger_says_so(tmp_path: Path) -> None:
    ledger = Ledger(config_with(max_steps=24, time_budget=10.0), tmp_path)
    clock = [0.0]
    orders = PendingOrders(ledger, ProgressDisplay(ledger.config, Console(quiet=True)))
    stopper = BudgetStopper(ledger, lambda: clock[0], HaltMonitor(tmp_path), orders)
    assert not stopper("x", {"step": 12}) and not stopper.stop_all()
    play(ledger, [0.1])
    assert not stopper.stop_all()
    clock[0] = 599.0
    assert not stopper.stop_all()
    clock[0] = 601.0
    assert stopper.stop_all()
    clock[0] = 0.0
    assert not stopper.stop_all()
    play(ledger, [0.1])
    assert stopper.stop_all()
