"""Networks that people bring, from factory to training step: lazy, tied, parametrised, with attention, with a Softmax."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import save_file
from torch import Tensor, nn

from gbc import losses
from gbc.classifier_config import ClassifierConfig
from gbc.classifiers import adaptation, custom, pretrain
from gbc.config import TrialConfig
from gbc.data import datasets
from gbc.data.datasets import ImageDataset
from gbc.training.trainer import Trainer
from tests.support import missing

NETWORKS = """
import torch
from torch import nn
from torch.nn.utils import spectral_norm, weight_norm
from torch.nn.utils.parametrizations import spectral_norm as new_spectral_norm, weight_norm as new_weight_norm

def body(*end):
    return nn.Sequential(nn.Flatten(), nn.Linear(784, 12), nn.ReLU(), *end)

def lazy():
    return nn.Sequential(nn.LazyConv2d(4, 3, stride=2), nn.ReLU(), nn.Flatten(), nn.LazyLinear(10))

class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.middle, self.again, self.last = (nn.Linear(n, m) for n, m in ((784, 8), (8, 8), (8, 8), (8, 10)))
        self.again.weight = self.middle.weight
    def forward(self, x):
        return self.last(self.again(self.middle(self.first(x.flatten(1)).relu()).relu()).relu())

def one_logit():
    return body(nn.Linear(12, 1))

def softmax():
    return body(nn.Linear(12, 10), nn.Softmax(dim=1))

def log_softmax():
    return body(nn.Linear(12, 10), nn.LogSoftmax(dim=1))

class InsideForward(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = body(nn.Linear(12, 10))

class FunctionalSoftmax(InsideForward):
    def forward(self, x):
        return torch.softmax(self.layers(x), dim=1)

class FunctionalLogSoftmax(InsideForward):
    def forward(self, x):
        return nn.functional.log_softmax(self.layers(x), dim=-1)

class SoftmaxWhenUsed(InsideForward):
    def forward(self, x):
        logits = self.layers(x)
        return logits if self.training else nn.functional.softmax(logits, dim=1)

class MeanOfTwo(InsideForward):
    def __init__(self):
        super().__init__()
        self.others = body(nn.Linear(12, 10))
    def forward(self, x):
        return (self.layers(x).softmax(dim=1) + self.others(x).softmax(dim=1)) / 2

def sigmoid():
    return body(nn.Linear(12, 1), nn.Sigmoid())

def weight_normed():
    return body(weight_norm(nn.Linear(12, 10)))

def new_weight_normed():
    return body(new_weight_norm(nn.Linear(12, 10)))

def spectral_normed():
    return body(spectral_norm(nn.Linear(12, 10)))

def new_spectral_normed():
    return body(new_spectral_norm(nn.Linear(12, 10)))

def by_the_batch():
    return nn.Sequential(
        nn.Flatten(), nn.Linear(784, 12), nn.BatchNorm1d(12, track_running_stats=False), nn.ReLU(), nn.Linear(12, 10)
    )

class Forgetful(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = body(nn.Linear(12, 10))
    def forward(self, x):
        return nn.functional.dropout(self.layers(x), 0.5)

class Attention(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed, self.attend, self.head = nn.Linear(28, 8), nn.MultiheadAttention(8, 2, batch_first=True), nn.Linear(8, 10)
    def forward(self, x):
        rows = self.embed(x.flatten(1, 2))
        return self.head((rows + self.attend(rows, rows, rows, need_weights=False)[0]).mean(dim=1))
"""
CARD = {"class_names": [f"garment {label}" for label in range(10)], "shape": [1, 28, 28], "samples": 100}
NORMED = ("weight_normed", "new_weight_normed", "spectral_normed", "new_spectral_normed")


@pytest.fixture(autouse=True)
def _networks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "brought.py").write_text(NETWORKS)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "brought", raising=False)


def brought(name: str, tmp_path: Path) -> tuple[nn.Module, ClassifierConfig]:
    """The network as its owner has it, and the config that names its weights."""
    network = custom.call_factory(f"brought:{name}", 1, (1, 28, 28)).eval()
    save_file({key: tensor.clone() for key, tensor in network.state_dict().items()}, tmp_path / "net.safetensors")
    (tmp_path / "net.yaml").write_text(yaml.safe_dump(CARD))
    return network, ClassifierConfig(factory=f"brought:{name}", weights=str(tmp_path / "net.safetensors"))


@pytest.mark.parametrize("name", ["lazy", "Tied", "Attention", "by_the_batch", *NORMED])
def test_it_computes_what_it_did_and_a_generator_is_born_from_it(
    name: str, settings: TrialConfig, images: ImageDataset, tmp_path: Path
) -> None:
    theirs, config = brought(name, tmp_path)
    x, _ = images.test()
    _, regime, _ = pretrain.obtain(config, images, tmp_path / "cache")
    ours, again, _ = pretrain.obtain(config, images, tmp_path / "cache")  # from the cache
    torch.testing.assert_close(ours.module(x[:9]), theirs(x[:9]))
    assert regime == again and ("changes" in regime) == (name in NORMED)
    assert all("parametriz" not in key and not key.endswith(("_g", "_v", "_u", "_orig")) for key in ours.module.state_dict())
    changes: dict[str, Any] = {"classifier": config.model_dump(mode="json"), "bn_weight": 0.0}
    report = next(Trainer(settings.updated(changes, "test"), [ours]).run())
    assert 0 < report.metrics["kkt/rho"] < 10


@pytest.mark.parametrize("name", ["softmax", "log_softmax"])
def test_a_softmax_at_the_end_is_taken_off(name: str, images: ImageDataset, tmp_path: Path) -> None:
    theirs, config = brought(name, tmp_path)
    x, _ = images.test()
    ours, regime, _ = pretrain.obtain(config, images, tmp_path / "cache")
    probabilities: Tensor = theirs(x[:9]) if name == "softmax" else theirs(x[:9]).exp()
    torch.testing.assert_close(ours.module(x[:9]).softmax(dim=1), probabilities)
    assert ours.module(x[:9]).min() < 0 and len(regime["changes"]) == 1


@pytest.mark.parametrize("name", ["FunctionalSoftmax", "FunctionalLogSoftmax", "SoftmaxWhenUsed"])
def test_a_softmax_inside_forward_gives_logits_whose_differences_and_degrees_are_those_before_it(
    name: str, settings: TrialConfig, images: ImageDataset, tmp_path: Path
) -> None:
    theirs, config = brought(name, tmp_path)
    x, _ = images.test()
    _, regime, _ = pretrain.obtain(config, images, tmp_path / "cache")
    ours, again, _ = pretrain.obtain(config, images, tmp_path / "cache")
    before = theirs.layers(x[:9])  # type: ignore[operator]
    torch.testing.assert_close(ours.module(x[:9]), before - before.mean(dim=1, keepdim=True))
    assert regime == again and not missing(["probabilities", "Λ", "last_layer"], regime["changes"][0])
    assert set(ours.module.state_dict()) == set(theirs.state_dict())
    changes: dict[str, Any] = {"classifier": config.model_dump(mode="json"), "bn_weight": 0.0}
    report = next(Trainer(settings.updated(changes, "test"), [ours]).run())  # checks Λ by its definition
    assert 0 < report.metrics["kkt/rho"] < 10


def test_the_mean_of_two_softmaxes_keeps_its_probabilities(images: ImageDataset, tmp_path: Path) -> None:
    theirs, config = brought("MeanOfTwo", tmp_path)
    x, _ = images.test()
    ours, _, _ = pretrain.obtain(config, images, tmp_path / "cache")
    torch.testing.assert_close(ours.module(x[:9]).softmax(dim=1), theirs(x[:9]))


@pytest.mark.parametrize("name", ["FunctionalSoftmax", "SoftmaxWhenUsed"])
def test_a_network_with_a_softmax_inside_forward_is_trained(name: str, images: ImageDataset, tmp_path: Path) -> None:
    config = ClassifierConfig(factory=f"brought:{name}", steps=30, lr=0.1)
    _, regime, _ = pretrain.obtain(config, images, tmp_path / "cache")
    assert regime["accuracy"] > 0.3


def test_probabilities_of_zero_have_finite_second_derivatives() -> None:
    logits = torch.tensor([[0.0, -60.0, -200.0]], requires_grad=True)
    network = nn.Softmax(dim=1)
    assert adaptation.make_logits(network, (3,))
    values = network(logits)
    (first,) = torch.autograd.grad(values[0, 0] - values[0, 1], logits, create_graph=True)
    (second,) = torch.autograd.grad(first.square().sum(), logits)
    assert values.isfinite().all() and first.isfinite().all() and second.isfinite().all()


def test_a_sigmoid_at_the_end_of_one_logit_is_taken_off(settings: TrialConfig, tmp_path: Path) -> None:
    data = datasets.load(settings.dataset.model_copy(update={"classes": (0, 1)}))
    classifier, regime, _ = pretrain.obtain(ClassifierConfig(factory="brought:sigmoid", steps=1), data, tmp_path / "cache")
    assert classifier.module(data.test()[0]).min() < 0 and "Sigmoid" in regime["changes"][0]


def test_one_logit_is_enough_for_two_classes(settings: TrialConfig, tmp_path: Path) -> None:
    two = settings.dataset.model_copy(update={"classes": (0, 1)})
    data = datasets.load(two)
    config = ClassifierConfig(factory="brought:one_logit", steps=60, lr=0.1)
    classifier, regime, _ = pretrain.obtain(config, data, tmp_path / "cache")
    x, labels = data.test()
    logits = classifier.module(x)
    assert logits.shape == (len(labels), 1) and ((logits[:, 0] > 0) == labels).float().mean() > 0.9
    assert losses.cross_entropy(logits, labels).item() == pytest.approx(
        nn.functional.binary_cross_entropy_with_logits(logits[:, 0], labels.float()).item()
    )
    assert regime["accuracy"] > 0.9
    changes = {"classifier": config.model_dump(mode="json"), "dataset": two.model_dump(mode="json"), "bn_weight": 0.0}
    report = next(Trainer(settings.updated(changes, "test"), [classifier]).run())
    assert 0 < report.metrics["kkt/rho"] < 10


def test_dropout_that_stays_on_is_said(images: ImageDataset, tmp_path: Path) -> None:
    _, config = brought("Forgetful", tmp_path)
    _, regime, _ = pretrain.obtain(config, images, tmp_path / "cache")
    (line,) = regime["changes"]
    assert "dropout" in line


def test_lazy_layers_are_drawn_from_the_seed() -> None:
    before = torch.random.get_rng_state()
    first, same, other = (custom.call_factory("brought:lazy", seed, (1, 28, 28)).state_dict() for seed in (0, 0, 1))
    assert torch.equal(torch.random.get_rng_state(), before)
    assert torch.equal(first["3.weight"], same["3.weight"]) and not torch.equal(first["3.weight"], other["3.weight"])


def test_a_network_in_training_is_folded_at_its_end(images: ImageDataset, tmp_path: Path) -> None:
    config = ClassifierConfig(factory="brought:weight_normed", steps=30, lr=0.1)
    classifier, regime, _ = pretrain.obtain(config, images, tmp_path / "cache")
    assert set(classifier.module.state_dict()) == {"1.weight", "1.bias", "3.weight", "3.bias"}
    assert regime["accuracy"] > 0.3 and "changes" in regime
