"""Weights as training programs save them: the loaded network computes what the network they come from computed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm

from gbc.classifier_config import ClassifierConfig, DatasetConfig
from gbc.classifiers import pretrain
from gbc.classifiers.weight_files import load_weights, read_weights
from gbc.data import datasets
from gbc.errors import BadInput
from tests.support import missing

State = dict[str, Tensor]


def network(pixels: int = 12) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(pixels, 7), nn.BatchNorm1d(7), nn.ReLU(), nn.Linear(7, 3)).eval()


def prefixed(prefix: str) -> Callable[[State], State]:
    return lambda state: {prefix + name: tensor for name, tensor in state.items()}


@pytest.mark.parametrize(
    ("wrapped", "prefix"),
    [
        (lambda state: state, ""),
        (lambda state: {"state_dict": state, "epoch": 3}, ""),
        (lambda state: {"model": state, "optimizer": {"lr": 0.1}}, ""),
        (prefixed("module."), "module."),
        (prefixed("_orig_mod."), "_orig_mod."),
        (prefixed("_orig_mod.module."), "_orig_mod.module."),
        (
            lambda state: {"state_dict": prefixed("model.")(state), "pytorch-lightning_version": "2.5", "callbacks": {}},
            "model.",
        ),
    ],
    ids=["plain", "state_dict", "model", "DataParallel", "compiled", "compiled DataParallel", "Lightning"],
)
def test_a_state_dict_is_found_and_its_prefix_taken_off(wrapped: Callable[[State], Any], prefix: str, tmp_path: Path) -> None:
    theirs, ours, path = network(), network(), tmp_path / "net.ckpt"
    with torch.no_grad():
        for parameter in theirs.parameters():
            parameter.add_(1)
    torch.save(wrapped(theirs.state_dict()), path)
    assert load_weights(ours, read_weights(path), str(path)) == prefix
    images = torch.rand(5, 1, 3, 4)
    assert torch.equal(ours(images), theirs(images))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_read_into_float32(dtype: torch.dtype, tmp_path: Path) -> None:
    theirs, ours, path = network().to(dtype), network(), tmp_path / "net.safetensors"
    save_file(theirs.state_dict(), path)
    load_weights(ours, read_weights(path), "test")
    assert torch.equal(ours[1].weight, theirs[1].weight.float())  # type: ignore[arg-type, operator]
    assert ours(torch.rand(2, 12)).dtype == torch.float32


@pytest.mark.filterwarnings("ignore:.*[Qq]uanti")
@pytest.mark.parametrize("kind", ["sparse", "quantised", "complex", "without values"])
def test_tensors_that_no_layer_takes_are_refused(kind: str, tmp_path: Path) -> None:
    plain, path = torch.ones(7, 12), tmp_path / "net.pt"
    tensors = {
        "sparse": plain.to_sparse, "quantised": lambda: torch.quantize_per_tensor(plain, 0.1, 0, torch.qint8),
        "complex": lambda: plain.to(torch.complex64), "without values": lambda: plain.to("meta"),
    }  # fmt: skip
    torch.save({"1.weight": tensors[kind]()}, path)
    with pytest.raises(BadInput, match=rf"net\.pt: '1\.weight' .*{kind}"):
        read_weights(path)


def test_a_prefix_that_the_network_has_itself_stays() -> None:
    theirs = nn.Sequential(network())
    assert load_weights(nn.Sequential(network()), theirs.state_dict(), "test") == ""


def test_what_is_missing_and_what_is_left_over_is_named_up_to_five() -> None:
    state = network().state_dict()
    wrong = {"1.weight": state["1.weight"].T, "4.bias": state["4.bias"], **{f"head.{n}": torch.zeros(1) for n in range(7)}}
    with pytest.raises(BadInput) as caught:
        load_weights(network(), wrong, "net.pt")
    error = str(caught.value)
    assert "'1.bias', '2.weight', '2.bias', '2.running_mean', '2.running_var' and 2 more" in error
    assert "'head.0', 'head.1', 'head.2', 'head.3', 'head.4' and 2 more" in error
    assert not missing(["'1.weight'", "[12, 7]", "[7, 12]"], error) and "\n" not in error


def for_digits() -> nn.Module:
    return network(64)


def parametrised() -> nn.Module:
    *others, last = network(64)
    return nn.Sequential(*others, weight_norm(last))


FORMATS: dict[str, tuple[Callable[[State], Any], str]] = {
    "plain": (lambda state: state, "pt"),
    "wrapped": (lambda state: {"state_dict": state, "epoch": 3}, "ckpt"),
    "prefixed": (prefixed("module."), "pt"),
    "half": (lambda state: {name: t.half() if t.is_floating_point() else t for name, t in state.items()}, "pt"),
    "safetensors": (lambda state: state, "safetensors"),
    "parametrised": (lambda state: state, "pt"),
}


@pytest.mark.parametrize("name", FORMATS)
def test_the_accuracy_is_the_one_that_the_weights_had(name: str, tmp_path: Path) -> None:
    """By the stored statistics of BatchNorm, which differ from those of the images here."""
    data = datasets.load(DatasetConfig(name="digits", per_class=20, classes=(0, 1, 2)))
    images, labels = data.train()
    make = parametrised if name == "parametrised" else for_digits
    theirs = _trained(make(), images, labels)
    wrapped, suffix = FORMATS[name]
    content, path = wrapped(theirs.state_dict()), tmp_path / f"net.{suffix}"
    save_file(content, path) if suffix == "safetensors" else torch.save(content, path)
    card = {"class_names": ["0", "1", "2"], "shape": [1, 8, 8], "samples": 60}
    path.with_suffix(".yaml").write_text(yaml.safe_dump(card))
    config = ClassifierConfig(factory=f"{__name__}:{make.__name__}", weights=str(path))
    accuracy = (theirs(images).argmax(dim=1) == labels).float().mean().item()
    classifier, regime, _ = pretrain.obtain(config, data, tmp_path / "cache")
    assert 0.4 < accuracy < 1 and regime["accuracy"] == pytest.approx(accuracy)
    assert torch.equal(classifier.module(images).argmax(dim=1), theirs(images).argmax(dim=1))


def _trained(phi: nn.Module, images: Tensor, labels: Tensor) -> nn.Module:
    """`phi` after so few steps that its stored statistics are not yet those of the images."""
    optimiser = torch.optim.SGD(phi.parameters(), lr=0.1)
    phi.train()
    for _ in range(4):
        optimiser.zero_grad()
        nn.functional.cross_entropy(phi(images), labels).backward()
        optimiser.step()
    return phi.eval()
