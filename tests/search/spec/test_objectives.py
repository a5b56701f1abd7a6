"""Objectives of a sweep, and its requirements on the best trial, from flags and files."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from gbc.errors import BadInput
from search.run import main
from search.spec.config import Objective, SweepConfig
from search.spec.resolve import objective_flags, requirement_flags
from tests.conftest import TINY
from tests.search.conftest import resolved_sweep, tiny_sweep


@pytest.mark.parametrize(
    ("text", "metric", "direction"),
    [
        ("tstr/1nn", "tstr/1nn", "max"),
        ("kkt/rho", "kkt/rho", "min"),
        ("free/score", "free/score", "max"),
        ("kkt/alpha:max", "kkt/alpha", "max"),
        ("loss/tv:max", "loss/tv", "max"),
    ],
)
def test_objectives_know_which_way_is_better(text: str, metric: str, direction: str) -> None:
    assert Objective.from_text(text) == Objective(metric=metric, direction=direction)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("ssim_coverage", "'ssim_coverage'.*'ssim/coverage'"),
        ("kkt/alpha", "kkt/alpha:min or kkt/alpha:max"),
        ("kkt/rho:up", "'up'.*'min' or 'max'"),
    ],
)
def test_a_faulty_objective_is_refused(text: str, message: str) -> None:
    with pytest.raises(BadInput, match=message):
        Objective.from_text(text)


@pytest.mark.parametrize(
    ("metric", "weight"), [("loss/ce", "ce_weight"), ("loss/duality", "beta"), ("kkt/rho", "stationarity_weight")]
)
def test_a_loss_without_weight_cannot_be_the_objective(metric: str, weight: str) -> None:
    settings = tiny_sweep(objective={"metric": metric, "direction": "min"})
    trial = {**TINY, weight: 0.0}
    with pytest.raises(BadInput, match=f"objective {metric} .*{weight} is above 0"):
        SweepConfig.parse(settings | {"trial": trial}, "test")
    searched = {"space": {weight: {"uniform": [0.1, 1.0]}}}
    assert SweepConfig.parse(settings | {"trial": trial} | searched, "test").objective.metric == metric


def test_requirements_are_flags_beside_those_of_a_file(tmp_path: Path) -> None:
    path = tmp_path / "asking.yaml"
    path.write_text(yaml.safe_dump({"objective": {"metric": "tstr/1nn", "require": {"kkt/active": 0.05, "tstr/1nn": 0.3}}}))
    config = resolved_sweep(
        config=path, flags=objective_flags("ssim/coverage") | requirement_flags(["kkt/active=0.1", "kkt/rho=0.9"])
    )
    assert config.objective.metric == "ssim/coverage"
    assert config.objective.require == {"kkt/active": 0.1, "tstr/1nn": 0.3, "kkt/rho": 0.9}
    assert config.objective.required == "kkt/active ≥ 0.1 and tstr/1nn ≥ 0.3 and kkt/rho ≤ 0.9"
    assert config.record()["objective"]["require"] == config.objective.require
    again = SweepConfig.parse(config.record(), "sweep.yaml")
    assert again == config and again.differences(config) == {}
    assert config.differences(resolved_sweep(config=path))["objective.require.kkt/rho"] == (0.9, None)


def test_what_a_report_misses_of_the_requirements() -> None:
    asked = Objective.parse({"require": {"kkt/active": 0.05, "kkt/rho": 0.9}}, "test")
    assert asked.missed({"kkt/active": 0.05, "kkt/rho": 0.9}) == []
    active, rho = asked.missed({"kkt/active": 0.012, "kkt/rho": 0.95})
    assert re.match(r"kkt/active 0\.012 .*least 0\.05", active) and re.match(r"kkt/rho 0\.95 .*most 0\.9", rho), (active, rho)
    assert re.match(r"kkt/active missing .*0\.05", asked.missed({"kkt/active": float("nan")})[0])
    assert Objective().missed({}) == []


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("kkt/activ=0.05", "--require: .*'kkt/activ'.*'kkt/active'"),
        ("kkt/active", "--require 'kkt/active': .*METRIC=NUMBER"),
        ("kkt/active=much", "METRIC=NUMBER"),
        ("kkt/active=nan", "METRIC=NUMBER"),
    ],
)
def test_a_faulty_requirement_is_one_line_and_exit_code_2(text: str, message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--require", text, "--dry-run"]) == 2
    error = capsys.readouterr().err
    assert re.search(message, error) and error.count("\n") == 1, error


def test_a_dry_run_shows_what_is_required(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)  # away from sweeps of the checkout
    assert main(["--require", "kkt/active=0.05", "--dry-run", "--trials", "1"]) == 0
    assert yaml.safe_load(capsys.readouterr().out)["objective"]["require"] == {"kkt/active": 0.05}


def test_two_objectives_switch_early_stopping_off_unless_it_was_asked_for(tmp_path: Path) -> None:
    flags = objective_flags("ssim/coverage, kkt/rho")
    config = resolved_sweep(flags=flags)
    assert [o.metric for o in config.objectives] == ["ssim/coverage", "kkt/rho"]
    assert [o.direction for o in config.objectives] == ["max", "min"] and config.scheduler.name == "none"
    assert resolved_sweep(flags=flags | {"scheduler.name": "hyperband"}).scheduler.name == "hyperband"
    with pytest.raises(BadInput, match=r"scheduler median .*objectives"):
        resolved_sweep(flags=flags | {"scheduler.name": "median"})
    path = tmp_path / "two.yaml"
    path.write_text(yaml.safe_dump({"second_objective": {"metric": "kkt/rho", "direction": "min"}}))
    assert resolved_sweep(config=path).scheduler.name == "none"
    assert resolved_sweep(config=path, flags=objective_flags("tstr/1nn")).objectives == (Objective(metric="tstr/1nn"),)
