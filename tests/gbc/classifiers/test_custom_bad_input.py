"""Classifiers of the user's own that cannot be used: each fault is one line."""

from __future__ import annotations

import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from gbc.classifier_config import ClassifierConfig
from gbc.classifiers import pretrain
from gbc.data.datasets import ImageDataset
from gbc.errors import BadInput, CorruptFile
from tests.gbc.classifiers.conftest import theirs
from tests.support import missing

Files = Callable[..., ClassifierConfig]

pytestmark = pytest.mark.usefixtures("package")


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


def _with(name: str, change: Callable[[Tensor], Tensor]) -> dict[str, Tensor]:
    weights = theirs().state_dict()
    return {**weights, name: change(weights[name]).contiguous()}


@pytest.mark.parametrize("suffix", [".safetensors", ".pt"])
@pytest.mark.parametrize(
    ("weights", "named"),
    [
        (lambda: _with("3.weight", lambda t: t[:9]), ["'3.weight'", "[9, 12]", "[10, 12]"]),
        (lambda: {"1.weight": torch.zeros(12, 784)}, ["the file has no '1.bias', '3.weight', '3.bias'"]),
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
        ({0: torch.zeros(3), 1: torch.zeros(3)}, ["net.pt: 0 ", "state_dict"]),
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
        ({"class_names": [*"abcdefghi", "a"]}, ["net.yaml: ", "class_names", "'a'", "twice"]),
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


def test_the_classes_of_the_data_in_another_order_are_refused(files: Files, images: ImageDataset, tmp_path: Path) -> None:
    """Labels would be those of other classes: an accuracy of 0, and scores against the wrong images."""
    config = files(class_names=[*images.class_names[1:], images.class_names[0]])
    with pytest.raises(BadInput) as caught:
        pretrain.obtain(config, images, tmp_path / "cache")
    assert not missing(["net.yaml", "'Trouser'", "'T-shirt'", "dataset.classes"], caught.value)
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
