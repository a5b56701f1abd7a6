"""Architectures that people bring, from a checkpoint to a generator, with the losses of the presets.

None is refused: losses that a network cannot have are off, and the others work.
"""

from __future__ import annotations

import math
import sys
from pathlib import Path
from typing import Any, Final

import pytest
import torch
import yaml

from gbc.classifier_config import ClassifierConfig
from gbc.classifiers import custom, pretrain
from gbc.config import TrialConfig
from gbc.data.datasets import ImageDataset
from gbc.kkt import availability
from gbc.training.trainer import Trainer
from tests.support.networks import lived_in

NETWORKS: Final = """
from torch import nn
from torchvision import models
from torchvision.models.resnet import BasicBlock, ResNet

def lenet():
    return nn.Sequential(
        nn.Conv2d(1, 6, 5, padding=2), nn.Tanh(), nn.AvgPool2d(2), nn.Conv2d(6, 16, 5), nn.Tanh(), nn.AvgPool2d(2),
        nn.Flatten(), nn.Linear(400, 120), nn.Tanh(), nn.Linear(120, 84), nn.Tanh(), nn.Linear(84, 10),
    )

def vgg():
    def block(inside, outside):
        return nn.Conv2d(inside, outside, 3, padding=1), nn.BatchNorm2d(outside), nn.ReLU(inplace=True), nn.MaxPool2d(2)
    return nn.Sequential(
        *block(1, 8), *block(8, 16), nn.Flatten(), nn.Linear(784, 32), nn.ReLU(inplace=True), nn.Dropout(), nn.Linear(32, 10)
    )

class ThinResNet18(ResNet):
    def __init__(self):
        super().__init__(BasicBlock, [2, 2, 2, 2], num_classes=10)
        self.conv1, self.bn1 = nn.Conv2d(1, 8, 7, stride=2, padding=3, bias=False), nn.BatchNorm2d(8)
        self.fc = nn.Linear(64, 10)
    def _make_layer(self, block, planes, *arguments, **more):
        self.inplanes = 8 if planes == 64 else self.inplanes
        return super()._make_layer(block, planes // 8, *arguments, **more)

def mobilenet():
    network = models.MobileNetV2(10, width_mult=0.25, inverted_residual_setting=[[1, 16, 1, 1], [6, 24, 2, 2], [6, 32, 1, 2]])
    network.features[0][0] = nn.Conv2d(1, 8, 3, stride=2, padding=1, bias=False)
    return network

def group_norm():
    return nn.Sequential(
        nn.Conv2d(1, 8, 3, stride=2), nn.GroupNorm(2, 8), nn.SiLU(), nn.Conv2d(8, 16, 3, stride=2), nn.GroupNorm(4, 16),
        nn.SiLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 10),
    )

def vit():
    network = models.VisionTransformer(28, 7, 2, 2, 16, 32, num_classes=10)
    network.conv_proj = nn.Conv2d(1, 16, 7, stride=7)
    return network
"""
PRESET: Final = {
    "bn_weight": 5.0, "ce_weight": 0.05, "diversity_weight": 0.01, "tv_weight": 0.3, "row_space_weight": 0.5,
    "estimator": "relative", "multiplier_floor": 0.1, "steps": 2, "report_every": 2, "batch_size": 20, "eval_per_class": 2,
}  # fmt: skip
OFF: Final[dict[str, set[str]]] = {
    "lenet": {"bn_weight"}, "vgg": set(), "ThinResNet18": set(), "mobilenet": set(), "group_norm": {"bn_weight"},
    "vit": {"bn_weight"},
}  # fmt: skip
LIMITED_BY: Final = {"lenet": "10", "vit": "encoder.layers.encoder_layer_0.self_attention"}


@pytest.mark.parametrize("name", OFF)
def test_a_generator_is_born_from_it(
    name: str, settings: TrialConfig, images: ImageDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "people.py").write_text(NETWORKS)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "people", raising=False)
    theirs = lived_in(custom.call_factory(f"people:{name}", 1, (1, 28, 28))).eval()
    torch.save({"state_dict": theirs.state_dict(), "epoch": 9}, tmp_path / "net.pt")
    card = {"class_names": [str(label) for label in range(10)], "shape": [1, 28, 28], "samples": 100}
    (tmp_path / "net.yaml").write_text(yaml.safe_dump(card))
    own = ClassifierConfig(factory=f"people:{name}", weights=str(tmp_path / "net.pt"))
    trial = settings.updated({**PRESET, "classifier": own.model_dump(mode="json")}, "test")

    ours, regime, _ = pretrain.obtain(trial.classifier, images, tmp_path / "cache")
    x, labels = images.train()
    assert regime["accuracy"] == pytest.approx((theirs(x).argmax(dim=1) == labels).float().mean().item())
    found: dict[str, Any] = availability.findings(ours, trial)
    assert set(found.get("off", {})) == OFF[name]
    assert found["lambda"]["limited_by"] == LIMITED_BY.get(name)

    metrics = next(Trainer(trial, [ours]).run()).metrics
    wanted = {"total", "stationarity", "duality", "ce", "tv", "diversity", "row_space", *([] if OFF[name] else ["bn"])}
    assert {key.removeprefix("loss/") for key in metrics if key.startswith("loss/")} == wanted
    assert all(math.isfinite(value) for value in metrics.values()) and metrics["kkt/rho"] > 0
