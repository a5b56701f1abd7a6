"""Networks of torchvision, timm and transformers by name: weights of theirs give what their network gives."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import save_file
from torch import nn
from torchvision import models

from gbc.__main__ import main
from gbc.classifier_config import ClassifierConfig, DatasetConfig, classifier_flags
from gbc.classifiers import adaptation, libraries, pretrain
from gbc.classifiers.architectures import build
from gbc.config import TrialConfig
from gbc.data import datasets
from gbc.data.datasets import ImageDataset
from gbc.errors import BadInput
from gbc.training.trainer import Trainer
from tests.support import missing

CARD = {"class_names": [f"garment {label}" for label in range(10)], "shape": [1, 28, 28], "samples": 100}


@pytest.fixture
def described(tmp_path: Path) -> Callable[..., str]:
    """Writes a network's weights and their card; returns the path of the weights."""

    def write(network: nn.Module, **changes: Any) -> str:
        save_file(network.state_dict(), tmp_path / "net.safetensors")
        (tmp_path / "net.yaml").write_text(yaml.safe_dump({**CARD, **changes}))
        return str(tmp_path / "net.safetensors")

    return write


Described = Callable[..., str]


def test_a_network_of_torchvision_with_weights_is_that_network(
    described: Described, images: ImageDataset, tmp_path: Path
) -> None:
    torch.manual_seed(3)
    theirs = models.shufflenet_v2_x0_5(num_classes=10).eval()
    config = ClassifierConfig(factory="torchvision:shufflenet_v2_x0_5", weights=described(theirs, resize=[3, 32, 32]))
    ours, _, folder = pretrain.obtain(config, images, tmp_path / "cache")
    assert "shufflenet_v2_x0_5" in folder.name
    grey = torch.full((2, 1, 28, 28), 0.5)  # stays grey however it is resized
    torch.testing.assert_close(ours.module(grey), theirs(torch.full((2, 3, 32, 32), 0.5)))


def test_a_network_of_torchvision_is_trained(images: ImageDataset, tmp_path: Path) -> None:
    """For grey images its first convolution has one channel, and the seed gives its initialisation."""
    config = ClassifierConfig(factory="torchvision:shufflenet_v2_x0_5", steps=1)
    classifier, regime, _ = pretrain.obtain(config, images, tmp_path / "cache")
    assert regime["steps"] == 1 and classifier.module(torch.rand(2, 1, 28, 28)).shape == (2, 10)
    first, same, other = (
        pretrain.untrained(config.model_copy(update={"seed": seed}), images).module.state_dict()["conv1.0.weight"]
        for seed in (0, 0, 1)
    )
    assert torch.equal(first, same) and not torch.equal(first, other)


def test_a_hardsigmoid_that_two_layers_share_is_replaced_in_both() -> None:
    shared = nn.Hardsigmoid()
    network = nn.Sequential(nn.Linear(2, 2), shared, nn.Linear(2, 2), shared)
    adaptation.replace_hardsigmoids(network)
    assert not any(isinstance(layer, nn.Hardsigmoid) for layer in network.modules())


def test_hardsigmoids_have_second_derivatives() -> None:
    network = libraries.make("torchvision:mobilenet_v3_small", (3, 32, 32), 10)
    config = ClassifierConfig(factory="torchvision:mobilenet_v3_small")
    ours = build(config, (3, 32, 32), 10).eval()
    ours.load_state_dict(network.state_dict())
    x = torch.rand(2, 3, 32, 32, requires_grad=True)
    torch.testing.assert_close(ours(x), network.eval()(x))
    gradients = torch.autograd.grad(ours(x)[:, 0].sum(), list(ours.parameters()), create_graph=True)
    torch.stack([gradient.square().sum() for gradient in gradients]).sum().backward()
    assert x.grad is not None and x.grad.isfinite().all()


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        (
            {"class_names": ["a", "b"], "resize": [3, 28, 28]},
            ["net.yaml", "2 class_names", "'fc.weight'", "net.safetensors", "10 classes"],
        ),
        ({}, ["net.yaml", "1 channels", "'conv1.weight'", "net.safetensors", "resize: [3, 28, 28]"]),
    ],
)
def test_a_card_that_contradicts_the_weights_is_named_with_the_tensor(
    changes: dict[str, Any], named: list[str], described: Described, tmp_path: Path
) -> None:
    network = models.resnet18(num_classes=10)
    config = ClassifierConfig(factory="torchvision:resnet18", weights=described(network, **changes))
    with pytest.raises(BadInput) as caught:
        pretrain.obtain(config, None, tmp_path / "cache")
    assert not missing(named, caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("factory", "named"),
    [
        ("torchvision:resnet81", ["torchvision:resnet81", "'resnet18'"]),
        ("torchvision:fcn_resnet50", ["torchvision:fcn_resnet50"]),  # it segments
        ("torchvision:vit_b_16", ["torchvision:vit_b_16", "[1, 8, 8]", "patch size"]),  # in patches of 16
        ("torchvision:squeezenet1_1", ["torchvision:squeezenet1_1", "[1, 8, 8]"]),  # pooled too often
    ],
)
def test_a_name_that_cannot_be_used(factory: str, named: list[str], tmp_path: Path) -> None:
    digits = datasets.load(DatasetConfig(name="digits"))
    with pytest.raises(BadInput) as caught:
        pretrain.obtain(ClassifierConfig(factory=factory), digits, tmp_path)
    assert not missing(named, caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("library", "name", "extra"), [("timm", "timm:resnet18", ".[timm]"), ("transformers", "huggingface:", ".[huggingface]")]
)
def test_a_library_that_is_not_installed_is_named(
    library: str, name: str, extra: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    if importlib.util.find_spec(library):
        pytest.skip(f"{library} is installed")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "config.json").write_text('{"model_type": "vit"}')
    folder = str(tmp_path) if library == "transformers" else ""
    assert main(["pretrain", "--set", "dataset.per_class=10", "--classifier", name + folder]) == 2
    error = capsys.readouterr().err
    assert not missing([f"{library} is not installed", extra], error) and error.count("\n") == 1


def test_a_network_of_timm_with_weights_is_that_network(described: Described, images: ImageDataset, tmp_path: Path) -> None:
    timm = pytest.importorskip("timm")
    theirs = timm.create_model("resnet10t", num_classes=10, in_chans=1).eval()
    config = ClassifierConfig(factory="timm:resnet10t", weights=described(theirs))
    ours, _, _ = pretrain.obtain(config, images, tmp_path / "cache")
    x = images.test()[0][:5]
    torch.testing.assert_close(ours.module(x), theirs(x))
    with pytest.raises(BadInput, match=r"timm:resnet81.*'resnet18'"):
        libraries.make("timm:resnet81", (1, 28, 28), 10)
    assert libraries.make("timm:vit_tiny_patch16_224", (3, 32, 32), 5)(torch.rand(2, 3, 32, 32)).shape == (2, 5)


def test_a_folder_of_transformers_is_that_network(settings: TrialConfig, images: ImageDataset, tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    small = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    theirs = transformers.ViTForImageClassification(
        transformers.ViTConfig(image_size=28, patch_size=7, num_channels=1, num_labels=10, **small)
    ).eval()
    theirs.save_pretrained(tmp_path / "vit")
    (tmp_path / "vit" / "model.yaml").write_text(yaml.safe_dump(CARD))
    flags = classifier_flags(str(tmp_path / "vit"), None, None)
    trial = settings.updated({**flags, "batch_size": 10, "eval_per_class": 1}, "test")
    ours, _, folder = pretrain.obtain(trial.classifier, images, tmp_path / "cache")
    x = images.test()[0][:5]
    torch.testing.assert_close(ours.module(x), theirs(x).logits)
    assert "-vit-" in folder.name
    assert next(Trainer(trial, [ours]).run()).metrics["kkt/rho"] > 0
    torch.save(theirs.state_dict(), tmp_path / "vit" / "again.pt")
    card = str(tmp_path / "vit" / "model.yaml")
    again = trial.classifier.model_copy(update={"weights": str(tmp_path / "vit" / "again.pt"), "card": card})
    torch.testing.assert_close(pretrain.obtain(again, images, tmp_path / "cache")[0].module(x), theirs(x).logits)
    two = {**CARD, "class_names": ["a", "b"]}
    (tmp_path / "vit" / "model.yaml").write_text(yaml.safe_dump(two))
    with pytest.raises(BadInput, match=r"model\.yaml.*'classifier\.weight'"):
        pretrain.obtain(trial.classifier, None, tmp_path / "cache")


def test_a_folder_without_a_config_is_named(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"config\.json"):
        libraries.make(f"huggingface:{tmp_path}", (1, 28, 28), 10)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(BadInput, match=r"config\.json.*JSON"):
        libraries.make(f"huggingface:{tmp_path}", (1, 28, 28), 10)


def test_a_folder_is_written_with_or_without_the_library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "vit").mkdir()
    for name in ("config.json", "model.safetensors"):
        (tmp_path / "vit" / name).write_text("{}")
    monkeypatch.chdir(tmp_path)
    wanted = ClassifierConfig(factory=f"huggingface:{tmp_path}/vit", weights=f"{tmp_path}/vit/model.safetensors")
    assert ClassifierConfig.parse(ClassifierConfig.named("vit"), "test") == wanted
    assert ClassifierConfig.parse({"name": "huggingface:vit"}, "test") == wanted
    assert wanted.label == "vit" and ClassifierConfig.named("mlp") == {"name": "mlp", "factory": None}
    flags = classifier_flags("vit", str(tmp_path / "other.pt"), None)
    assert flags["classifier.weights"] == f"{tmp_path}/other.pt"
