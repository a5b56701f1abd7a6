"""A real sweep's study gives its settings and its history to another; only Ray stays out of it."""

from __future__ import annotations

import re
import shutil
from collections.abc import Collection
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from gbc.errors import BadInput, CorruptFile
from records.paths import RECORD
from search.files.paths import WARM_START, sweep_folder
from search.policy.budget import planning_ended_by
from search.policy.samplers import LEARNING, SAMPLERS, Prior
from search.run import main
from search.spec.config import SweepConfig
from search.study import warm_start
from search.study.ledger import Ledger
from tests.conftest import TINY
from tests.search.conftest import tiny_sweep


@pytest.fixture(autouse=True)
def _in_a_new_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def score(params: dict[str, Any]) -> float:
    return float(-abs(np.log10(params.get("lr", 1e-3)) + 2.4) - params.get("tv_weight", 0.0))


def other_sweep(trials: int = 12, missing: Collection[int] = (), **changes: Any) -> SweepConfig:
    """Lay down a sweep that has run; trials in `missing` miss what it requires."""
    config = SweepConfig.parse(tiny_sweep(**{"name": "other", "sampler": "random", "seed": 7, **changes}), "test")
    sweep_folder(config.name).mkdir(parents=True)
    (sweep_folder(config.name) / RECORD).write_text(yaml.safe_dump(config.model_dump(mode="json", exclude_none=True)))
    ledger = Ledger(config, sweep_folder(config.name))
    for number in range(trials):
        trial = ledger.ask()
        second = 0.1 * number if config.second_objective else None
        missed = ["kkt/active 0"] if number in missing else None
        ledger.record(number, config.trial.steps, score(trial.params), stop=False, second=second, missed=missed)
        ledger.tell(number, "stopped" if number == 3 else "complete")
    ledger.close()
    return config


def mine(**changes: Any) -> SweepConfig:
    return SweepConfig.parse(tiny_sweep(**{"name": "mine", "warm_start": "other", **changes}), "test")


def entries_of(config: SweepConfig) -> list[Any]:
    ledger = Ledger(config, sweep_folder(config.name))
    entries = ledger.entries()
    ledger.close()
    return entries


def test_the_best_settings_come_first_and_full_trials_are_history() -> None:
    other = other_sweep()
    full = [trial for trial in entries_of(other) if trial.state == "complete"]
    prior = warm_start.borrow(mine(warm_start_trials=3), "other")
    ranked = sorted(full, key=lambda trial: -score(trial.params))
    assert [known.origin for known in prior.first] == [f"other/trial-{trial.number:04d}" for trial in ranked[:3]]
    assert [dict(known.params) for known in prior.first] == [trial.params for trial in ranked[:3]]
    assert len(prior.history) == len(full) == 11
    assert len(warm_start.borrow(mine(), "other").first) == 5


def test_trials_that_miss_what_their_sweep_requires_are_history_and_no_start() -> None:
    asked = {"metric": "ssim/coverage", "direction": "max", "require": {"kkt/active": 0.05}}
    other = other_sweep(objective=asked, missing=range(2, 12))
    prior = warm_start.borrow(mine(), "other")
    assert {known.origin for known in prior.first} == {"other/trial-0000", "other/trial-0001"}
    assert len(prior.history) == 11 and other.objective.require  # the values mean the same with and without
    shutil.rmtree(sweep_folder("other"))
    other_sweep(objective=asked, missing=range(12))
    assert len(warm_start.borrow(mine(), "other").first) == 5  # none meets it: the best of all


def test_values_that_mean_something_else_are_no_history() -> None:
    other_sweep()
    for changes in (
        {"objective": {"metric": "kkt/rho", "direction": "min"}},
        {"trial": {**TINY, "steps": 24}},
        {"second_objective": {"metric": "kkt/rho", "direction": "min"}, "scheduler": {"name": "none"}},
    ):
        prior = warm_start.borrow(mine(**changes), "other")
        assert len(prior.first) == 5 and not prior.history


def test_a_space_that_agrees_in_part_gives_what_fits() -> None:
    """Settings that the other had fixed count, those outside are left to the sampler."""
    other = other_sweep(space={"lr": {"log10": [-3.5, -2.0]}}, trial={**TINY, "tv_weight": 0.25})
    values = sorted(trial.params["lr"] for trial in entries_of(other))
    space = {"lr": {"log10": [-3.0, -2.0]}, "tv_weight": {"uniform": [0.0, 1.0]}, "batch_size": {"choice": [16, 64]}}
    prior = warm_start.borrow(mine(space=space, warm_start_trials=100), "other")
    assert {known.params["tv_weight"] for known in prior.first} == {0.25}
    assert all("batch_size" not in known.params for known in prior.first)  # 32 there
    inside = [known.params["lr"] for known in prior.first if "lr" in known.params]
    assert set(inside) <= {value for value in values if value >= 1e-3} and values[0] < 1e-3
    assert not prior.history
    config = mine(space=space)
    sweep_folder("mine").mkdir()
    trial = Ledger(config, sweep_folder("mine"), prior).ask()
    assert trial.params["tv_weight"] == 0.25 and trial.params["batch_size"] in (16, 64)
    assert trial.origin == prior.first[0].origin


def test_a_setting_that_is_not_active_here_is_not_taken_and_what_breaks_a_constraint_is_no_start() -> None:
    other = other_sweep(
        space={"lr": {"log10": [-3.5, -2.0]}, "estimator": {"choice": ["norm", "cosine"]}}, trial={**TINY, "delta": 0.5}
    )
    delta = {"uniform": [0.1, 0.9], "when": {"estimator": "norm"}}
    space = {"lr": {"log10": [-3.5, -2.0]}, "delta": delta, "estimator": {"choice": ["norm", "cosine"]}}
    config = mine(space=space, constraints=["lr >= 0.001"], warm_start_trials=100)
    prior = warm_start.borrow(config, "other")
    full = [trial.params for trial in entries_of(other) if trial.state == "complete"]
    expected = [{**params, "delta": 0.5} if params["estimator"] == "norm" else params for params in full]
    assert {len(params) for params in expected} == {2, 3} and any(params["lr"] < 0.001 for params in full)

    def rows(settings: Collection[Any]) -> set[Any]:
        return {tuple(sorted(params.items())) for params in settings}

    assert rows(known.params for known in prior.history) == rows(expected)  # what it learns from need not be allowed
    assert rows(known.params for known in prior.first) == rows(settings for settings in expected if settings["lr"] >= 0.001)
    entries = run(config, prior, len(prior.first) + 2, restart=True)
    assert all(config.search_space.is_whole(trial.params) and trial.params["lr"] >= 0.001 for trial in entries)
    with pytest.raises(BadInput, match="none of its settings"):
        warm_start.borrow(mine(space=space, constraints=[f"lr > {max(params['lr'] for params in full)}"]), "other")


def test_a_front_comes_before_the_others() -> None:
    second = {"metric": "kkt/rho", "direction": "min"}
    other = other_sweep(second_objective=second, scheduler={"name": "none"})
    config = mine(second_objective=second, scheduler={"name": "none"}, warm_start_trials=12)
    prior = warm_start.borrow(config, "other")
    study = Ledger(other, sweep_folder("other")).study
    leaders = {trial.number for trial in study.best_trials}
    assert {int(known.origin[-4:]) for known in prior.first[: len(leaders)]} == leaders
    assert len(prior.history) == 11


def run(config: SweepConfig, prior: Prior, trials: int, *, restart: bool) -> list[Any]:
    sweep_folder(config.name).mkdir(parents=True)
    warm_start.write_note(config, prior, sweep_folder(config.name))
    ledger = Ledger(config, sweep_folder(config.name), prior)
    for number in range(trials):
        if restart:
            ledger = Ledger(config, sweep_folder(config.name), warm_start.load(config))
        trial = ledger.ask()
        assert trial.number == number
        ledger.record(number, 12, score(trial.params), stop=False)
        ledger.tell(number, "complete")
    return ledger.entries()


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_one_at_a_time_a_continued_warm_sweep_samples_what_an_unbroken_one_samples(sampler: str) -> None:
    other_sweep(20)
    trials = 14 if sampler == "cmaes" else 8  # past what is borrowed, and a generation of CMA-ES
    config = mine(sampler=sampler)
    prior = warm_start.load(config)
    unbroken = run(config, prior, trials, restart=False)
    again = config.model_copy(update={"name": "again"})
    assert [trial.params for trial in run(again, prior, trials, restart=True)] == [trial.params for trial in unbroken]
    assert [trial.params for trial in unbroken[:5]] == [dict(known.params) for known in prior.first]
    assert [trial.origin is not None for trial in unbroken] == [True] * 5 + [False] * (trials - 5)
    if sampler != "gp":  # which may well come back to what it takes for the best
        assert len({tuple(trial.params.values()) for trial in unbroken}) == trials
    # The other's trials are nowhere: numbers, counts and the best are this sweep's own.
    assert len(unbroken) == trials
    best = Ledger(config, sweep_folder("mine")).best()
    assert best is not None and best.number == max(unbroken, key=lambda trial: score(trial.params)).number


@pytest.mark.parametrize("sampler", sorted(LEARNING))
def test_history_teaches_before_the_first_trial_of_ones_own(sampler: str) -> None:
    other_sweep(40, sampler="tpe")
    config = mine(sampler=sampler, warm_start_trials=1)
    warm = run(config, warm_start.load(config), 5, restart=False)[1:]
    cold = config.model_copy(update={"name": "cold", "warm_start": None})
    plain = run(cold, Prior(), 5, restart=False)[1:]
    assert np.median([score(trial.params) for trial in warm]) > np.median([score(trial.params) for trial in plain])


@pytest.mark.parametrize("trials", [1, 2, 9, 11])
@pytest.mark.parametrize("sampler", sorted(LEARNING))
def test_any_length_of_history_will_do(sampler: str, trials: int) -> None:
    other_sweep(trials)
    for space in ({"lr": {"log10": [-3.5, -2.0]}}, {**mine().model_dump(mode="json", exclude_none=True)["space"]}):
        config = mine(sampler=sampler, space=space, warm_start_trials=1, name=f"mine-{len(space)}")
        prior = warm_start.load(config)
        assert prior.history
        run(config, prior, 3, restart=True)


def test_listed_settings_come_first_and_what_they_leave_open_is_sampled() -> None:
    other_sweep()
    listed = ({"lr": 2e-3, "batch_size": 32}, {"lr": 1e-3})
    config = mine(first_trials=listed, warm_start_trials=1)
    first, second, borrowed, sampled = run(config, warm_start.load(config), 4, restart=True)
    assert [trial.origin for trial in (first, second, sampled)] == ["first_trials", "first_trials", None]
    assert borrowed.origin.startswith("other/trial-")
    assert first.params.items() >= listed[0].items() and second.params["lr"] == 1e-3
    assert first.params.keys() == second.params.keys() == config.space.keys()


def test_a_grid_is_tried_in_full_beside_what_was_borrowed() -> None:
    other_sweep()
    space = {"lr": {"log10": [-3.5, -2.0], "points": 2}, "batch_size": {"choice": [16, 32]}, "tv_weight": {"choice": [0.5]}}
    config = mine(sampler="grid", space=space, warm_start_trials=2, trials=100)
    entries = run(config, warm_start.load(config), 6, restart=True)
    assert len({tuple(trial.params.values()) for trial in entries[2:]}) == 4
    assert planning_ended_by(config, entries[:5], 0.0) is None and planning_ended_by(config, entries, 0.0) == "grid"


def test_what_was_taken_at_the_start_is_kept_even_if_the_other_sweep_goes_away() -> None:
    other = other_sweep()
    config = mine()
    prior = warm_start.load(config)
    sweep_folder("mine").mkdir()
    assert set(warm_start.write_note(config, prior, sweep_folder("mine"))) == {"warm_start.json"}
    (sweep_folder("other") / "study.db").unlink()
    assert warm_start.load(config) == prior
    (sweep_folder("mine") / WARM_START).write_text("{")
    with pytest.raises(CorruptFile, match=r"warm_start\.json: damaged"):
        warm_start.load(config)
    (sweep_folder("mine") / WARM_START).unlink()
    Ledger(config, sweep_folder("mine"), prior).close()
    with pytest.raises(CorruptFile, match=r"warm_start\.json: missing; .*--check mine --repair"):
        warm_start.load(config)  # to take them again might give others
    assert warm_start.load(other) == Prior() and warm_start.write_note(other, Prior(), sweep_folder("other")) == {}


@pytest.mark.parametrize(
    ("others", "changes", "message"),
    [
        ({}, {"warm_start": "othr"}, "--warm-start: .*'othr'.*'other'"),
        ({}, {"name": "other"}, "--warm-start other: .*itself"),
        ({"trial": {**TINY, "dataset": {"name": "digits"}}}, {}, "digits.*fashion_mnist"),
        ({"space": {"beta": {"log10": [-3.0, -2.0]}}}, {}, "beta.*batch_size, lr, tv_weight"),
        ({"trials": 0}, {}, "no trial .*horizon"),
        (
            {"space": {"lr": {"log10": [-5.0, -4.0]}}},
            {"space": {"lr": {"log10": [-3.0, -2.0]}}},
            "settings .*space",
        ),
    ],
)
def test_what_cannot_be_a_start_is_refused_in_one_line(
    others: dict[str, Any], changes: dict[str, Any], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other_sweep(**others)
    file = tmp_path / "mine.yaml"
    file.write_text(yaml.safe_dump(tiny_sweep(**{"name": "mine", "warm_start": "other", **changes})))
    if changes.get("name") == "other":
        with pytest.raises(BadInput, match=message):
            warm_start.borrow(mine(**changes), "other")
        return
    assert main(["--config", str(file)]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and error.count("\n") == 1 and re.search(message, error), error
    assert not (tmp_path / "mlflow.db").exists() and not (sweep_folder("mine") / RECORD).exists()


def test_the_flags_are_shown_by_a_dry_run(capsys: pytest.CaptureFixture[str]) -> None:
    command = ["--warm-start", "other", "--warm-start-trials", "3", "--dry-run"]
    assert main(command) == 2  # a dry run accepts what runs, and there is no such sweep yet
    assert "--warm-start: " in capsys.readouterr().err
    other_sweep(trial={**TINY, "steps": 12})
    assert main(command) == 0
    shown = yaml.safe_load(capsys.readouterr().out)
    assert (shown["warm_start"], shown["warm_start_trials"]) == ("other", 3)
