from __future__ import annotations

import pytest
import torch
from torch import nn

from gbc.classifier_config import ClassifierConfig
from gbc.classifiers import architectures
from gbc.errors import BadInput, NotQuasiHomogeneous
from gbc.kkt import homogeneity
from gbc.kkt.homogeneity import EPS, POLICIES
from tests.support import missing
from tests.support.networks import NETWORKS, SHAPE, lived_in


@pytest.mark.parametrize("mode", ["train", "eval"])
def test_last_layer_is_exact_for_every_classifier(architecture: ClassifierConfig, mode: str) -> None:
    phi = architectures.build(architecture, (1, 8, 8), 3)
    degrees = homogeneity.last_layer(phi)
    error = homogeneity.relative_error(phi, degrees, torch.rand(16, 1, 8, 8), mode=mode)
    assert error < 1e-12  # float64
    assert sorted(set(degrees.values())) == [0.0, 1.0]
    assert sum(degrees.values()) == 2  # one weight, one bias


def test_a_network_that_does_not_end_in_a_linear_layer_is_refused_by_name() -> None:
    with pytest.raises(NotQuasiHomogeneous, match="Softmax") as caught:
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
    diagonal = homogeneity.flat_degrees(homogeneity.last_layer(phi), phi)
    assert diagonal.tolist() == [0.0] * 9 + [1.0] * 4


# Where a policy has no answer: (policy, network, BatchNorm mode) → the layer to blame.
REFUSED = {
    ("last_layer", "layer_norm_last", "train"): "2", ("last_layer", "layer_norm_last", "eval"): "2",
    ("uniform", "mlp_bn", "eval"): "2", ("uniform", "resnet", "eval"): "1",
    ("uniform", "conv_bn", "eval"): "1", ("uniform", "transposed", "eval"): "3", ("uniform", "residual", "eval"): "stem.1",
    ("uniform", "plain_residual", "train"): "add", ("uniform", "plain_residual", "eval"): "add",
    ("uniform", "batch_norm_not_affine", "train"): "4", ("uniform", "batch_norm_not_affine", "eval"): "2",
    ("uniform", "batch_norm_twice", "eval"): "2",
    ("uniform", "gelu", "train"): "2", ("uniform", "gelu", "eval"): "2",
    ("uniform", "sigmoid_inside", "train"): "2", ("uniform", "sigmoid_inside", "eval"): "2",
    ("uniform", "biases_before_batch_norm", "train"): "add", ("uniform", "biases_before_batch_norm", "eval"): "n1",
}  # fmt: skip


@pytest.mark.parametrize("mode", ["train", "eval"])
@pytest.mark.parametrize("name", [*architectures.CLASSIFIERS, *NETWORKS])
@pytest.mark.parametrize("policy", POLICIES)
def test_every_policy_is_exact_or_names_a_layer(policy: str, name: str, mode: str) -> None:
    fresh = NETWORKS[name]() if name in NETWORKS else architectures.build(ClassifierConfig(name=name, hidden=12), SHAPE, 3)
    phi = lived_in(fresh)
    if layer := REFUSED.get((policy, name, mode)):
        with pytest.raises(NotQuasiHomogeneous) as caught:
            POLICIES[policy](phi, mode, {})
        assert caught.value.layer == layer
        return
    degrees = POLICIES[policy](phi, mode, {})
    assert list(degrees) == [key for key, _ in phi.named_parameters()] and min(degrees.values()) >= 0
    images = torch.randn(16, *SHAPE)
    # Degrees are rounded to 12 decimals; λ of a few layers and eps 1e-14 over small variances add up to less than this.
    assert homogeneity.relative_error(phi, degrees, images, mode=mode, eps=EPS) < 1e-8


def test_uniform_without_biases_is_all_equal() -> None:
    degrees = homogeneity.uniform(bias_free(), "eval")
    assert len(set(degrees.values())) == 1  # bit by bit: Λ̃ compares them
    assert degrees["0.weight"] == pytest.approx(1 / 3)


def test_uniform_with_biases_goes_up_by_the_layer() -> None:
    phi = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 3))
    assert list(homogeneity.uniform(phi, "eval").values()) == pytest.approx([1 / 3, 1 / 3, 1 / 3, 2 / 3, 1 / 3, 1])


def test_min_norm_is_the_shortest_solution() -> None:
    """No BatchNorm: w1 + w2 + w3 = 1, b1 = w1, b2 = w1 + w2. Least 2w1² + w2² + (w1 + w2)² + w3²: (1, 2, 5)/8."""
    phi = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 3))
    expected = [1 / 8, 1 / 8, 2 / 8, 3 / 8, 5 / 8, 1]
    assert list(homogeneity.min_norm(phi, "eval").values()) == pytest.approx(expected)


def test_numbers_that_are_given_stay_and_the_rest_follows() -> None:
    phi = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3))
    degrees = homogeneity.given(phi, "eval", {"0.weight": 0.3})
    assert degrees == pytest.approx({"0.weight": 0.3, "0.bias": 0.3, "2.weight": 0.7, "2.bias": 1})


@pytest.mark.parametrize(
    ("values", "named"),
    [
        ({"1.weight": 1.0}, ["'1.weight'", "'2.weight'"]),
        ({"0.weight": -1.0}, ["'0.weight'", "-1"]),
        ({"2.bias": 0.5}, ["2: ", " bias "]),
        ({"0.weight": 0.5, "2.weight": 0.6}, ["2: ", "logits", "0.weight: λ = 0.5"]),
        ({"0.weight": 2.0}, ["2: ", "logits", "0.weight: λ = 2"]),
    ],
)
def test_numbers_that_break_a_rule_are_refused(values: dict[str, float], named: list[str]) -> None:
    phi = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3))
    with pytest.raises(BadInput) as caught:
        homogeneity.given(phi, "eval", values)
    assert not missing(named, caught.value)
    assert "\n" not in str(caught.value)


def test_eps_leaves_a_trace_of_the_scale() -> None:
    """Degrees that rely on scale invariance are off by eps/variance with the usual eps, and exact without."""
    phi = lived_in(architectures.build(ClassifierConfig(name="mlp_bn", hidden=12), SHAPE, 3))
    degrees, images = homogeneity.uniform(phi, "train"), torch.randn(32, *SHAPE)
    assert 1e-8 < homogeneity.relative_error(phi, degrees, images, mode="train") < 1e-2
    assert homogeneity.relative_error(phi, degrees, images, mode="train", eps=EPS) < 1e-8


def test_the_curves_of_figure_3() -> None:
    phi = nn.Sequential(nn.Linear(2, 10), nn.ReLU(), nn.Linear(10, 1))
    points = torch.randn(4, 2)
    both = homogeneity.curves(phi, homogeneity.uniform(phi, "eval"), points, mode="eval", points=21)
    assert both.alpha.shape == (21,) and both.alpha[[0, 10, 20]].tolist() == pytest.approx([-1, 0, 1])
    assert both.scaled.shape == both.expected.shape == (21, 4, 1)
    torch.testing.assert_close(both.scaled, both.expected, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(both.scaled[10].float(), phi(points))
    wrong = homogeneity.curves(phi, {name: 1.0 for name, _ in phi.named_parameters()}, points, mode="eval")
    assert not torch.allclose(wrong.scaled, wrong.expected, rtol=0.1)


def test_the_check_leaves_the_network_alone() -> None:
    phi = architectures.build(ClassifierConfig(name="mlp_bn", hidden=12), SHAPE, 3)
    before = {name: value.clone() for name, value in phi.state_dict().items()}
    homogeneity.relative_error(phi, homogeneity.last_layer(phi), torch.rand(8, *SHAPE), mode="train", eps=EPS)
    assert all(torch.equal(before[name], value) for name, value in phi.state_dict().items())
    assert phi[2].eps == 1e-5
