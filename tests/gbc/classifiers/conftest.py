"""A package of networks of the user's own, and a function that writes their weights and card."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import save_file
from torch import Tensor, nn

from gbc.classifier_config import ClassifierConfig
from gbc.classifiers import custom

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


@pytest.fixture
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
def files(tmp_path: Path, package: None) -> Callable[..., ClassifierConfig]:
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
