"""Conditions and constraints of a space: what is searched where, and what is told wrong."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest
import yaml

from gbc.errors import BadInput
from search.control import parse_setting
from search.run import main
from search.spec.config import SweepConfig
from search.spec.resolve import resolve
from search.spec.space import settle, values_of
from tests.conftest import TINY
from tests.search.conftest import tiny_sweep
from tests.support import missing

SPACE: dict[str, Any] = {
    "bn_weight": {"log10": [0.0, 1.0], "when": {"classifier.name": "mlp_bn"}},
    "classifier.name": {"choice": ["mlp", "mlp_bn", "conv"]},
    "classifier.hidden": {"choice": [16, 24], "when": {"classifier.name": ["mlp", "mlp_bn"]}},
    "ce_weight": {"uniform": [0.1, 0.2], "when": {"classifier.hidden": 16, "classifier.name": "mlp"}},
    "lr": {"log10": [-3.5, -2.0]},
}


def parsed(**changes: Any) -> SweepConfig:
    return SweepConfig.parse(tiny_sweep(**{"space": SPACE, **changes}), "sweep.yaml")


def test_a_setting_is_searched_where_its_condition_holds() -> None:
    space, seen = parsed().search_space, set()
    for seed in range(60):
        params = space.draw(random.Random(seed))
        name, hidden = params["classifier.name"], params.get("classifier.hidden")
        expected = {"classifier.name", "lr"}
        expected |= {"bn_weight"} if name == "mlp_bn" else set()
        expected |= {"classifier.hidden"} if name != "conv" else set()
        expected |= {"ce_weight"} if (name, hidden) == ("mlp", 16) else set()
        assert params.keys() == expected and space.is_whole(params) and space.fitting(params) == params
        assert not space.is_whole({"lr": params["lr"]}) and not space.is_whole({**params, "beta": 1.0})
        seen.add((name, hidden))
    assert seen == {("mlp", 16), ("mlp", 24), ("mlp_bn", 16), ("mlp_bn", 24), ("conv", None)}
    assert len(space.classifiers()) == 5 and len({trial.classifier.digest() for trial in space.trials()}) == 5


def test_a_setting_that_is_not_searched_keeps_its_value_and_conditions_go_by_it() -> None:
    config = parsed()
    settings = settle(config.trial, {"classifier.name": "conv", "lr": 1e-3}, 7)
    assert settings.classifier.name == "conv" and settings.seed == 7
    assert (settings.classifier.hidden, settings.bn_weight) == (TINY["classifier"]["hidden"], TINY["bn_weight"])  # type: ignore[index]
    by_default = {"when": {"classifier.hidden": 24}, "uniform": [0.0, 1.0]}  # which a conv has, though it is not searched then
    space = parsed(space={**SPACE, "beta": by_default}).search_space
    assert "beta" in space.walk(lambda key, dimension: "conv" if key == "classifier.name" else dimension.bounds()[0])


def test_a_factory_counts_as_the_name_of_a_classifier() -> None:
    trial = {**TINY, "classifier": {"factory": "torchvision:resnet18"}}
    assert values_of(SweepConfig.parse(tiny_sweep(trial=trial), "x").trial)["classifier.name"] == "torchvision:resnet18"
    space = {
        "classifier.name": {"choice": ["mlp", "timm:vit"]},
        "beta": {"uniform": [0.0, 1.0], "when": {"classifier.name": "timm:vit"}},
    }
    config = parsed(space=space)
    assert settle(config.trial, {"classifier.name": "timm:vit", "beta": 0.5}, 0).classifier.factory == "timm:vit"
    assert [trial.classifier.factory for trial in config.search_space.trials()] == [None, "timm:vit"]
    assert config.search_space.is_whole({"classifier.name": "timm:vit", "beta": 0.5})


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"space": {"classifier": {"choice": ["mlp"]}}}, ["'classifier'", "classifier.name"]),
        ({"space": {"classifier.nam": {"choice": ["mlp"]}}}, ["'classifier.nam'", "'classifier.name'"]),
        ({"space": {"classifier.weights": {"choice": ["a.pt"]}}}, ["'classifier.weights'"]),
        ({"space": {"classifier.hidden": {"int": [8, 32]}}}, ["classifier.hidden", "choice"]),
        ({"space": {"classifier.hidden": {"choice": [8, 0]}}}, ["classifier.hidden", "0"]),
        ({"space": {"classifier.seed": {"choice": list(range(17))}}}, ["17 classifiers", "16"]),
        (
            {"space": {f"classifier.{key}": {"choice": list(range(1, 60))} for key in ("seed", "steps", "hidden")}},
            ["100,000", "classifier.hidden"],
        ),
        (
            {"space": {"classifier.name": {"choice": ["mlp"]}}, "trial": {**TINY, "classifier": {"factory": "timm:vit"}}},
            ["classifier.name", "trial.classifier.factory"],
        ),
        ({"space": {"lr": {"log10": [-3, -2], "when": {}}}}, ["space.lr", "when"]),
        ({"space": {"lr": {"log10": [-3, -2], "when": {"beta": []}}}}, ["space.lr", "when"]),
        ({"space": {"lr": {"log10": [-3, -2], "when": "mlp"}}}, ["space.lr.when", "'mlp'"]),
        ({"space": {"lr": {"log10": [-3, -2], "when": {"beta": {"a": 1}}}}}, ["space.lr.when.beta"]),
        ({"space": {"lr": {"log10": [-3, -2], "when": {"lrr": 1}}}}, ["lr: when.lrr", "'lr'"]),
        ({"space": {**SPACE, "beta": {"uniform": [0, 1], "when": {"lr": 0.001}}}}, ["beta: when.lr", "range"]),
        (
            {"space": {**SPACE, "beta": {"uniform": [0, 1], "when": {"classifier.name": "lenet"}}}},
            ["beta: when.classifier.name", "lenet", "conv"],
        ),
        (
            {
                "space": {
                    "batch_size": {"choice": [16, 32], "when": {"noise_dim": 4}},
                    "noise_dim": {"choice": [4, 8], "when": {"batch_size": 16}},
                }
            },
            ["batch_size, noise_dim", "circle"],
        ),
        ({"space": {"candidates": {"int": [100, 200]}}}, ["candidates", "pixels"]),
        ({"space": SPACE, "first_trials": [{"bn_weight": 2.0}]}, ["first_trials[0].bn_weight", "classifier.name is mlp_bn"]),
        (
            {"space": SPACE, "first_trials": [{"bn_weight": 2.0, "classifier.name": "mlp"}]},
            ["first_trials[0].bn_weight", "mlp_bn"],
        ),
        ({"sampler": "cmaes", "space": {k: SPACE[k] for k in ("bn_weight", "classifier.name")}}, ["cmaes", "condition"]),
        ({"constraints": "lr > 1"}, ["constraints", "list"]),
        ({"constraints": [1]}, ["constraints.0", "1"]),
        ({"constraints": ["lr > 0", "lrr > 1"]}, ["constraints[1]", "'lrr'", "'lr'"]),
        ({"constraints": ["lr >"]}, ["constraints[0]", "'lr >'"]),
        ({"constraints": ["lr > 0"] * 51}, ["constraints", "51", "50"]),
        ({"constraints": ["lr < 1", "lr > 1"]}, ["constraints", "1,000", "'lr > 1'"]),
        ({"constraints": ["batch_size * steps <= 150"]}, ["constraints", "'batch_size * steps <= 150'"]),
        ({"constraints": ["batch_size < 20"], "first_trials": [{"batch_size": 32}]}, ["first_trials[0]", "'batch_size < 20'"]),
        (
            {"constraints": ["batch_size < 20"], "first_trials": [{"batch_size": 32, "lr": 1e-3, "tv_weight": 0.5}]},
            ["first_trials[0]", "'batch_size < 20'"],
        ),
        ({"sampler": "grid", "constraints": ["lr > 0.0099", "lr < 0.00999"]}, ["sampler grid", "no point"]),
        (
            {
                "sampler": "grid",
                "constraints": ["lr > 0"],
                "space": {key: {"uniform": [0.1, 0.5], "points": 1000} for key in ("lr", "beta")},
            },
            ["sampler grid", "1,000,000"],
        ),
        (
            {"objective": {"metric": "loss/bn", "direction": "min"}, "trial": {**TINY, "bn_weight": 0.0}, "space": SPACE},
            ["loss/bn", "bn_weight"],
        ),
    ],
)  # fmt: skip
def test_what_is_wrong_in_a_space_is_one_line(changes: dict[str, Any], named: list[str]) -> None:
    with pytest.raises(BadInput) as caught:
        SweepConfig.parse(tiny_sweep(**changes), "sweep.yaml")
    assert not missing(["sweep.yaml: ", *named], caught.value) and "\n" not in str(caught.value)


def test_a_faulty_space_is_exit_code_2(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(tiny_sweep(constraints=["lr > 1"])))
    assert main(["--config", str(tmp_path / "mine.yaml"), "--dry-run"]) == 2
    assert not missing(["mine.yaml", "constraints", "'lr > 1'"], capsys.readouterr().err)


def test_ends_are_tried_where_they_are_searched() -> None:
    space = {
        "generator": {"choice": ["convolutional", "pixels"]},
        "candidates": {"int": [100, 200], "when": {"generator": "pixels"}},
    }
    assert parsed(space=space).search_space.is_whole({"generator": "pixels", "candidates": 150})
    with pytest.raises(BadInput, match="bank"):
        parsed(space={**space, "bank": {"int": [4, 8], "when": {"generator": "pixels"}}})


def test_draws_keep_the_constraints_and_the_given_settings() -> None:
    config = parsed(constraints=["classifier.name == 'conv' or classifier.hidden * batch_size < 600", "lr >= 0.001"])
    space = config.search_space  # the batch size is 32: 16 or conv
    for seed in range(40):
        params = space.draw(random.Random(seed), {"bn_weight": 2.0})
        assert params.get("classifier.hidden") in (16, None) and params["lr"] >= 0.001 and space.broken(params) is None
        assert params.get("bn_weight") in (2.0, None)
        assert params == space.draw(random.Random(seed), {"bn_weight": 2.0})
    assert space.broken({"lr": 0.0005, "classifier.name": "conv"}) == "lr >= 0.001"


def test_a_grid_has_each_setting_once_and_only_those_that_keep_the_constraints() -> None:
    config = parsed(sampler="grid", space={**SPACE, "lr": {"log10": [-3, -2], "points": 2}}, trials=1000)
    points = config.search_space.grid()
    assert config.search_space.grid_size == len(points) == 2 * (5 + 1 + 5 + 5 + 1) and config.planned == 34
    assert len({tuple(sorted(point.items(), key=str)) for point in points}) == len(points)
    fewer = config.model_copy(update={"constraints": ("lr < 0.005", "classifier.hidden <= 16 or classifier.name == 'conv'")})
    assert fewer.search_space.grid_size == 5 + 5 + 1


@pytest.mark.parametrize(
    ("assignments", "flags", "left"),
    [
        ({"classifier.name": "mlp"}, {}, {"classifier.hidden", "ce_weight", "lr"}),
        ({"classifier": "mlp_bn"}, {}, {"classifier.hidden", "bn_weight", "lr"}),
        ({}, {"trial.classifier.name": "conv", "trial.classifier.factory": None}, {"lr"}),
        ({}, {"trial.classifier.factory": "timm:vit"}, {"lr"}),
        ({"classifier.hidden": 24}, {}, {"classifier.name", "bn_weight", "lr"}),
    ],
)
def test_what_is_fixed_takes_what_depends_on_it_out_of_the_space(
    assignments: dict[str, Any], flags: dict[str, Any], left: set[str], tmp_path: Path
) -> None:
    (tmp_path / "mine.yaml").write_text(
        yaml.safe_dump(tiny_sweep(space=SPACE, first_trials=[{"classifier.name": "mlp_bn", "bn_weight": 2.0}]))
    )
    config = resolve(
        dataset="fashion_mnist",
        preset=None,
        config=tmp_path / "mine.yaml",
        flags=flags,
        assignments=assignments,
        slots=lambda _: 1,
    )
    assert config.space.keys() == left and config.first_trials[0].keys() <= left
    assert yaml.safe_load(yaml.safe_dump(config.record())) == config.record()


def test_a_space_from_python_comes_with_its_own_constraints(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(tiny_sweep(constraints=["batch_size < 20"])))
    rest: dict[str, Any] = {"dataset": "fashion_mnist", "preset": None, "flags": {}, "assignments": {}, "slots": lambda _: 1}
    asked = {"config": tmp_path / "mine.yaml", "space": {"batch_size": {"choice": [32, 64]}}, **rest}
    assert resolve(**asked).constraints == ()
    assert resolve(**asked, constraints=["batch_size > 40"]).constraints == ("batch_size > 40",)
    with pytest.raises(BadInput, match=r"'batch_size > 64'"):
        resolve(**asked, constraints=["batch_size > 64"])


def test_an_order_that_the_space_has_not_is_refused() -> None:
    config = parsed(constraints=["lr >= 0.001"])
    assert parse_setting("classifier.name=mlp_bn,bn_weight=2", config) == {"classifier.name": "mlp_bn", "bn_weight": 2}
    for text, named in (
        ("lr=5e-4", ["--enqueue: ", "'lr >= 0.001'"]),
        ("bn_weight=2.0", ["--enqueue bn_weight: ", "classifier.name is mlp_bn"]),
        ("classifier.name=lenet5", ["--enqueue classifier.name: ", "lenet5", "mlp_bn"]),
        ("beta=1.0", ["--enqueue: ", "'beta'"]),
    ):
        with pytest.raises(BadInput) as caught:
            parse_setting(text, config)
        assert not missing(named, caught.value)


def test_conditions_and_constraints_may_not_change_when_a_sweep_goes_on() -> None:
    config = parsed()
    other = parsed(
        space={**SPACE, "bn_weight": {"log10": [0.0, 1.0], "when": {"classifier.name": "mlp"}}}, constraints=["lr > 0"]
    )
    assert set(config.differences(other)) == {"space.bn_weight.when.classifier.name", "constraints"}
    assert "constraints" not in config.record()
