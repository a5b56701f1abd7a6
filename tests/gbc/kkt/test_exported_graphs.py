"""torch.export where torch.fx cannot trace: the same rules on the graph of ATen operators."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import torchvision
from torch import Tensor, nn

from gbc.classifier_config import ClassifierConfig
from gbc.classifiers import architectures
from gbc.errors import BadInput, NotQuasiHomogeneous
from gbc.kkt import homogeneity
from gbc.kkt.homogeneity import POLICIES, exported, structural, traced
from tests.support.networks import NETWORKS, SHAPE, lived_in

MODES = ("train", "eval")


def build(name: str) -> tuple[nn.Module, Tensor]:
    if name == "resnet18":
        return torchvision.models.resnet18(num_classes=3), torch.randn(2, 3, 32, 32)
    if name in NETWORKS:
        return NETWORKS[name](), torch.randn(4, *SHAPE)
    return architectures.build(ClassifierConfig(name=name, hidden=12), SHAPE, 3), torch.randn(4, *SHAPE)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", [*NETWORKS, *architectures.CLASSIFIERS, "resnet18"])
def test_both_graphs_give_the_same_equations(name: str, mode: str) -> None:
    phi, example = build(name)
    traced_system, exported_system = traced(phi, mode), exported(phi, mode, example)
    np.testing.assert_array_equal(traced_system.matrix, exported_system.matrix)
    np.testing.assert_array_equal(traced_system.values, exported_system.values)
    assert traced_system.nullity == exported_system.nullity and traced_system.solve() == exported_system.solve()
    # x += y is `add` to Python and `add_` to ATen; all else is called the same.
    layers = [
        [equation.layer.replace("add_", "add") for equation in system.equations] for system in (traced_system, exported_system)
    ]
    assert [layer.partition("add")[0] for layer in layers[0]] == [layer.partition("add")[0] for layer in layers[1]]


class Counting(nn.Module):
    """Its forward pass needs the length of the batch, which a proxy does not have."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.first, self.last, self.function = nn.Linear(4, 4), nn.Linear(4, 3), function

    def forward(self, x: Tensor) -> Tensor:
        if len(x) == 0:
            raise ValueError("no images")
        return self.last(self.function(self.first(x)))


class Several(nn.Module):
    """Inputs as *args, a name from an f-string, control flow on a size, layers that change their input."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleDict({"size8": nn.Conv2d(1, 4, 3, padding=1)})
        self.norm, self.head = CheckedBatchNorm(4), nn.Linear(64, 3)

    def forward(self, *args: Tensor) -> Tensor:
        (x,) = args
        x = self.norm(self.layers[f"size{x.shape[-1]}"](x))
        x.relu_()
        while x.shape[-1] > 4:
            x = F.max_pool2d(x, 2)
        return self.head(x.flatten(1))


class CheckedBatchNorm(nn.BatchNorm2d):
    """A class of the user's own is no layer of torch.nn to torch.fx, which goes inside."""


@pytest.mark.parametrize("mode", MODES)
def test_what_torch_fx_cannot_trace_is_exported(mode: str) -> None:
    phi, example = lived_in(Several()), torch.randn(8, *SHAPE)
    with pytest.raises(BadInput, match="Several"):
        structural(phi, mode)
    system = structural(phi, mode, example)
    # W, b; γ, β; head W, b. Stored: λ_b = λ_W (= 0 as λ ≥ 0), λ_γ = λ_β = 1 − λ_W2. Own: λ_W and λ_b are free.
    assert system.nullity == {"train": 3, "eval": 1}[mode]
    estimate = homogeneity.estimated(phi, 2 * torch.randn(60, *SHAPE), mode=mode, rng=torch.Generator().manual_seed(0))
    assert estimate.nullity == system.nullity and estimate.residual(system.solve()) < 1e-10
    for policy in ("last_layer", "min_norm"):
        degrees = POLICIES[policy](phi, mode, {}, example)
        assert homogeneity.relative_error(phi, degrees, example, mode=mode, eps=homogeneity.EPS) < 1e-8


@pytest.mark.parametrize(
    "function",
    [
        F.relu, F.relu_, lambda x: F.leaky_relu(x, 0.2), lambda x: x.view(len(x), 2, 2).flatten(1), lambda x: 2.5 * x / 3,
        lambda x: x * torch.tensor([1.0, 2, 3, 4], dtype=x.dtype), lambda x: torch.cat([x[:, :2], x[:, 2:]], dim=1),
        lambda x: x.to(x.dtype),
        lambda x: torch.stack(x.relu().unbind(1), 1), lambda x: torch.cat(x.chunk(2, 1), 1), lambda x: x - x.relu(),
        lambda x: F.adaptive_max_pool1d(x[:, None], 4)[:, 0], lambda x: F.dropout(x, 0.5, training=False),
        lambda x: torch.split(x, 2, 1)[0].repeat(1, 2), lambda x: x.T.abs().T,
    ],
)  # fmt: skip
def test_operators_that_keep_the_degree(function: Callable[[Tensor], Tensor]) -> None:
    phi, example = Counting(function), torch.randn(5, 4)
    system = structural(phi, "eval", example)
    halves = {"first.weight": 0.5, "first.bias": 0.5, "last.weight": 0.5, "last.bias": 1.0}
    assert system.nullity == 1 and system.residual(halves) < 1e-15
    assert homogeneity.relative_error(phi, halves, example, mode="eval") < 1e-12


@pytest.mark.parametrize(
    ("function", "degree"),
    [
        (lambda x: x * x, 2), (lambda x: torch.bmm(x[:, :, None], x[:, None, :]).sum(1), 2),
        (lambda x: x / (x.abs() + x.relu()), 0), (lambda x: torch.addmm(x, x, torch.ones_like(x[:4])), 1),
    ],
)  # fmt: skip
def test_degrees_add_in_products(function: Callable[[Tensor], Tensor], degree: int) -> None:
    phi, example = Counting(function), torch.randn(5, 4)
    solution = structural(phi, "eval", example).with_fixed({"first.weight": 0.25}).solve()
    assert solution["last.weight"] == pytest.approx(1 - degree / 4)
    assert homogeneity.relative_error(phi, solution, example, mode="eval") < 1e-8


@pytest.mark.parametrize(
    "function",
    [
        F.gelu, F.silu, torch.sigmoid, torch.tanh, lambda x: x.softmax(dim=1), lambda x: 1 - x, F.softplus, nn.Hardswish(),
        lambda x: F.scaled_dot_product_attention(x[:, None], x[:, None], torch.ones_like(x)[:, None])[:, 0],
    ],
)  # fmt: skip
def test_other_operators_need_degree_0(function: Callable[[Tensor], Tensor]) -> None:
    solution = structural(Counting(function), "eval", torch.randn(5, 4)).solve()
    assert solution == {"first.weight": 0, "first.bias": 0, "last.weight": pytest.approx(1), "last.bias": pytest.approx(1)}


@pytest.mark.parametrize(
    ("function", "layer", "message"),
    [
        (nn.PReLU(), "function", "prelu"),
        (nn.Sequential(nn.ReLU(), nn.Bilinear(4, 4, 4) and nn.PReLU()), "function.1", "prelu"),
        (lambda x: x.cumsum(dim=1), "cumsum", "rule"),
        (lambda x: F.dropout(x), "dropout", "self.training"),
        (lambda x: (x + 1) * (x - 1) * x, "add", "sum"),
    ],
)
def test_what_breaks_is_named(function: Callable[[Tensor], Tensor], layer: str, message: str) -> None:
    with pytest.raises(NotQuasiHomogeneous, match=message) as caught:
        structural(Counting(function), "eval", torch.randn(5, 4)).with_fixed({"first.weight": 0.5}).solve()
    assert caught.value.layer == layer


@pytest.mark.parametrize(
    ("phi", "layer", "message"),
    [
        (lambda: nn.Sequential(nn.Linear(4, 3), nn.Softmax(dim=1)), "1", "degree 0"),
        (lambda: nn.Sequential(nn.Sequential(nn.Linear(4, 3), nn.PReLU())), "0.1", "prelu"),
        (lambda: nn.Sequential(nn.Linear(4, 4), Counting(torch.fft.fft)), "1.fft_fft", "rule"),
    ],
)
def test_layers_have_the_names_that_torch_fx_gives_them(phi: Callable[[], nn.Module], layer: str, message: str) -> None:
    with pytest.raises(NotQuasiHomogeneous, match=message) as caught:
        exported(phi(), "eval", torch.randn(5, 4)).solve()
    assert caught.value.layer == layer


def test_where_both_fail_one_line_says_why(capfd: pytest.CaptureFixture[str]) -> None:
    phi = Counting(lambda x: x if x.sum() > 0 else -x)
    with pytest.raises(BadInput) as caught:
        structural(phi, "eval", torch.randn(5, 4))
    message = str(caught.value)
    assert "Counting: " in message and "; torch.export: Could not guard on data" in message
    assert "\n" not in message and len(message) < 500
    assert capfd.readouterr() == ("", "")  # torch.export's own pages


def test_more_than_logits_is_refused() -> None:
    class Two(nn.Linear):
        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:  # type: ignore[override]
            return super().forward(x), x

    with pytest.raises(BadInput, match=r"\[M, C\].*tuple"):
        exported(Two(2, 2), "eval", torch.randn(3, 2))


def test_a_count_that_the_forward_pass_keeps_is_no_output() -> None:
    class Kept(nn.Linear):
        def __init__(self) -> None:
            super().__init__(4, 3)
            self.calls = nn.Buffer(torch.zeros(()))

        def forward(self, x: Tensor) -> Tensor:
            self.calls += len(x)
            return super().forward(x)

    phi = Kept()
    assert structural(phi, "eval", torch.randn(5, 4)).solve() == pytest.approx({"weight": 1, "bias": 1})
    assert phi.calls == 0


@pytest.mark.parametrize("mode", MODES)
def test_functions_that_normalise(mode: str) -> None:
    """F.batch_norm does as its `training` says, whatever the mode of BatchNorm layers is."""

    class Functions(nn.Module):
        def __init__(self, own: bool) -> None:
            super().__init__()
            self.first, self.last, self.own = nn.Linear(4, 6), nn.Linear(6, 3), own
            self.scale, self.shift = nn.Parameter(torch.rand(6)), nn.Parameter(torch.rand(6))

        def forward(self, x: Tensor) -> Tensor:
            x, stored = self.first(x), (torch.zeros(6), torch.ones(6))
            x = F.batch_norm(x, *stored, weight=self.scale, bias=self.shift, training=self.own)
            return self.last(F.group_norm(F.layer_norm(x, (6,)), 2))

    # λ_W2 = λ_b2 = 1, λ_γ = λ_β is free; by its own statistics λ_W1 and λ_b1 are too, else both are 0.
    for own, freedom in ((True, 3), (False, 1)):
        phi = Functions(own)
        assert [traced(phi, mode).nullity, exported(phi, mode, torch.randn(5, 4)).nullity] == [freedom, freedom]
