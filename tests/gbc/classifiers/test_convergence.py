"""Diagnostics against networks whose regime is known by hand."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from gbc.classifier_config import ClassifierConfig
from gbc.classifiers import architectures, convergence

WD = 1 / math.e


def svm() -> tuple[nn.Module, Tensor, Tensor]:
    """Φ = w·x with w = (1, 0) on the points ±e1: stationary for the exponential loss with wd = 1/e."""
    phi = nn.Sequential(nn.Linear(2, 1, bias=False))
    with torch.no_grad():
        phi[0].weight.copy_(torch.tensor([[1.0, 0.0]]))
    return phi, torch.tensor([[1.0, 0.0], [-1.0, 0.0]]), torch.tensor([1, 0])


def test_a_stationary_point_has_residual_0_and_cosine_1() -> None:
    diagnosis = convergence.diagnose(*svm(), WD, "exponential")
    assert diagnosis["residuals"]["0.weight"] == pytest.approx(0, abs=1e-6)
    assert diagnosis["cosines"]["0.weight"] == pytest.approx(1)
    assert diagnosis["loss"] == pytest.approx(WD) and diagnosis["accuracy"] == 1.0
    assert diagnosis["margins"] == pytest.approx({"min": 1.0, "q05": 1.0, "q50": 1.0, "q95": 1.0})


def test_twice_the_decay_leaves_half_of_it_unexplained() -> None:
    residuals = convergence.residuals(*svm(), 2 * WD, "exponential")
    assert residuals["0.weight"] == pytest.approx(0.5)


def test_imbalance_by_hand() -> None:
    """Units with (‖w_in‖² + b², ‖w_out‖²) = (25 + 0, 25), (1 + 3, 1), (0, 0): 0 and ¾ among the living."""
    phi = nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 1))
    with torch.no_grad():
        phi[0].weight.copy_(torch.tensor([[3.0, 4.0], [1.0, 0.0], [0.0, 0.0]]))
        phi[0].bias.copy_(torch.tensor([0.0, math.sqrt(3), 0.0]))
        phi[2].weight.copy_(torch.tensor([[5.0, 1.0, 0.0]]))
    assert convergence.imbalance(phi) == {"0": pytest.approx(0)}  # the lower median of two
    with torch.no_grad():
        phi[2].weight[0, 0] = 0.0
    assert convergence.imbalance(nn.ModuleDict({"head": phi})) == {"head.0": pytest.approx(0.75)}


def test_imbalance_is_unknown_through_batch_norm() -> None:
    assert convergence.imbalance(architectures.build(ClassifierConfig(hidden=4), (1, 4, 4), 2)) == {}


def test_layers_before_batch_norm_are_seen_in_the_order_of_the_forward_pass() -> None:
    class Shuffled(nn.Module):
        """Its layers stand in another order than they are called in."""

        def __init__(self) -> None:
            super().__init__()
            self.last, self.norm, self.first = nn.Linear(3, 2), nn.BatchNorm1d(3), nn.Linear(4, 3)

        def forward(self, x: Tensor) -> Tensor:
            out: Tensor = self.last(self.norm(self.first(x)))
            return out

    assert convergence.before_batch_norm(Shuffled(), torch.rand(5, 4)) == {"first"}
    residuals = convergence.residuals(Shuffled(), torch.rand(5, 4), torch.tensor([0, 1, 0, 1, 1]), 1e-2)
    assert set(residuals) == {"first.weight", "norm.weight", "norm.bias", "last.weight", "last.bias"}


def test_every_convolution_of_the_residual_network_is_scale_invariant() -> None:
    phi = architectures.build(ClassifierConfig(name="resnet", hidden=12), (1, 8, 8), 3)
    convolutions = {name for name, layer in phi.named_modules() if isinstance(layer, nn.Conv2d)}
    assert convergence.before_batch_norm(phi, torch.rand(4, 1, 8, 8)) == convolutions
    assert not convergence.before_batch_norm(
        architectures.build(ClassifierConfig(name="conv", hidden=12), (1, 8, 8), 3), torch.rand(4, 1, 8, 8)
    )
