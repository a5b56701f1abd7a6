from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import optim

from gbc import optimisers


def adam(module: ModuleType, groups: list[dict[str, Any]]) -> optim.Optimizer:
    return module.Adam(groups, lr=1e-2, weight_decay=0.1, fused=True)  # type: ignore[no-any-return]


def sgd(module: ModuleType, groups: list[dict[str, Any]]) -> optim.Optimizer:
    return module.SGD(groups, lr=1e-2, weight_decay=0.1, momentum=0.9)  # type: ignore[no-any-return]


def lbfgs(module: ModuleType, groups: list[dict[str, Any]]) -> optim.Optimizer:
    parameters = [parameter for group in groups for parameter in group["params"]]
    return module.LBFGS(parameters, max_iter=3, line_search_fn="strong_wolfe")  # type: ignore[no-any-return]


@pytest.mark.parametrize("make", [adam, sgd, lbfgs])
def test_the_numbers_are_torchs(make: Callable[[ModuleType, list[dict[str, Any]]], optim.Optimizer]) -> None:
    """Bit for bit, through a saved state, with groups of different settings where there are groups."""

    def run(module: ModuleType) -> torch.Tensor:
        torch.manual_seed(0)
        first, second = (torch.randn(7, requires_grad=True) for _ in range(2))
        groups = [{"params": [first]}, {"params": [second], "weight_decay": 0.0}]
        optimiser = make(module, groups)

        def loss() -> torch.Tensor:
            optimiser.zero_grad()
            value = (first.sin() * second).square().sum()
            value.backward()
            return value

        for step in range(6):
            if step == 3:
                saved = optimiser.state_dict()
                optimiser = make(module, groups)
                optimiser.load_state_dict(saved)
            if make is lbfgs:
                optimiser.step(loss)
            else:
                loss()
                optimiser.step()
        return torch.cat([first, second]).detach()

    assert torch.equal(run(optimisers), run(optim))


def test_training_does_not_import_the_compiler() -> None:
    """Training of a generator (Adam with saved states), a classifier (SGD with a schedule, L-BFGS) and a feature network."""
    script = """
import sys, torch
from gbc.classifiers import fit
from gbc.classifier_config import ClassifierConfig
from gbc.metrics import features
from gbc.optimisers import Adam
weight = torch.ones(3, requires_grad=True)
optimiser = Adam([weight], fused=True)
optimiser.zero_grad()
weight.sum().backward()
optimiser.step()
optimiser.load_state_dict(optimiser.state_dict())
images, labels = torch.rand(4, 1, 8, 8), torch.arange(4) % 2
for name, optimise in fit.OPTIMISERS.items():
    module = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 2))
    optimise(module, images, labels, ClassifierConfig(optimiser=name, steps=2, polish=2), None)
features.fit(images, labels, 2, steps=1, augment=True)
sys.exit("torch._dynamo" in sys.modules)
"""
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0
