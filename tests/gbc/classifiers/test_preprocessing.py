"""Resizing and normalisation that a card asks for, before the network."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import save_file
from torch import nn
from torchvision.transforms.v2.functional import normalize, resize

from gbc.classifier_config import ClassifierConfig
from gbc.classifiers import custom, pretrain
from gbc.config import TrialConfig
from gbc.data.datasets import ImageDataset
from gbc.training.trainer import Trainer
from tests.support import missing

COLOUR = """
from torch import nn

def net():
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.LazyLinear(10))
"""


def test_channels_are_normalised_apart() -> None:
    card = custom.Card(class_names=("a", "b"), shape=(3, 1, 1), samples=1, mean=(0.0, 1.0, 2.0), std=(1.0, 2.0, 4.0))
    phi = custom.Preprocessed(nn.Flatten(), card)
    assert phi(torch.full((1, 3, 1, 1), 4.0)).tolist() == [[4.0, 1.5, 0.5]]
    assert not list(phi.parameters())  # not part of ζ


@pytest.mark.parametrize("side", [32, 14])
def test_images_are_resized_for_the_network_as_torchvision_does(
    side: int, settings: TrialConfig, images: ImageDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Grey is repeated, then mean and std are those of the network's channels; generated images have the data's shape."""
    (tmp_path / "colour_net.py").write_text(COLOUR)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "colour_net", raising=False)
    theirs = custom.call_factory("colour_net:net", 0, (3, side, side))
    save_file(theirs.state_dict(), tmp_path / "net.safetensors")
    mean, std = [0.1, 0.2, 0.3], [0.5, 0.6, 0.7]
    names = [str(label) for label in range(10)]
    card = {"class_names": names, "shape": [1, 28, 28], "samples": 9, "resize": [3, side, side], "mean": mean, "std": std}
    (tmp_path / "net.yaml").write_text(yaml.safe_dump(card))
    config = ClassifierConfig(factory="colour_net:net", weights=str(tmp_path / "net.safetensors"))

    ours, regime, _ = pretrain.obtain(config, images, tmp_path / "cache")
    x = images.test()[0][:5]
    pixels = normalize(resize(x, [side, side], antialias=True).repeat(1, 3, 1, 1), mean, std)
    torch.testing.assert_close(ours.module(x), theirs(pixels), rtol=1e-4, atol=1e-5)  # the order of sums differs
    assert ours.shape == (1, 28, 28) and not missing(["[1, 28, 28]", f"[3, {side}, {side}]"], regime["changes"][0])
    changes = {"classifier": config.model_dump(mode="json"), "bn_weight": 0, "row_space_weight": 1, "lambda_policy": "min_norm"}
    trainer = Trainer(settings.updated(changes, "test"), [ours])  # checks Λ by its definition
    report = next(trainer.run())
    assert 0 < report.metrics["loss/row_space"] < 1 and report.metrics["kkt/rho"] > 0
    labels = trainer.evaluation_labels
    assert trainer.sample(trainer.evaluation_noise, labels, trainer.evaluation_tasks).shape == (len(labels), 1, 28, 28)


def test_points_are_normalised_too() -> None:
    """Each coordinate is a channel."""
    card = custom.Card(class_names=("a", "b"), shape=(2,), samples=9, mean=(1.0, 2.0), std=(0.5, 0.25))
    points = torch.tensor([[1.0, 2.0], [1.5, 1.0], [0.0, 2.25]])
    assert custom.with_preprocessing(nn.Identity(), card)(points).tolist() == [[0.0, 0.0], [1.0, -4.0], [-2.0, 1.0]]
