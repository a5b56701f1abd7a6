"""Λ's reach: which tensors may have λ > 0, which layer limits them, and what a classifier without Λ can still be used for."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gbc.classifiers.architectures import Classifier
from gbc.config import TrialConfig
from gbc.data.datasets import ImageDataset
from gbc.errors import NotQuasiHomogeneous
from gbc.kkt import availability, homogeneity
from gbc.training import tasks
from gbc.training.trainer import Trainer
from tests.support import missing
from tests.support.networks import NETWORKS, SHAPE, linear

LAST = {"head.weight", "head.bias"}


def reach_of(phi: nn.Module, mode: str = "train") -> homogeneity.Reach:
    example = torch.rand(4, *SHAPE)
    return homogeneity.reach(phi, "last_layer", mode, homogeneity.last_layer(phi, example), example)


@pytest.mark.parametrize(
    ("name", "mode", "layer", "possible"),
    [
        ("conv", "train", None, {"0.weight", "0.bias", "3.weight", "8.weight", "8.bias"}),
        ("gelu", "train", "2", {"3.weight", "3.bias"}),
        ("sigmoid_inside", "train", "2", {"3.weight", "3.bias", "5.weight", "5.bias"}),
        ("conv_bn", "eval", "6", {"6.weight", "6.bias", "9.weight", "9.bias"}),
        ("plain_residual", "train", "add", {"first.weight", "first.bias", "block.bias", *LAST}),
    ],
)
def test_the_layer_that_limits_it_is_named(name: str, mode: str, layer: str | None, possible: set[str]) -> None:
    reach = reach_of(NETWORKS[name](), mode)
    assert (reach.limited_by, set(reach.possible or ())) == (layer, possible)
    sentence = reach.sentence()
    assert not missing(
        ["last_layer", f"bn_mode {mode}", *reach.tensors, *([f"{layer} limits", reach.why] if layer else [])], sentence
    )
    assert json.loads(json.dumps(reach.to_json()))["sentence"] == sentence


def test_what_may_be_positive_agrees_with_the_ranges() -> None:
    for phi in (NETWORKS["conv_bn"](), NETWORKS["residual"]()):
        for mode in ("train", "eval"):
            system = homogeneity.structural(phi, mode)
            positive = {name for name, (_, high) in system.ranges().items() if high > 1e-9}
            assert set(system.can_be_positive()) == positive


def test_a_layer_without_a_rule_is_the_limit() -> None:
    reach = reach_of(linear(nn.PReLU()))
    assert reach.possible is None and reach.limited_by == "2" and "PReLU" in reach.why


class Between(nn.Module):
    """A function between two layers."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.first, self.function, self.head = nn.Linear(64, 6), function, nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.function(self.first(x.flatten(1))))


@pytest.mark.parametrize("function", [F.relu6, F.hardtanh, F.hardswish, F.mish, F.selu])
def test_functions_that_bend_limit_it(function: Callable[[Tensor], Tensor]) -> None:
    reach = reach_of(Between(function))
    assert set(reach.possible or ()) == LAST and function.__name__ in reach.why


class HeadFirst(nn.Module):
    """Its last layer is registered first."""

    def __init__(self) -> None:
        super().__init__()
        self.head, self.body = nn.Conv2d(2, 3, 8), nn.Sequential(nn.Conv2d(1, 2, 1), nn.GELU())

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(x)).flatten(1)


def test_the_last_layer_is_the_last_that_is_used() -> None:
    phi, example = HeadFirst(), torch.rand(4, *SHAPE)
    degrees = homogeneity.last_layer(phi, example)
    assert {name for name, degree in degrees.items() if degree} == LAST
    assert homogeneity.relative_error(phi, degrees, example, mode="eval") < 1e-12
    with pytest.raises(NotQuasiHomogeneous) as caught:
        homogeneity.last_layer(phi)
    assert caught.value.layer == "body.1"


class Unscaled(nn.Module):
    """It has no Λ: its last layer is not the end."""

    def __init__(self, end: nn.Module | None) -> None:
        super().__init__()
        self.layer, self.end = nn.Linear(784, 10), end

    def forward(self, x: Tensor) -> Tensor:
        logits = self.layer(x.flatten(1))
        return self.end(logits) if self.end else logits.sin()


@pytest.mark.parametrize(("end", "named"), [(nn.Softplus(), "end: "), (None, "last_layer: ")])
def test_without_a_lambda_other_losses_train(
    end: nn.Module | None, named: str, settings: TrialConfig, images: ImageDataset
) -> None:
    phi = Classifier(Unscaled(end), images.class_names, images.shape, 100)
    findings = availability.findings(phi, settings.classifier.weight_decay, settings)
    assert set(findings) == {"off"} and set(findings["off"]) == {"stationarity_weight", "beta", "bn_weight"}
    assert named in findings["off"]["beta"]
    metrics = next(Trainer(settings, [phi]).run()).metrics
    losses = {name for name in metrics if name.startswith("loss/")}
    assert losses == {"loss/total", "loss/ce", "loss/tv"} and "kkt/rho" not in metrics
    with pytest.raises(NotQuasiHomogeneous):  # a policy that is asked for is not left out
        Trainer(settings.updated({"lambda_policy": "min_norm"}, "test"), [phi])


def test_without_weight_decay_there_is_no_closed_form(settings: TrialConfig, images: ImageDataset) -> None:
    phi = Classifier(nn.Sequential(nn.Flatten(), nn.Linear(784, 10)), images.class_names, images.shape, 100)
    for decay, off in ((1e-4, False), (0.0, True)):
        trial = settings.updated({"closed_weight": 1.0, "classifier.weight_decay": decay}, "test")
        assert ("closed_weight" in availability.findings(phi, decay, trial)["off"]) is off
        assert ("loss/closed" not in next(Trainer(trial, [phi]).run()).metrics) is off


def test_remarks_speak_of_what_the_settings_use() -> None:
    off: dict[str, Any] = {"off": {"bn_weight": "no BN", "stationarity_weight": "no Λ", "beta": "no Λ"}}
    limited = {"lambda": {"limited_by": "2", "sentence": "2 limits Λ"}}
    config = TrialConfig.parse({"bn_weight": 1.0, "beta": 0.0}, "test")
    lines = list(tasks.remarks([off], config, {"stationarity_weight": ...}))
    assert len(lines) == 2 and "bn_weight" in lines[0] and "--set" not in lines[0]
    assert not missing(["stationarity_weight", "no Λ", "--set stationarity_weight=0"], lines[1]) and "beta" not in lines[1]
    both = list(tasks.remarks([off, limited], config))  # BatchNorm statistics of one classifier are enough
    assert [line.partition(":")[0] for line in both] == ["classifier 1", "classifier 2"] and "bn_weight" not in both[0]
    assert not list(tasks.remarks([limited], config.model_copy(update={"stationarity_weight": 0.0})))
