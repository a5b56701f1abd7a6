from __future__ import annotations

from pathlib import Path

from search.config import SweepConfig
from search.ledger import Ledger
from search.ranking import best, front, goodness, trials_without_gain
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
    assert [entry.objectives for entry in entries] == points
    assert goodness(config, entries[0]) == (0.2, -0.5)
    assert [entry.number for entry in front(config, entries)] == [1, 4, 2]
    found = best(config, entries)
    assert found is not None and found.number == 1
    # Optuna's own answer leaves out nothing and adds nothing.
    assert {trial.number for trial in Ledger(config, tmp_path).study.best_trials} == {1, 2, 4}


def test_a_trial_that_was_cut_short_is_on_no_front(tmp_path: Path) -> None:
    config, ledger = two_objectives(tmp_path, [(0.2, 0.5)])
    number = ledger.ask().number
    ledger.record(number, 6, 0.9, stop=True, second=0.1)
    ledger.tell(number, "stopped")
    assert [entry.number for entry in front(config, ledger.entries())] == [0]
    assert ledger.entry(number).objectives == (0.9, 0.1)


def test_a_gain_is_what_nothing_before_equalled_in_both(tmp_path: Path) -> None:
    config, ledger = two_objectives(tmp_path, [(0.2, 0.5), (0.1, 0.4)])
    assert trials_without_gain(config, ledger.entries()) == 0  # better in the second
    config, ledger = two_objectives(tmp_path, [(0.2, 0.5), (0.1, 0.45)])
    assert trials_without_gain(config, ledger.entries()) == 2


def test_two_objectives_are_sampled_past_the_start_up_trials_whatever_was_cut_short(tmp_path: Path) -> None:
    for sampler in ("tpe", "gp", "random", "qmc", "grid"):
        folder = tmp_path / sampler
        folder.mkdir()
        config = SweepConfig.parse(tiny_sweep(**TWO, sampler=sampler), "test")
        seen = []
        for number in range(14):
            ledger = Ledger(config, folder)
            seen.append(ledger.ask().params)
            ledger.record(number, 12, 0.1 * (number % 5), stop=False, second=0.1 * (number % 3))
            ledger.tell(number, "stopped" if number == 4 else "complete")
        assert len({tuple(params.values()) for params in seen}) == 14
