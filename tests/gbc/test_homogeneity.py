from __future__ import annotations

import pytest
import torch
from torch import nn

from gbc import classifiers, homogeneity
from gbc.config import ClassifierConfig
from gbc.errors import NotQuasiHomogeneous


@pytest.mark.parametrize("mode", ["train", "eval"])
def test_last_layer_is_exact_for_every_classifier(architecture: ClassifierConfig, mode: str) -> None:
    phi = classifiers.build(architecture, (1, 8, 8), 3)
    degrees = homogeneity.last_layer(phi)
    error = homogeneity.relative_error(phi, degrees, torch.rand(16, 1, 8, 8), mode=mode)
    assert error < 1e-12  # float64
    assert sorted(set(degrees.values())) == [0.0, 1.0]
    assert sum(degrees.values()) == 2  # one weight, one bias


def test_a_network_that_does_not_end_in_a_linear_layer_is_refused_by_name() -> None:
    with pytest.raises(NotQuasiHomogeneous, match="1: the last layer is Softmax") as caught:
        homogeneity.last_layer(nn.Sequential(nn.Linear(3, 3), nn.Softmax(dim=1)))
    assert caught.value.layer == "1"


def bias_free() -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(4, 6, bias=False), nn.ReLU(), nn.Linear(6, 5, bias=False), nn.ReLU(), nn.Linear(5, 3, bias=False)
    )


def test_a_bias_free_relu_network_of_three_layers_has_every_degree_a_third() -> None:
    phi = bias_free()
    thirds = {name: 1 / 3 for name, _ in phi.named_parameters()}
    assert homogeneity.relative_error(phi, thirds, torch.randn(10, 4), mode="eval") < 1e-12


def test_eulers_identity_holds_with_these_degrees() -> None:
    """Eq. (9): ζᵀΛ∇Φ = Φ, so ⟨ζ, ∇Φ⟩ = L·Φ for L bias-free layers."""
    phi = bias_free().double()
    x = torch.randn(4, dtype=torch.float64)
    for logit in range(3):
        value = phi(x)[logit]
        gradients = torch.autograd.grad(value, list(phi.parameters()))
        inner = sum((p * g).sum() for p, g in zip(phi.parameters(), gradients, strict=True))
        torch.testing.assert_close(inner, 3 * value, rtol=1e-12, atol=1e-14)


def test_wrong_degrees_are_seen() -> None:
    phi = bias_free()
    halves = {name: 1 / 2 for name, _ in phi.named_parameters()}
    # e^{3α/2} instead of e^α: off by e^{1/2} − 1 at α = 1.
    error = homogeneity.relative_error(phi, halves, torch.randn(10, 4), mode="eval")
    assert error == pytest.approx(torch.tensor(0.5).exp().item() - 1, rel=1e-6)


def test_the_diagonal_follows_the_order_of_the_parameters() -> None:
    phi = nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 1))
    diagonal = homogeneity.flat(homogeneity.last_layer(phi), phi)
    assert diagonal.tolist() == [0.0] * 9 + [1.0] * 4
