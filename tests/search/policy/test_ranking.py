from __future__ import annotations

from pathlib import Path

from search.driver.summary import summarise
from search.policy.ranking import (
    best_trial,
    maximised_objectives,
    pareto_front,
    ranked_trials,
    trials_since_improvement,
    trials_to_keep,
)
from search.spec.config import SweepConfig
from search.study.ledger import Ledger
from search.study.store import recorded_trials
from tests.search.conftest import tiny_sweep

TWO = {
    "objective": {"metric": "ssim/coverage", "direction": "max"},
    "second_objective": {"metric": "kkt/rho", "direction": "min"},
    "scheduler": {"name": "none"},
}


def two_objectives(folder: Path, points: list[tuple[float, float]]) -> tuple[SweepConfig, Ledger]:
    config = SweepConfig.parse(tiny_sweep(**TWO), "test")
    ledger = Ledger(config, folder)
    for first, second in points:
        number = ledger.ask().number
        ledger.record(number, 6, 0.0, stop=False, second=9.0)
        ledger.record(number, 12, first, stop=False, second=second)
        ledger.tell(number, "complete")
    return config, ledger


def test_the_front_is_what_no_other_beats(tmp_path: Path) -> None:
    #         beaten by 2  on it       on it       beaten by 1  the same as 1
    points = [(0.2, 0.5), (0.6, 0.8), (0.3, 0.5), (0.6, 0.9), (0.6, 0.8)]
    config, _ = two_objectives(tmp_path, points)
    entries = Ledger(config, tmp_path).entries()
    assert [trial.objectives for trial in entries] == points
    assert maximised_objectives(config, entries[0]) == (0.2, -0.5)
    assert [trial.number for trial in pareto_front(config, entries)] == [1, 4, 2]
    best = best_trial(config, entries)
    assert best is not None and best.number == 1
    # Optuna's own answer leaves out nothing and adds nothing.
    assert {trial.number for trial in Ledger(config, tmp_path).study.best_trials} == {1, 2, 4}


def test_a_trial_that_was_cut_short_is_on_no_front(tmp_path: Path) -> None:
    config, ledger = two_objectives(tmp_path, [(0.2, 0.5)])
    number = ledger.ask().number
    ledger.record(number, 6, 0.9, stop=True, second=0.1)
    ledger.tell(number, "stopped")
    assert [trial.number for trial in pareto_front(config, ledger.entries())] == [0]
    assert ledger.entry(number).objectives == (0.9, 0.1)


def test_a_gain_is_what_nothing_before_equalled_in_both(tmp_path: Path) -> None:
    config, ledger = two_objectives(tmp_path, [(0.2, 0.5), (0.1, 0.4)])
    assert trials_since_improvement(config, ledger.entries()) == 0  # better in the second
    config, ledger = two_objectives(tmp_path, [(0.2, 0.5), (0.1, 0.45)])
    assert trials_since_improvement(config, ledger.entries()) == 2


def test_two_objectives_are_sampled_past_the_start_up_trials_whatever_was_cut_short(tmp_path: Path) -> None:
    for sampler in ("tpe", "gp", "random", "qmc", "grid"):
        folder = tmp_path / sampler
        folder.mkdir()
        config = SweepConfig.parse(tiny_sweep(**TWO, sampler=sampler), "test")
        seen = []
        ledger = Ledger(config, folder)
        for number in range(12):
            if number == 10:  # as a sweep that goes on, past the start-up trials
                ledger = Ledger(config, folder)
            seen.append(ledger.ask().params)
            ledger.record(number, 12, 0.1 * (number % 5), stop=False, second=0.1 * (number % 3))
            ledger.tell(number, "stopped" if number == 4 else "complete")
        assert len({tuple(params.values()) for params in seen}) == 12


def asking(folder: Path, trials: list[tuple[float, float]], **changes: object) -> tuple[SweepConfig, Ledger]:
    """A sweep that requires kkt/active of 0.05, with the values and kkt/active of full trials."""
    objective = {"metric": "ssim/coverage", "direction": "max", "require": {"kkt/active": 0.05}}
    config = SweepConfig.parse(tiny_sweep(objective=objective, **changes), "test")
    ledger = Ledger(config, folder)
    for value, active in trials:
        number = ledger.ask().number
        for step, share in ((6, 1.0), (12, active)):  # the last report counts
            ledger.record(number, step, value, stop=False, missed=config.objective.missed({"kkt/active": share}))
        ledger.tell(number, "complete")
    return config, ledger


def test_a_trial_that_misses_a_requirement_is_never_the_best(tmp_path: Path) -> None:
    config, ledger = asking(tmp_path, [(0.9, 0.0), (0.3, 0.2), (0.4, 0.1), (0.8, 0.04)], keep=1)
    ledger.flush()
    assert [trial.missed for trial in recorded_trials(config, tmp_path)[0]] == [trial.missed for trial in ledger.entries()]
    entries = Ledger(config, tmp_path).entries()  # as a sweep that goes on finds them
    assert entries[3].missed == tuple(config.objective.missed({"kkt/active": 0.04}))
    best = best_trial(config, entries)
    assert best is not None and best.number == 2
    assert [trial.number for trial in ranked_trials(config, entries)] == [2, 1, 0, 3]
    assert [trial.number for trial in trials_to_keep(config, entries)] == [2]
    assert [trial.number for trial in pareto_front(config, entries)] == [2]
    assert trials_since_improvement(config, entries) == 1  # the last one is better and does not count
    summary = summarise(config, ledger, lambda _: {}, tmp_path)
    assert summary.best_trial == 2
    (line,) = summary.verdict
    assert line.startswith("2 of 4 ") and config.objective.required in line


def test_where_none_meets_it_the_best_is_the_best_of_all(tmp_path: Path) -> None:
    config, ledger = asking(tmp_path, [(0.3, 0.0), (0.9, 0.01)])
    summary = summarise(config, ledger, lambda _: {}, tmp_path)
    assert summary.best_trial == 1
    (line,) = summary.verdict
    assert line.startswith("no ") and config.objective.required in line


def test_the_first_that_meets_it_is_a_gain_whatever_came_before(tmp_path: Path) -> None:
    config, ledger = asking(tmp_path, [(0.9, 0.0), (0.3, 0.2)])
    assert trials_since_improvement(config, ledger.entries()) == 0
