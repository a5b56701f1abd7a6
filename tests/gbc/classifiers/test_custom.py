"""Classifiers of the user's own: they work from file to trainer, and each fault is one line."""

from __future__ import annotations

import os
import pickle
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import save_file
from torch import Tensor, nn
from torchvision.transforms.v2.functional import normalize, resize

from gbc.__main__ import main
from gbc.classifier_config import ClassifierConfig
from gbc.classifiers import custom, pretrain
from gbc.config import TrialConfig
from gbc.data.datasets import ImageDataset
from gbc.errors import BadInput, CorruptFile
from gbc.training.trainer import Trainer
from tests.support import missing

MODULE = """
import torch
from torch import nn

def network():
    return nn.Sequential(nn.Flatten(), nn.Linear(784, 12), nn.ReLU(), nn.Linear(12, 10))

def frozen():
    return network().requires_grad_(False)

def colour():
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(4 * 26 * 26, 10))

def nine():
    return nn.Sequential(nn.Flatten(), nn.Linear(784, 9))

def double():
    return network().double()

class Pair(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(784, 10)
    def forward(self, x):
        return self.layer(x.flatten(1)), x

def wants_argument(width):
    return network()

def broken():
    raise RuntimeError("no such\\nfile")

def number():
    return 3

def empty():
    return nn.ReLU()

constant = 5
"""
CARD = {"class_names": [f"garment {label}" for label in range(10)], "shape": [1, 28, 28], "samples": 123}


@pytest.fixture(autouse=True)
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A module `their_nets` that can be imported, and `their_broken_nets` that cannot."""
    (tmp_path / "their_nets.py").write_text(MODULE)
    (tmp_path / "their_broken_nets.py").write_text("import a_module_that_is_not_there")
    (tmp_path / "their_misspelt_nets.py").write_text("def f(:")
    monkeypatch.syspath_prepend(tmp_path)
    for name in ("their_nets", "their_broken_nets", "their_misspelt_nets"):
        monkeypatch.delitem(sys.modules, name, raising=False)


def theirs(name: str = "network") -> nn.Module:
    return custom.call_factory(f"their_nets:{name}", 0, (1, 28, 28))


@pytest.fixture
def files(tmp_path: Path) -> Callable[..., ClassifierConfig]:
    """Writes weights and card, and gives the config that names them."""

    def write(
        weights: dict[str, Tensor] | None = None, suffix: str = ".safetensors", factory: str = "network", **changes: Any
    ) -> ClassifierConfig:
        path = tmp_path / f"net{suffix}"
        weights = weights if weights is not None else theirs().state_dict()
        save_file(weights, path) if suffix == ".safetensors" else torch.save(weights, path)
        path.with_suffix(".yaml").write_text(yaml.safe_dump({**CARD, **changes}))
        return ClassifierConfig(factory=f"their_nets:{factory}", weights=str(path))

    return write


Files = Callable[..., ClassifierConfig]


@pytest.mark.parametrize("suffix", [".safetensors", ".pt"])
def test_weights_are_used_as_they_are(files: Files, images: ImageDataset, tmp_path: Path, suffix: str) -> None:
    classifier, regime, folder = pretrain.obtain(files(suffix=suffix), images, tmp_path / "cache")
    x, _ = images.test()
    assert torch.equal(classifier.module(x[:5]), theirs()(x[:5]))
    assert classifier.samples == 123 and classifier.class_names[3] == "garment 3" and classifier.shape == (1, 28, 28)
    assert regime["steps"] == 0 and set(regime["residuals"]) == {"1.weight", "1.bias", "3.weight", "3.bias"}
    assert "network" in folder.name


def test_a_factory_may_be_written_as_a_name_and_classes_may_be_called_no(files: Files, tmp_path: Path) -> None:
    config = files()
    assert ClassifierConfig.parse({"name": "their_nets:network", "weights": config.weights}, "test") == config
    (tmp_path / "net.yaml").write_text(
        "class_names: [no, yes, on, off, n, y, null, none, true, 10]\nshape: [1, 28, 28]\nsamples: 5"
    )
    with pytest.raises(BadInput, match=r"class_names"):  # null, true and 10 are no names
        custom.read_card(config)
    (tmp_path / "net.yaml").write_text("class_names: [no, yes, on, off, n, y]\nshape: [1, 28, 28]\nsamples: 5")
    assert custom.read_card(config).class_names == ("no", "yes", "on", "off", "n", "y")


def test_without_data_the_regime_is_unknown_and_the_classifier_works(files: Files, tmp_path: Path) -> None:
    classifier, regime, _ = pretrain.obtain(files(), None, tmp_path / "cache")
    assert regime == {"steps": 0}
    assert classifier.module(torch.rand(3, 1, 28, 28)).shape == (3, 10)
    with pytest.raises(BadInput, match=r"without data.*classifier\.weights"):
        pretrain.obtain(ClassifierConfig(), None, tmp_path / "cache")


def test_normalisation_happens_inside(files: Files, images: ImageDataset, tmp_path: Path) -> None:
    classifier, _, _ = pretrain.obtain(files(mean=[0.25], std=[0.5]), images, tmp_path / "cache")
    x, _ = images.test()
    torch.testing.assert_close(classifier.module(x[:5]), theirs()((x[:5] - 0.25) / 0.5))


def test_channels_are_normalised_apart() -> None:
    card = custom.Card(class_names=("a", "b"), shape=(3, 1, 1), samples=1, mean=(0.0, 1.0, 2.0), std=(1.0, 2.0, 4.0))
    phi = custom.Preprocessed(nn.Flatten(), card)
    assert phi(torch.full((1, 3, 1, 1), 4.0)).tolist() == [[4.0, 1.5, 0.5]]
    assert not list(phi.parameters())  # not part of ζ


@pytest.mark.parametrize("side", [32, 14])
def test_images_are_resized_for_the_network_as_torchvision_does(
    side: int, files: Files, settings: TrialConfig, images: ImageDataset, tmp_path: Path
) -> None:
    """Grey is repeated, then mean and std are those of the network's channels; generated images have the data's shape."""
    (tmp_path / "their_nets.py").write_text(MODULE.replace("26 * 26", f"{side - 2} * {side - 2}"))
    weights = custom.call_factory("their_nets:colour", 0, (3, side, side)).state_dict()
    normalisation = {"mean": [0.1, 0.2, 0.3], "std": [0.5, 0.6, 0.7]}
    config = files(weights, factory="colour", resize=[3, side, side], **normalisation)
    ours, regime, _ = pretrain.obtain(config, images, tmp_path / "cache")
    x = images.test()[0][:5]
    theirs = custom.call_factory("their_nets:colour", 0, (3, side, side))
    pixels = normalize(resize(x, [side, side], antialias=True).repeat(1, 3, 1, 1), *normalisation.values())
    torch.testing.assert_close(ours.module(x), theirs(pixels), rtol=1e-4, atol=1e-5)  # the order of sums differs
    assert ours.shape == (1, 28, 28) and not missing(["[1, 28, 28]", f"[3, {side}, {side}]"], regime["changes"][0])
    changes = {"classifier": config.model_dump(mode="json"), "bn_weight": 0, "row_space_weight": 1, "lambda_policy": "min_norm"}
    trainer = Trainer(settings.updated(changes, "test"), [ours])  # checks Λ by its definition
    report = next(trainer.run())
    assert 0 < report.metrics["loss/row_space"] < 1 and report.metrics["kkt/rho"] > 0
    labels = trainer.evaluation_labels
    assert trainer.sample(trainer.evaluation_noise, labels, trainer.evaluation_tasks).shape == (len(labels), 1, 28, 28)


def test_a_generator_is_born_from_it(files: Files, settings: TrialConfig, images: ImageDataset, tmp_path: Path) -> None:
    """Frozen parameters are parameters all the same."""
    config = files(factory="frozen", mean=[0.25], std=[0.5])
    trial = settings.updated({"classifier": config.model_dump(mode="json"), "bn_weight": 0.0}, "test")
    classifier, _, _ = pretrain.obtain(trial.classifier, images, tmp_path / "cache")
    report = next(Trainer(trial, [classifier]).run())
    assert report.metrics["kkt/rho"] > 0


def test_a_factory_without_weights_is_trained_from_its_own_initialisation(images: ImageDataset, tmp_path: Path) -> None:
    config = ClassifierConfig(factory="their_nets:network", steps=30, lr=0.1)
    _, regime, folder = pretrain.obtain(config, images, tmp_path)
    assert regime["steps"] == 30 and regime["accuracy"] > 0.3
    before = torch.random.get_rng_state()
    first, second = theirs(), theirs()
    assert torch.equal(torch.random.get_rng_state(), before)
    assert torch.equal(first[1].weight, second[1].weight)  # type: ignore[index]
    other = custom.call_factory("their_nets:network", 1, (1, 28, 28))
    assert not torch.equal(first[1].weight, other[1].weight)  # type: ignore[index]
    # A folder of the cache is weights and card.
    again = ClassifierConfig(factory=config.factory, weights=str(folder / "model.safetensors"))
    assert pretrain.obtain(again, images, tmp_path)[0].samples == 100


def test_the_cache_knows_files_by_their_content(files: Files, images: ImageDataset, tmp_path: Path) -> None:
    config = files()
    first = pretrain.identity(config, images)
    moved = tmp_path / "moved"
    moved.mkdir()
    for suffix in (".safetensors", ".yaml"):
        (moved / f"net{suffix}").write_bytes((tmp_path / f"net{suffix}").read_bytes())
    assert pretrain.identity(config.model_copy(update={"weights": str(moved / "net.safetensors")}), images) == first
    assert pretrain.identity(files(samples=7), images) != first
    assert pretrain.identity(files({k: v + 1 for k, v in theirs().state_dict().items()}), images) != first
    other = files()
    (tmp_path / "their_nets.py").write_text(MODULE + "\n# changed\n")
    assert pretrain.identity(other, images) != first


@pytest.mark.parametrize(
    ("factory", "named"),
    [
        ("their_net:network", ["their_net:network", "module 'their_net'"]),
        ("their_nets.sub:network", ["module 'their_nets.sub'"]),
        ("their_broken_nets:network", ["ModuleNotFoundError", "'a_module_that_is_not_there'"]),
        ("their_misspelt_nets:network", ["SyntaxError"]),
        ("their_nets:netwrk", ["'netwrk'", "'network'"]),
        ("their_nets:wants_argument", ["TypeError: wants_argument()"]),
        ("their_nets:broken", ["RuntimeError: no such file"]),
        ("their_nets:constant", ["TypeError: 'int'"]),
        ("their_nets:number", [" int,", "torch.nn.Module"]),
        ("their_nets:empty", ["parameters"]),
        ("their_nets:colour", ["[1, 28, 28]", "RuntimeError: "]),
        ("their_nets:nine", ["[2, 9]", "[2, 10]"]),
        ("their_nets:double", ["[1, 28, 28]", "RuntimeError: "]),
        ("their_nets:Pair", ["tuple", "[M, 10]"]),
    ],
)
def test_a_factory_that_cannot_be_used(factory: str, named: list[str], images: ImageDataset, tmp_path: Path) -> None:
    with pytest.raises(BadInput) as caught:
        pretrain.obtain(ClassifierConfig(factory=factory, steps=1), images, tmp_path / "cache")
    assert not missing(named, caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("factory", ["nets", ":f", "a:b:c", "a:", "../nets:f"])
def test_what_is_no_factory_is_said_so(factory: str) -> None:
    with pytest.raises(BadInput, match=r"factory: '.*' .*package\.module:factory"):
        ClassifierConfig.parse({"factory": factory}, "test")


def test_a_card_without_weights_is_refused() -> None:
    with pytest.raises(BadInput, match=r"card .*weights"):
        ClassifierConfig.parse({"card": "a.yaml"}, "test")


def _with(name: str, change: Callable[[Tensor], Tensor]) -> dict[str, Tensor]:
    weights = theirs().state_dict()
    return {**weights, name: change(weights[name]).contiguous()}


@pytest.mark.parametrize("suffix", [".safetensors", ".pt"])
@pytest.mark.parametrize(
    ("weights", "named"),
    [
        (lambda: _with("3.weight", lambda t: t[:9]), ["'3.weight'", "[9, 12]", "[10, 12]"]),
        (lambda: {"1.weight": torch.zeros(12, 784)}, ["'1.bias', '3.weight', '3.bias'", "missing"]),
        (lambda: {**theirs().state_dict(), "5.weight": torch.zeros(1)}, ["'5.weight'"]),
        (lambda: _with("1.bias", lambda t: t / 0), ["'1.bias'", "infinity"]),
        (lambda: _with("3.bias", lambda t: t * float("nan")), ["'3.bias'", "NaN"]),
    ],
)
def test_weights_that_do_not_fit(
    weights: Callable[[], dict[str, Tensor]], named: list[str], suffix: str, files: Files, images: ImageDataset, tmp_path: Path
) -> None:
    config = files(weights(), suffix)
    with pytest.raises(BadInput) as caught:
        pretrain.obtain(config, images, tmp_path / "cache")
    assert not missing(named, caught.value)
    assert f"net{suffix}" in str(caught.value) and "\n" not in str(caught.value)


class Bomb:
    """Its pickle runs a command when it is loaded."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch {self.path}",)


@pytest.mark.parametrize("kind", ["torch archive", "plain pickle", "whole network"])
def test_what_would_run_code_is_refused_and_runs_none(kind: str, files: Files, images: ImageDataset, tmp_path: Path) -> None:
    config = files(suffix=".pt")
    path, trace = tmp_path / "net.pt", tmp_path / "it ran"
    if kind == "torch archive":
        torch.save({"1.weight": Bomb(trace)}, path)
    elif kind == "plain pickle":
        path.write_bytes(pickle.dumps({"1.weight": Bomb(trace)}))
    else:
        torch.save(nn.Linear(2, 2), path)
    refusal = r"net\.pt: refused, loading it would run code; convert it to a state dict: .*model\.state_dict\(\)"  # golden
    with pytest.raises(BadInput, match=refusal) as caught:
        pretrain.obtain(config, images, tmp_path / "cache")
    assert "\n" not in str(caught.value) and not trace.exists()


@pytest.mark.parametrize("suffix", [".safetensors", ".pt"])
@pytest.mark.parametrize("content", ["cut", "empty", "noise"])
def test_damaged_weights_are_named(content: str, suffix: str, files: Files, images: ImageDataset, tmp_path: Path) -> None:
    config = files(suffix=suffix)
    path = tmp_path / f"net{suffix}"
    path.write_bytes({"cut": path.read_bytes()[:500], "empty": b"", "noise": b"\x13" * 300}[content])
    with pytest.raises(CorruptFile, match=rf"net\{suffix}: damaged") as caught:
        pretrain.obtain(config, images, tmp_path / "cache")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("content", "named"),
    [
        (torch.zeros(3), ["Tensor", "state dict"]),
        ({}, [" dict,", "state dict"]),
        ({"epoch": 3, "model": {}}, [" dict,", "state dict"]),
    ],
)
def test_a_file_that_is_no_state_dict(
    content: object, named: list[str], files: Files, images: ImageDataset, tmp_path: Path
) -> None:
    config = files(suffix=".pt")
    torch.save(content, tmp_path / "net.pt")
    with pytest.raises(BadInput) as caught:
        pretrain.obtain(config, images, tmp_path / "cache")
    assert not missing(named, caught.value)


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"class_names": ["a", "b"]}, ["net.yaml: 2 class_names", "fashion_mnist", "10 classes"]),
        ({"class_names": ["a"]}, ["net.yaml: class_names: "]),
        ({"shape": [3, 32, 32]}, ["[3, 32, 32]", "fashion_mnist", "shape: [1, 28, 28]", "resize: [3, 32, 32]"]),
        ({"shape": [1, 8, 8], "resize": [1, 28, 28]}, ["[1, 8, 8]", "fashion_mnist", "shape: [1, 28, 28]"]),
        ({"resize": [3, 32, 32]}, ["net.yaml", "their_nets:network", "[3, 32, 32]"]),
        ({"resize": [3, 32]}, ["net.yaml: resize", "three"]),
        ({"shape": [2, 28, 28], "resize": [3, 32, 32]}, ["net.yaml: resize", "3 channels", "2"]),
        ({"resize": [3, 32, 32], "mean": [0.5], "std": [0.5]}, ["net.yaml: mean", "resize", "3 channels"]),
        ({"shape": [1, 28]}, ["net.yaml: shape"]),
        ({"shape": [1, 0, 28]}, ["net.yaml: shape", "above 0"]),
        ({"samples": 0}, ["net.yaml: samples: 0"]),
        ({"mean": [0.5]}, ["net.yaml: mean", "std"]),
        ({"mean": [0.5] * 3, "std": [0.5] * 3}, ["net.yaml: mean", "3 numbers", "1 channels"]),
        ({"mean": [0.5], "std": [0.0]}, ["net.yaml: std", "above 0"]),
        ({"sampels": 5}, ["net.yaml: 'sampels'", "'samples'"]),
    ],
)
def test_a_card_that_does_not_fit(
    changes: dict[str, Any], named: list[str], files: Files, images: ImageDataset, tmp_path: Path
) -> None:
    with pytest.raises(BadInput) as caught:
        pretrain.obtain(files(**changes), images, tmp_path / "cache")
    assert not missing(named, caught.value)
    assert "\n" not in str(caught.value)


def test_a_card_that_contradicts_the_network_is_named(files: Files, tmp_path: Path) -> None:
    with pytest.raises(BadInput) as caught:
        pretrain.obtain(files(class_names=["a", "b", "c"]), None, tmp_path / "cache")
    assert not missing(["net.yaml", "their_nets:network", "[2, 10]", "[2, 3]"], caught.value) and "\n" not in str(caught.value)


def test_missing_files_are_named(files: Files, images: ImageDataset, tmp_path: Path) -> None:
    config = files()
    with pytest.raises(BadInput, match=r"other\.yaml"):
        pretrain.obtain(config.model_copy(update={"card": str(tmp_path / "other.yaml")}), images, tmp_path)
    with pytest.raises(BadInput, match=r"none\.safetensors"):
        pretrain.obtain(config.model_copy(update={"weights": str(tmp_path / "none.safetensors")}), images, tmp_path)
    (tmp_path / "net.yaml").unlink()
    with pytest.raises(BadInput, match=r"net\.yaml.*class_names.*shape.*samples"):
        pretrain.obtain(config, images, tmp_path)


def test_the_command_line_names_them(
    files: Files, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    files()
    monkeypatch.chdir(tmp_path)
    (tmp_path / "net.yaml").rename(tmp_path / "about.yaml")
    command = ["pretrain", "--cache", "cache", "--classifier", "their_nets:network", "--weights", "net.safetensors"]
    assert main(command) == 2
    assert capsys.readouterr().err.startswith("error: ")
    assert main([*command, "--card", "about.yaml"]) == 0
    assert "steps 0" in capsys.readouterr().out
    assert main(["pretrain", "--classifier", "cnv"]) == 2
    assert re.search("'cnv'.*'conv'", capsys.readouterr().err)
