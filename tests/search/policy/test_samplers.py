"""Every sampler over a real study: what it proposes is a function of the seed and the trials so far."""

from __future__ import annotations

from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest

from records.trial import TrialRecord
from search.policy.samplers import LEARNING, SAMPLERS, SEQUENCES, random_setting
from search.spec.config import SweepConfig
from search.spec.space import settle
from search.study.ledger import Ledger
from search.study.orders import Order
from tests.search.conftest import tiny_sweep

Loss = Callable[[dict[str, Any]], float]


def ask_and_tell(ledger: Ledger, number: int, *, stop: bool = False) -> TrialRecord:
    """One trial as the driver goes through it."""
    trial = ledger.ask()
    assert trial.number == number
    ledger.record(number, 3 if stop else 12, -abs(np.log10(trial.params["lr"]) + 2.4) - trial.params["tv_weight"], stop=stop)
    ledger.tell(number, "stopped" if stop else "complete")
    return trial


def run(folder: Path, trials: int, *, restart: bool, **changes: object) -> list[dict[str, Any]]:
    """Settings in order; with `restart` all that is in memory is lost before each trial."""
    folder.mkdir()
    config = SweepConfig.parse(tiny_sweep(**changes), "test")
    ledger = Ledger(config, folder)
    for number in range(trials):
        if restart:
            ledger = Ledger(config, folder)
        ask_and_tell(ledger, number, stop=number % 3 == 2)
    return [trial.params for trial in ledger.entries()]


def test_every_sampler_that_can_be_named_is_there() -> None:
    assert set(SAMPLERS) == set(get_args(SweepConfig.model_fields["sampler"].annotation))
    assert LEARNING | SEQUENCES.keys() | {"random"} == set(SAMPLERS)


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_one_at_a_time_a_continued_sweep_samples_what_an_unbroken_one_samples(tmp_path: Path, sampler: str) -> None:
    trials = 20 if sampler == "cmaes" else 13  # past the ten start-up trials, or several generations of CMA-ES
    unbroken = run(tmp_path / "a", trials, restart=False, sampler=sampler)
    assert run(tmp_path / "b", trials, restart=True, sampler=sampler) == unbroken
    assert len({tuple(params.values()) for params in unbroken}) == trials
    other = run(tmp_path / "c", trials, restart=False, sampler=sampler, seed=2)
    assert all(mine != theirs for mine, theirs in zip(unbroken, other, strict=True))


CONDITIONAL: dict[str, Any] = {
    "lr": {"log10": [-3.5, -2.0]},
    "tv_weight": {"uniform": [0.0, 1.0]},
    "estimator": {"choice": ["norm", "cosine"]},
    "delta": {"uniform": [0.1, 0.9], "when": {"estimator": "norm"}},
    "noise_dim": {"int": [4, 12], "when": {"estimator": "cosine"}},
}


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_conditions_and_constraints_are_kept_and_a_continued_sweep_is_as_an_unbroken_one(tmp_path: Path, sampler: str) -> None:
    changes: dict[str, Any] = {"space": CONDITIONAL, "constraints": ["tv_weight < 0.6", "noise_dim + 10 * tv_weight <= 13"]}
    config = SweepConfig.parse(tiny_sweep(sampler=sampler, **changes), "test")
    trials = 24 if sampler == "cmaes" else 14
    unbroken = run(tmp_path / "a", trials, restart=False, sampler=sampler, **changes)
    assert run(tmp_path / "b", trials, restart=True, sampler=sampler, **changes) == unbroken
    for params in unbroken:
        assert config.search_space.is_whole(params) and config.search_space.broken(params) is None
    assert {params["estimator"] for params in unbroken} == {"norm", "cosine"}
    assert len({tuple(params.items()) for params in unbroken}) == trials


def test_cmaes_keeps_its_dimensions_where_early_trials_have_a_conditional_one(tmp_path: Path) -> None:
    """Without a fixed space it would take three at the first generation, two later, and give up."""
    config = SweepConfig.parse(tiny_sweep(sampler="cmaes", space=CONDITIONAL), "test")
    ledger = Ledger(config, tmp_path)
    while len(ledger.entries()) < 40:
        order = Order("enqueue", settings={"estimator": "norm" if len(ledger.entries()) < 8 else "cosine"})
        number = ledger.ask(order).number
        params = ledger.entry(number).params
        ledger.record(number, 12, -abs(np.log10(params["lr"]) + 2.4) - params["tv_weight"], stop=False)
        ledger.tell(number, "complete")
    late = [abs(np.log10(trial.params["lr"]) + 2.4) + trial.params["tv_weight"] for trial in ledger.entries()[-8:]]
    assert np.median(late) < 0.4  # of draws at random: 0.9


def test_where_a_sampler_proposes_nothing_that_keeps_the_constraints_a_random_setting_does(tmp_path: Path) -> None:
    """A thousandth of the space is left, and the sampler has twenty tries."""
    config = SweepConfig.parse(tiny_sweep(constraints=["tv_weight < 0.001 or tv_weight > 0.9985"], trials=3), "test")
    ledger, again = Ledger(config, tmp_path), []
    for _ in range(3):
        again.append(random_setting(config, len(again), {}))
        params = ledger.ask().params
        assert params["tv_weight"] < 0.001 or params["tv_weight"] > 0.9985
        assert params == again[-1]
    assert len({params["lr"] for params in again}) == 3
    kept = random_setting(config, 7, {"lr": 0.005})
    assert kept["lr"] == 0.005 and config.search_space.broken(kept) is None


def test_points_that_break_a_constraint_are_not_counted_in_a_sequence(tmp_path: Path) -> None:
    free = run(tmp_path / "a", 40, restart=False, sampler="qmc")
    kept = run(tmp_path / "b", 12, restart=False, sampler="qmc", constraints=["tv_weight < 0.4"])
    assert kept == [params for params in free if params["tv_weight"] < 0.4][:12]


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_trials_that_are_open_or_failed_are_no_obstacle(tmp_path: Path, sampler: str) -> None:
    ledger = Ledger(SweepConfig.parse(tiny_sweep(sampler=sampler), "test"), tmp_path)
    for number in range(10):  # what is asked for next is past the start-up trials
        ask_and_tell(ledger, number)
    running, failed = ledger.ask(), ledger.ask()
    ledger.tell(failed.number, "failed", "why")
    silent = ledger.ask()
    ledger.tell(silent.number, "stopped")  # before its first report
    fresh = ledger.ask()
    assert fresh.params != running.params and set(fresh.params) == {"lr", "batch_size", "tv_weight"}


@pytest.mark.parametrize("sampler", sorted(LEARNING))
def test_what_learns_ends_nearer_to_the_best_than_chance(tmp_path: Path, sampler: str) -> None:
    def distance(params: dict[str, Any]) -> float:
        return abs(np.log10(params["lr"]) + 2.4) + float(params["tv_weight"])

    trials = 18 if sampler == "gp" else 30  # it learns faster, and takes longer over each
    late = run(tmp_path / "a", trials, restart=False, sampler=sampler)[-8:]
    chance = run(tmp_path / "b", 30, restart=False, sampler="random")[-8:]
    assert np.median([*map(distance, late)]) < np.median([*map(distance, chance)])


def test_a_grid_is_every_combination_once(tmp_path: Path) -> None:
    space = {
        "lr": {"log10": [-3.0, -2.0], "points": 3},
        "batch_size": {"choice": [16, 32]},
        "tv_weight": {"uniform": [0.0, 1.0], "points": 2},
    }
    tried = run(tmp_path / "a", 12, restart=True, sampler="grid", space=space)
    axes = [dimension.grid() for dimension in SweepConfig.parse(tiny_sweep(space=space), "test").space.values()]
    combinations = [tuple(params[key] for key in space) for params in tried]
    assert sorted(combinations) == sorted(product(*axes))
    assert combinations != sorted(combinations)  # shuffled: half a grid is not half the space


def test_sobol_points_spread_evenly(tmp_path: Path) -> None:
    tried = run(tmp_path / "a", 16, restart=True, sampler="qmc")
    for key, low, high in (("tv_weight", 0.0, 1.0), ("lr", 10**-3.5, 10**-2.0)):
        values = np.array([params[key] for params in tried])
        scaled = np.log(values / low) / np.log(high / low) if low else values
        assert sorted((scaled * 16).astype(int)) == list(range(16))  # one in each sixteenth: a net in base 2
    assert [params["batch_size"] for params in tried].count(16) == 8


def test_a_large_seed_is_a_seed(tmp_path: Path) -> None:
    """NumPy's generators take 32 bits."""
    assert run(tmp_path / "a", 12, restart=False, sampler="tpe", seed=2**31)


def test_an_empty_space_is_sampled_too(tmp_path: Path) -> None:
    for sampler in SAMPLERS:
        if sampler != "cmaes":  # refused
            folder = tmp_path / sampler
            folder.mkdir()
            assert Ledger(SweepConfig.parse(tiny_sweep(sampler=sampler, space={}), "test"), folder).ask().params == {}


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_whole_numbers_stay_whole_through_every_sampler_and_the_study(sampler: str, tmp_path: Path) -> None:
    space = {"batch_size": {"int": [16, 40], "log": True}, "noise_dim": {"int": [4, 6]}, "tv_weight": {"uniform": [0.0, 1.0]}}
    config = SweepConfig.parse(tiny_sweep(sampler=sampler, space=space, trials=40), "test")
    ledger = Ledger(config, tmp_path)
    for number in range(12):  # beyond the random start of those that learn
        ledger.ask()
        ledger.record(number, 12, 0.1, stop=False)
        ledger.tell(number, "complete")
    ledger.close()
    again = Ledger(config, tmp_path)
    for trial in again.entries():
        settings = settle(config.trial, trial.params, 0)
        assert 16 <= settings.batch_size <= 40 and settings.noise_dim in (4, 5, 6)
        assert type(trial.params["batch_size"]) is int
    again.close()
