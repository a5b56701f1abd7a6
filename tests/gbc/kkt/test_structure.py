"""The rules for Λ: cases solved by hand, and errors that name the layer."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import torchvision
from scipy.optimize import linprog
from torch import Tensor, nn

from gbc.classifier_config import ClassifierConfig
from gbc.classifiers import architectures
from gbc.errors import BadInput, NotQuasiHomogeneous
from gbc.kkt import homogeneity
from gbc.kkt.homogeneity import structural
from tests.support.networks import FREEDOM, NETWORKS, PlainResidual

MODES = ("train", "eval")


def classifier(name: str) -> nn.Module:
    return architectures.build(ClassifierConfig(name=name, hidden=12), (1, 8, 8), 3)


class Wrapped(nn.Module):
    """Any function of a linear layer's output, with another linear layer behind it."""

    def __init__(self, function: Callable[[Tensor], Any]) -> None:
        super().__init__()
        self.first, self.last, self.function = nn.Linear(4, 4), nn.Linear(4, 3), function

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.function(self.first(x)))


@pytest.mark.parametrize("name", NETWORKS)
def test_the_freedom_is_what_counting_by_hand_gives(name: str) -> None:
    assert tuple(structural(NETWORKS[name](), mode).nullity for mode in MODES) == FREEDOM[name]


def test_the_papers_classifier_has_six_directions_in_train_mode_and_two_in_eval_mode() -> None:
    assert [structural(classifier("mlp_bn"), mode).nullity for mode in MODES] == [6, 2]
    assert [structural(classifier("mlp"), mode).nullity for mode in MODES] == [2, 2]


def test_a_plain_network_with_biases() -> None:
    """λ_b of layer l is λ_W1 + … + λ_Wl, and 1 for the last."""
    system = structural(classifier("mlp"), "eval")
    weights = {"1.weight": 0.2, "3.weight": 0.3, "5.weight": 0.5}
    expected = weights | {"1.bias": 0.2, "3.bias": 0.5, "5.bias": 1.0}
    assert system.residual(expected) < 1e-15
    assert system.with_fixed(weights).solve() == pytest.approx(expected, abs=1e-11)
    ranges = system.ranges()
    assert ranges["1.weight"] == pytest.approx((0, 1), abs=1e-11)
    assert ranges["5.bias"] == pytest.approx((1, 1), abs=1e-12)


def test_stored_statistics_stop_all_before_the_last_batch_norm() -> None:
    """λ = 0 up to the last BatchNorm; λ_γ = λ_β = 1 − λ_W behind it. So says λ ≥ 0, where 2 directions become 1."""
    ranges = structural(classifier("mlp_bn"), "eval").ranges()
    assert [name for name, (_, high) in ranges.items() if high > 1e-9] == ["5.weight", "5.bias", "7.weight", "7.bias"]
    solution = structural(classifier("mlp_bn"), "eval").solve()
    # Least 2γ² + (1 − γ)² is at γ = 1/3.
    assert solution["5.weight"] == pytest.approx(1 / 3) and solution["7.weight"] == pytest.approx(2 / 3)


def test_the_batchs_own_statistics_free_what_is_before_them() -> None:
    ranges = structural(classifier("mlp_bn"), "train").ranges()
    assert {name for name, (_, high) in ranges.items() if high == float("inf")} == {
        "1.weight", "1.bias", "2.weight", "2.bias", "4.weight", "4.bias",
    }  # fmt: skip


def test_a_residual_sum_needs_equal_degrees() -> None:
    solution = structural(PlainResidual(), "eval").with_fixed({"first.weight": 0.25}).solve()
    expected = {"first.weight": 0.25, "first.bias": 0.25, "block.weight": 0, "block.bias": 0.25}
    assert solution == pytest.approx(expected | {"head.weight": 0.75, "head.bias": 1}, abs=1e-11)


def test_the_null_space_is_a_basis_of_directions_that_keep_every_equation() -> None:
    system = structural(classifier("mlp_bn"), "train")
    basis = system.null_space
    np.testing.assert_allclose(basis @ basis.T, np.eye(system.nullity), atol=1e-12)
    np.testing.assert_allclose(system.matrix @ basis.T, 0, atol=1e-12)
    assert system.rank + system.nullity == len(system.names) == 10


def test_a_single_layer_is_a_network() -> None:
    assert structural(nn.Linear(4, 3), "eval").solve() == pytest.approx({"weight": 1, "bias": 1})


def test_tied_weights_count_once() -> None:
    layer = nn.Linear(4, 4, bias=False)
    phi = nn.Sequential(layer, nn.ReLU(), layer)
    assert structural(phi, "eval").solve() == pytest.approx({"0.weight": 1 / 2})


@pytest.mark.parametrize(
    "function",
    [
        F.relu, torch.relu, lambda x: x.relu(), lambda x: F.leaky_relu(x, 0.2), lambda x: x.view(x.size(0), 2, 2).flatten(1),
        lambda x: x.reshape(-1, 4), lambda x: torch.flatten(x, 1), lambda x: 2.5 * x / 3, lambda x: x.unsqueeze(1).mean(dim=1),
        lambda x: F.max_pool1d(x.unsqueeze(1), 1).squeeze(1), lambda x: F.dropout(x, 0.5, training=False), lambda x: -x,
        lambda x: torch.cat([x[:, :2], x[:, 2:]], dim=1), lambda x: torch.add(x, torch.relu(x)), lambda x: x - x.relu(),
        lambda x: F.avg_pool1d(x.unsqueeze(1), 1).squeeze(1), lambda x: F.adaptive_avg_pool1d(x, x.shape[-1]),
    ],
)  # fmt: skip
def test_homogeneous_functions_keep_the_degree(function: Callable[[Tensor], Tensor]) -> None:
    phi = Wrapped(function)
    system = structural(phi, "eval")
    assert system.nullity == 1
    halves = {"first.weight": 0.5, "first.bias": 0.5, "last.weight": 0.5, "last.bias": 1.0}
    assert system.residual(halves) < 1e-15
    assert homogeneity.relative_error(phi, halves, torch.randn(5, 4), mode="eval") < 1e-12


@pytest.mark.parametrize(
    ("function", "degree"), [(lambda x: x * x, 2), (lambda x: x / (x.abs() + x.relu()), 0), (lambda x: x * x.relu() * x, 3)]
)
def test_degrees_add_in_products(function: Callable[[Tensor], Tensor], degree: int) -> None:
    phi = Wrapped(function)
    solution = structural(phi, "eval").with_fixed({"first.weight": 0.25}).solve()
    assert solution["last.weight"] == pytest.approx(1 - degree / 4)
    assert homogeneity.relative_error(phi, solution, torch.randn(5, 4), mode="eval") < 1e-8


@pytest.mark.parametrize(
    "function",
    [
        F.gelu, F.silu, torch.sigmoid, torch.tanh, lambda x: x.softmax(dim=1), lambda x: F.softmax(x, dim=1), lambda x: x + 1,
        nn.GELU(), nn.SiLU(), nn.Sigmoid(), nn.Tanh(), nn.Softmax(dim=1),
    ],
)  # fmt: skip
def test_other_functions_need_degree_0(function: Callable[[Tensor], Tensor]) -> None:
    solution = structural(Wrapped(function), "eval").solve()
    assert solution == {"first.weight": 0, "first.bias": 0, "last.weight": pytest.approx(1), "last.bias": pytest.approx(1)}


@pytest.mark.parametrize(
    ("phi", "layer", "message"),
    [
        (lambda: nn.Sequential(nn.Linear(4, 3), nn.Softmax(dim=1)), "1", "degree 0"),
        (lambda: nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3, affine=False)), "1", "degree 0"),
        (lambda: nn.Sequential(nn.Linear(4, 3), nn.PReLU()), "1", "PReLU"),
        (lambda: nn.Sequential(nn.Sequential(nn.Linear(4, 3), nn.Bilinear(3, 3, 3))), "0.1", "Bilinear"),
        (lambda: Wrapped(torch.fft.fft), "fft_fft", "rule"),
        (lambda: Wrapped(lambda x: x.cumsum(dim=1)), "cumsum", "rule"),
        (lambda: Wrapped(lambda x: F.dropout(x)), "dropout", "self.training"),
        (lambda: Wrapped(lambda x: x.T), "last.getattr_1", "attribute 'T'"),
        (lambda: nn.Sequential(nn.Linear(4, 3), nn.ReLU(), Wrapped(lambda x: x), nn.Tanh()), "3", "degree 0"),
    ],
)
def test_what_breaks_is_named(phi: Callable[[], nn.Module], layer: str, message: str) -> None:
    with pytest.raises(NotQuasiHomogeneous, match=message) as caught:
        structural(phi(), "eval").solve()
    assert caught.value.layer == layer


def test_a_skip_over_the_whole_network_is_named() -> None:
    class Skip(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inside = nn.Linear(3, 3)

        def forward(self, x: Tensor) -> Tensor:
            return x + self.inside(x)

    with pytest.raises(NotQuasiHomogeneous, match="degree 0") as caught:
        structural(nn.Sequential(nn.Identity(), Skip()), "eval").solve()
    assert caught.value.layer.endswith("add")


def test_control_flow_that_depends_on_the_input_is_refused() -> None:
    with pytest.raises(BadInput, match="Wrapped: symbolically traced"):
        structural(Wrapped(lambda x: x if x.sum() > 0 else -x), "eval")


def test_optional_arguments_have_their_defaults() -> None:
    """A proxy is never None, so left to itself torch.fx would go where the network does not."""

    class Optional(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.last = nn.Linear(4, 4), nn.Linear(4, 3)

        def forward(self, x: Tensor, mask: Tensor | None = None, scale: float = 2.0, squashed: bool = False) -> Tensor:
            x = self.first(x)
            if mask is not None:
                x = x + mask
            return self.last(scale * (x.tanh() if squashed else x.relu()))

    phi = Optional()
    assert structural(phi, "eval").nullity == homogeneity.exported(phi, "eval", torch.randn(5, 4)).nullity == 1


def test_more_than_logits_is_refused() -> None:
    class Two(nn.Linear):
        def forward(self, x: Tensor) -> Any:
            return super().forward(x), x

    with pytest.raises(BadInput, match=r"\[M, C\].*tuple"):
        structural(Two(2, 2), "eval")


def test_a_computed_weight_is_refused() -> None:
    phi = nn.Sequential(nn.utils.parametrizations.weight_norm(nn.Linear(4, 3)))
    with pytest.raises(NotQuasiHomogeneous, match="ParametrizedLinear") as caught:
        structural(phi, "eval")
    assert caught.value.layer == "0"


def test_reading_the_layers_leaves_the_network_alone() -> None:
    phi = classifier("mlp_bn").train()
    before = {name: value.clone() for name, value in phi.state_dict().items()}
    structural(phi, "eval")
    assert all(layer.training for layer in phi.modules())
    assert all(torch.equal(before[name], value) for name, value in phi.state_dict().items())


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", [*NETWORKS, "resnet18"])
def test_no_solution_is_shorter(name: str, mode: str) -> None:
    """λ is the shortest point of a convex set if and only if ⟨λ, λ'⟩ ≥ ‖λ‖² for every λ' of it: a linear program."""
    phi = torchvision.models.resnet18(num_classes=3) if name == "resnet18" else NETWORKS[name]()
    system = structural(phi, mode)
    degrees = np.array(list(system.solve().values()))
    np.testing.assert_allclose(system.matrix @ degrees, system.values, atol=1e-11)  # λ is rounded to 12 decimals
    least = linprog(degrees, A_eq=system.matrix, b_eq=system.values, bounds=(0, None))
    assert least.fun == pytest.approx(degrees @ degrees, abs=1e-9)
