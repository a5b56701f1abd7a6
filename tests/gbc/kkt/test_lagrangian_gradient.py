"""The pull as a linear map, and the best multipliers against a solver that is given the whole matrix."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.optimize import nnls
from torch import Tensor, nn

from gbc import losses
from gbc.classifier_config import ClassifierConfig
from gbc.classifiers import architectures
from gbc.classifiers.architectures import normalising_by
from gbc.kkt.lagrangian_gradient import MarginGradient, best_multipliers
from tests.support.networks import SHAPE, lived_in

MODES = ("train", "eval")


def samples(count: int = 12) -> tuple[Tensor, Tensor]:
    return torch.randn(count, *SHAPE), torch.arange(count) % 3


def network(config: ClassifierConfig) -> nn.Module:
    return lived_in(architectures.build(config, SHAPE, 3))


@pytest.mark.parametrize("mode", MODES)
def test_the_map_is_the_gradient_of_the_lagrangian(architecture: ClassifierConfig, mode: str) -> None:
    phi, (images, labels) = network(architecture), samples()
    pull, multipliers = MarginGradient(phi, images, labels, mode), torch.rand(12, 3)
    with normalising_by(phi, mode):
        expected = losses.margin_gradient(phi(images), labels, multipliers, list(phi.parameters()))
    flat = torch.cat([part.flatten() for part in expected])
    torch.testing.assert_close(pull(multipliers), flat, rtol=1e-4, atol=1e-5)  # float32, summed in another order


@pytest.mark.parametrize("mode", MODES)
def test_the_transpose_belongs_to_the_map(architecture: ClassifierConfig, mode: str) -> None:
    """⟨pull(μ), d⟩ = ⟨μ, pullᵀ(d)⟩."""
    phi, (images, labels) = network(architecture).double(), samples()
    pull = MarginGradient(phi, images.double(), labels, mode)
    multipliers = torch.randn(12, 3, dtype=torch.float64)
    pulled = pull(multipliers)
    direction = torch.randn_like(pulled)
    torch.testing.assert_close(pulled @ direction, (multipliers * pull.transposed(direction)).sum(), rtol=1e-9, atol=1e-9)


def test_a_tensor_that_is_not_used_pulls_nothing() -> None:
    phi = nn.Linear(2, 2)
    phi.register_parameter("spare", nn.Parameter(torch.ones(3)))
    pull = MarginGradient(phi, torch.randn(4, 2), torch.tensor([0, 1, 0, 1]), "eval")
    parts = pull.split(pull(torch.rand(4, 2)))
    assert list(parts) == ["weight", "bias", "spare"] and not parts["spare"].any() and parts["weight"].any()
    assert pull.transposed(torch.randn(9)).shape == (4, 2)


def test_the_two_point_svm_needs_a_multiplier_of_a_quarter_each() -> None:
    """The two-point SVM of test_losses: W = Σ μ_i (∇Φ_y − ∇Φ_c) with μ = ¼; on the wrong points no μ ≥ 0 explains anything."""
    phi = nn.Linear(2, 2, bias=False)
    with torch.no_grad():
        phi.weight.copy_(torch.tensor([[0.5, 0.0], [-0.5, 0.0]]))
    target = phi.weight.detach().flatten() / 2
    points, labels = torch.tensor([[1.0, 0.0], [-1.0, 0.0]]), torch.tensor([0, 1])
    multipliers, pulled = best_multipliers(MarginGradient(phi, points, labels, "eval"), target)
    torch.testing.assert_close(pulled, target)
    torch.testing.assert_close(multipliers.sum(1), torch.tensor([0.25, 0.25]))
    none, wrong = best_multipliers(MarginGradient(phi, -points, labels, "eval"), target)
    assert not none.any() and not wrong.any()


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("part", ["all", "last"])
def test_no_multipliers_do_better(architecture: ClassifierConfig, mode: str, part: str) -> None:
    """Lawson and Hanson's active sets on the explicit matrix give the least residual there is."""
    phi, (images, labels) = network(architecture), samples(30)
    pull = MarginGradient(phi, images, labels, mode)
    matrix = np.stack([pull(unit.view(30, 3)).numpy() for unit in torch.eye(90)], axis=1).astype(np.float64)
    zeta = torch.cat([parameter.detach().flatten() for parameter in phi.parameters()])
    target = zeta if part == "all" else torch.cat([torch.zeros(len(zeta) - 3), zeta[-3:]])
    least = nnls(matrix, target.double().numpy())[1]
    multipliers, pulled = best_multipliers(pull, target)
    assert multipliers.min() >= 0
    # It stops when ρ²/2 falls by less than 1e-5 in a few steps, which leaves three digits of ρ.
    assert losses.relative_residual([target], [pulled]).item() == pytest.approx(least / target.norm().item(), abs=1e-3)
