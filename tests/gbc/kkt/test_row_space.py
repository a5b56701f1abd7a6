"""The row space of layers that were solved by hand, against unfolded patches, by finite differences, and in training."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from gbc import losses
from gbc.classifiers.architectures import Classifier
from gbc.config import TrialConfig
from gbc.kkt.row_space import RowSpace, RowSpaces
from gbc.kkt.trial_classifier import ForwardPass
from gbc.kkt.weighted_losses import LOSSES
from gbc.metrics.scores import ReferenceSet
from gbc.optimisers import SGD
from gbc.training.trainer import Trainer

Make = Callable[..., Trainer]


def linear(rows: Tensor, biases: Tensor | None = None) -> nn.Linear:
    """A layer of these weights, in float64."""
    layer = nn.Linear(rows.shape[1], len(rows), bias=biases is not None).double()
    with torch.no_grad():
        layer.weight.copy_(rows)
        if biases is not None:
            layer.bias.copy_(biases)
    return layer


def normal(*shape: int) -> Tensor:
    return torch.randn(shape, dtype=torch.float64)


def outside(points: Tensor, values: Tensor) -> Tensor:
    """The part of each row of `values` [R, K] that lies outside the span of the rows of `points` [N, K]."""
    return values - values @ torch.linalg.pinv(points) @ points


def test_the_points_of_the_two_point_svm_cost_nothing() -> None:
    """Its weights are [[½, 0], [−½, 0]]: along e1 the share ε/(1 + ε) is outside, along e2 all, between them the mean."""
    space = RowSpace(linear(torch.tensor([[0.5, 0.0], [-0.5, 0.0]])), 1e-3, centred=False)
    points = torch.tensor([[1.0, 0.0], [-1.0, 0.0], [0.0, 3.0], [2.0, 2.0]], dtype=torch.float64)
    left = 1e-3 / (1 + 1e-3)
    torch.testing.assert_close(
        space.costs(points), torch.tensor([left, left, 1.0, (left + 1) / 2], dtype=torch.float64), rtol=1e-12, atol=1e-15
    )


def test_directions_count_by_their_singular_values() -> None:
    """diag(2, 1, 0): with ε = ¼ the weights w_j are 4/(4 + 1), 1/(1 + 1) and 0."""
    space = RowSpace(linear(torch.diag(torch.tensor([2.0, 1.0, 0.0]))), 0.25, centred=False)
    torch.testing.assert_close(
        space.costs(torch.eye(3).double()), torch.tensor([0.2, 0.5, 1.0], dtype=torch.float64), rtol=1e-12, atol=0
    )


def test_the_points_of_a_ridge_regression_cost_nothing() -> None:
    """W = YᵀX(XᵀX + λ)⁻¹ = Yᵀ(XXᵀ + λ)⁻¹X, whose rows are combinations of the points."""
    points = normal(3, 6)
    rows = torch.linalg.solve(points.T @ points + 0.1 * torch.eye(6).double(), points.T @ torch.eye(3).double()).T
    space = RowSpace(linear(rows), 1e-12, centred=False)
    assert space.costs(points).abs().max() < 1e-9  # ε times the square of the condition number, some hundreds
    orthogonal = outside(points, normal(4, 6))
    torch.testing.assert_close(space.costs(orthogonal), torch.ones(4).double(), rtol=1e-12, atol=0)


def test_with_biases_points_carry_a_one() -> None:
    """(2, 0, 1) and (0, 2, 1) lie inside; (−½, −½, 1) is orthogonal to both, although W spans the plane."""
    points = torch.tensor([[2.0, 0.0], [0.0, 2.0]], dtype=torch.float64)
    augmented = torch.cat([points, torch.ones(2, 1).double()], dim=1)
    rows = torch.tensor([[1.0, -2.0], [0.5, 3.0]], dtype=torch.float64) @ augmented
    space = RowSpace(linear(rows[:, :2], rows[:, 2]), 1e-12, centred=False)
    assert space.costs(points).abs().max() < 1e-9
    assert space.costs(torch.tensor([[-0.5, -0.5]]).double()).item() == pytest.approx(1, abs=1e-12)
    without = RowSpace(linear(rows[:, :2]), 1e-12, centred=False)
    assert without.costs(torch.tensor([[-0.5, -0.5]]).double()).item() < 1e-9


def test_before_batch_norm_differences_from_the_mean_count() -> None:
    """(±1, 1, 0) differ from their mean along e1; a layer with the row e1 explains that, and no biases take part."""
    points = torch.tensor([[1.0, 1.0, 0.0], [-1.0, 1.0, 0.0]], dtype=torch.float64)
    layer = linear(torch.tensor([[3.0, 0.0, 0.0]]), torch.tensor([7.0]))
    centred = RowSpace(layer, 1e-12, centred=True)
    assert centred.costs(points).abs().max() < 1e-9
    torch.testing.assert_close(centred.costs(points.roll(1, dims=1)), torch.ones(2).double(), rtol=1e-12, atol=0)
    as_they_are = RowSpace(linear(torch.tensor([[3.0, 0.0, 0.0]])), 1e-12, centred=False)
    torch.testing.assert_close(as_they_are.costs(points), torch.full((2,), 0.5).double(), rtol=1e-9, atol=0)


@pytest.mark.parametrize("kind", ["linear", "convolution"])
@pytest.mark.parametrize("normalised", [False, True])
def test_gradients_of_a_layer_are_combinations_of_its_inputs(kind: str, normalised: bool) -> None:
    """The fact behind it all: Σ δxᵀ and Σ δ; before BatchNorm Σ δ = 0 and what counts is x − x̄. Patches in place of x."""
    if kind == "linear":
        layer: Any = nn.Linear(40, 5).double()
        x = normal(6, 40)
        vectors, after = x, nn.BatchNorm1d(5) if normalised else nn.Identity()
    else:
        layer = nn.Conv2d(4, 5, 3, stride=2).double()
        x = normal(2, 4, 7, 5)  # 6 patches each, of 36 numbers
        vectors = nn.functional.unfold(x, 3, stride=2).transpose(1, 2).flatten(0, 1)
        after = nn.BatchNorm2d(5) if normalised else nn.Identity()
    after.double()(layer(x)).pow(3).sum().backward()
    rows = layer.weight.grad.flatten(1)
    if normalised:
        # BatchNorm's eps has no part in this: it takes the mean away exactly.
        assert layer.bias.grad.norm() < 1e-12 * rows.norm()
        vectors = vectors - vectors.mean(dim=0)
    else:
        rows = torch.cat([rows, layer.bias.grad[:, None]], dim=1)
        vectors = torch.cat([vectors, torch.ones(len(vectors), 1).double()], dim=1)
    assert outside(vectors, rows).norm() < 1e-12 * rows.norm()
    assert outside(vectors[:-2], rows).norm() > 1e-2 * rows.norm()  # it takes all of them


CONVOLUTIONS: list[dict[str, Any]] = [
    {},
    {"stride": 2},
    {"stride": (2, 1), "padding": (1, 2)},
    {"padding": 1, "padding_mode": "reflect"},
    {"padding": 2, "padding_mode": "circular", "stride": 2},
    {"padding": "same", "dilation": 2},
    {"dilation": 2, "padding": 3},
]


@pytest.mark.parametrize("options", CONVOLUTIONS)
@pytest.mark.parametrize("form", ["plain", "bias", "centred"])
def test_a_convolution_is_a_linear_layer_of_patches(options: dict[str, Any], form: str) -> None:
    """All patches of an image together, as a linear layer has them when they are written side by side."""
    layer = nn.Conv2d(2, 5, 3, bias=form != "plain", **options).double()
    inputs = normal(4, 2, 9, 8)
    padded = inputs
    if layer.padding != 0:
        around = layer._reversed_padding_repeated_twice
        padded = nn.functional.pad(inputs, around, mode="constant" if layer.padding_mode == "zeros" else layer.padding_mode)
    patches = nn.functional.unfold(padded, 3, dilation=layer.dilation, stride=layer.stride).transpose(1, 2)
    unfolded = linear(layer.weight.flatten(1), layer.bias)
    torch.testing.assert_close(unfolded(patches), layer(inputs).flatten(2).transpose(1, 2))  # the patches are right
    costs_of_layer = RowSpace(layer, 0.1, form == "centred").costs(inputs)
    assert costs_of_layer.min() > 0.1 and costs_of_layer.max() < 0.99
    torch.testing.assert_close(costs_of_layer, RowSpace(unfolded, 0.1, form == "centred").costs(patches), rtol=0, atol=1e-12)
    rows, vectors = layer.weight.detach().flatten(1), patches
    if form == "bias":
        assert layer.bias is not None
        rows = torch.cat([rows, layer.bias.detach()[:, None]], dim=1)
        vectors = torch.cat([patches, torch.ones_like(patches[..., :1])], dim=2)
    elif form == "centred":
        vectors = patches - patches.mean(dim=(0, 1))
    _, values, directions = torch.linalg.svd(rows, full_matrices=False)
    inside = (vectors @ directions.T).square() @ (values**2 / (values**2 + 0.1 * values[0] ** 2))
    torch.testing.assert_close(costs_of_layer, 1 - inside.sum(dim=1) / vectors.square().sum(dim=(1, 2)), rtol=0, atol=1e-12)


@pytest.mark.parametrize("eps", [1.0, 1e-3])
def test_costs_are_shares_of_energy(eps: float) -> None:
    """Against xᵀ(I − VwVᵀ)x/‖x‖² with V complete."""
    rows, x = normal(4, 9) * torch.tensor([[1.0], [0.3], [0.1], [0.01]]), normal(20, 9)
    _, values, directions = torch.linalg.svd(rows, full_matrices=True)
    weights = torch.zeros(9).double()
    weights[:4] = values**2 / (values**2 + eps * values[0] ** 2)
    expected = ((x @ directions.T).square() * (1 - weights)).sum(dim=1) / x.square().sum(dim=1)
    costs_of_rows = RowSpace(linear(rows), eps, centred=False).costs(x)
    torch.testing.assert_close(costs_of_rows, expected, rtol=1e-12, atol=0)
    assert costs_of_rows.min() > 0 and costs_of_rows.max() < 1


def _layer(form: str) -> tuple[nn.Linear | nn.Conv2d, Tensor]:
    if "convolution" in form:
        return nn.Conv2d(2, 3, 3, stride=2, padding=1, bias="bias" in form).double(), normal(3, 2, 5, 4)
    return nn.Linear(7, 3, bias="bias" in form).double(), normal(4, 7)


@pytest.mark.parametrize("form", ["linear", "bias", "centred", "convolution", "convolution, bias", "convolution, centred"])
@pytest.mark.parametrize("level", [0.0, 0.4])
def test_gradients_are_right(form: str, level: float) -> None:
    layer, x = _layer(form)
    space = RowSpace(layer, 0.1, "centred" in form)
    assert (space.costs(x) > level).any()
    assert torch.autograd.gradcheck(lambda x: losses.row_space(space.costs(x), level), x.requires_grad_())


def test_what_costs_less_than_the_level_is_free() -> None:
    """mean(0, 0, ½ − 0.3, 1 − 0.3), and no gradient of the two that are below."""
    costs = torch.tensor([0.0, 0.25, 0.5, 1.0], requires_grad=True)
    loss = losses.row_space(costs, 0.3)
    assert loss.item() == pytest.approx(0.9 / 4)
    (gradient,) = torch.autograd.grad(loss, costs)
    assert gradient.tolist() == [0.0, 0.0, 0.25, 0.25]
    assert losses.row_space(costs, 0.0).item() == pytest.approx(1.75 / 4)


def test_images_below_the_level_have_no_gradient() -> None:
    layer, x = _layer("bias")
    space = RowSpace(layer, 0.1, centred=False)
    x.requires_grad_()
    costs = space.costs(x)
    level = costs.detach().sort().values[1:3].mean().item()  # two are below
    (gradient,) = torch.autograd.grad(losses.row_space(costs, level), x)
    assert ((gradient.norm(dim=1) > 0) == (costs > level)).all()


def test_a_layer_that_weight_decay_took_to_0_explains_nothing() -> None:
    space = RowSpace(linear(torch.zeros(3, 5)), 1e-3, centred=False)
    x = normal(2, 5).requires_grad_()
    costs = space.costs(x)
    assert costs.tolist() == [1, 1]
    assert torch.autograd.grad(costs.sum(), x)[0].norm() == 0


@pytest.mark.parametrize("centred", [False, True])
@pytest.mark.parametrize("shape", [(12,), (1, 6, 6)])
@pytest.mark.parametrize("spread", [0.0, 1e-6, 1e-5, 1e-4, 1e-3])
def test_a_collapsed_batch_costs_no_less_than_0_and_no_more_than_1(
    centred: bool, shape: tuple[int, ...], spread: float
) -> None:
    """In float32, where the energy around the mean of equal images is rounding, and black ones have none."""
    layer: nn.Linear | nn.Conv2d = nn.Linear(12, 8) if len(shape) == 1 else nn.Conv2d(1, 8, 3, padding=1)
    space = RowSpace(layer, 1e-3, centred)
    for image in (torch.rand(shape), torch.ones(shape), torch.zeros(shape)):
        x = (image + spread * torch.randn(32, *shape)).requires_grad_()
        costs = space.costs(x)
        # Of the energy that counts, at least 1e-5 of the whole, float32 knows a per cent.
        assert costs.min() > -0.05 and costs.max() < 1.05
        (gradient,) = torch.autograd.grad(costs.sum(), x)
        assert gradient.isfinite().all()
        if centred and spread == 0 and len(shape) == 1:
            torch.testing.assert_close(costs, torch.ones(32), rtol=0, atol=1e-3)


def network(normalised: bool = False) -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(30, 12), nn.BatchNorm1d(12) if normalised else nn.Identity(), nn.ReLU(), nn.Linear(12, 3)
    ).double()  # fmt: skip


def descend(module: nn.Module, x: Tensor, steps: int, lr: float, decay: float) -> None:
    """Full-batch gradient descent with weight decay on three classes in turn."""
    optimiser = SGD(module.parameters(), lr=lr, weight_decay=decay)
    for _ in range(steps):
        optimiser.zero_grad()
        losses.cross_entropy(module(x), torch.arange(len(x)) % 3).backward()
        optimiser.step()


@pytest.mark.parametrize("normalised", [False, True])
@pytest.mark.parametrize("decay", [0.0, 0.02])
def test_training_adds_combinations_of_the_inputs_to_what_is_left_of_the_start(normalised: bool, decay: float) -> None:
    """W_T − κW_0 with κ = (1 − lr·wd)^T, to rounding; stationarity is not needed."""
    x, module = normal(8, 30), network(normalised)
    layer = module[0]
    assert isinstance(layer, nn.Linear)
    start = torch.cat([layer.weight, layer.bias[:, None]], dim=1).detach().clone()
    descend(module, x, 300, 0.1, decay)
    moved = torch.cat([layer.weight, layer.bias[:, None]], dim=1).detach() - (1 - 0.1 * decay) ** 300 * start
    vectors = torch.cat([x, torch.ones(8, 1).double()], dim=1)
    if normalised:
        moved, vectors = moved[:, :-1], x - x.mean(dim=0)
    assert moved.norm() > 0.1  # it has learned
    assert outside(vectors, moved).norm() < 1e-10 * moved.norm()


def costs(module: nn.Module, *batches: Tensor) -> list[Tensor]:
    spaces, costs_of_batches = RowSpaces(module.eval(), batches[0], 1e-6), []
    for batch in batches:
        module(batch)
        costs_of_batches.append(spaces.costs().detach())
    return costs_of_batches


@pytest.mark.parametrize(("normalised", "start", "decay"), [(False, 1e-4, 0.0), (False, 1.0, 0.05), (True, 1.0, 0.05)])
def test_training_points_cost_less_than_noise_that_was_held_out(normalised: bool, start: float, decay: float) -> None:
    """After a tiny start, or a decay of e^(−0.2·0.05·1000); before, to a random layer, they are as far outside as noise."""
    x, noise, module = normal(8, 30), normal(8, 30), network(normalised)
    with torch.no_grad():
        module[0].weight.mul_(start)  # type: ignore[operator, union-attr]
    seen, held_out = costs(module, x, noise)
    assert seen.mean() > 0.8 * held_out.mean()
    descend(module.train(), x, 1000, 0.2, decay)
    seen, held_out = costs(module, x, noise)
    assert seen.mean() < 0.85 * held_out.mean()


def test_the_first_layer_or_the_mean_over_all(classifier: Classifier) -> None:
    module, x = classifier.module, torch.rand(5, 1, 28, 28)
    first, every = RowSpaces(module, x, 1e-3), RowSpaces(module, x, 1e-3, "all")
    assert list(first.spaces) == ["1"] and list(every.spaces) == ["1", "4", "7"]
    assert [space.centred for space in every.spaces.values()] == [True, True, False]
    module(x)
    inputs = module[:4](x)  # type: ignore[index]
    torch.testing.assert_close(first.costs(), first.spaces["1"].costs(x.flatten(1)))
    module(x)
    later = [every.spaces["4"].costs(inputs), every.spaces["7"].costs(module[4:7](inputs))]  # type: ignore[index]
    module(x)
    torch.testing.assert_close(every.costs(), torch.stack([first.costs(), *later]).mean(dim=0))


@pytest.fixture
def fresh(classifier: Classifier, settings: TrialConfig, reference: ReferenceSet) -> Make:
    def make(**changes: Any) -> Trainer:
        return Trainer(settings.updated(changes, "test"), [classifier], reference)

    return make


def steps_of(trainer: Trainer) -> list[dict[str, float]]:
    return [{k: v for k, v in report.metrics.items() if not k.startswith("time/")} for report in trainer.run()]


def test_without_weight_nothing_is_watched_and_every_number_is_the_same(fresh: Make, classifier: Classifier) -> None:
    layer = classifier.module[1]  # type: ignore[index]
    plain = steps_of(fresh())
    other = {"row_space_eps": 0.5, "row_space_level": 0.3, "row_space_layers": "all"}
    assert steps_of(fresh(row_space_weight=0.0, **other)) == plain
    assert steps_of(fresh(row_space_weight=1.0, **{"weights": {"row_space": 0.0}})) == plain
    assert not layer._forward_pre_hooks
    watched = fresh(row_space_weight=0.5, **other)
    assert layer._forward_pre_hooks and watched.classifiers[0].row_spaces is not None
    watched_steps = steps_of(watched)
    assert watched_steps[0]["loss/row_space"] > 0 and watched_steps[-1]["loss/tv"] != plain[-1]["loss/tv"]


def test_a_batch_costs_what_its_images_cost(fresh: Make) -> None:
    run = fresh(row_space_weight=1.0, row_space_level=0.05)
    (classifier,), batch = run.classifiers, run.batches.sample()
    seen = ForwardPass(classifier, run.multipliers, batch.images, batch.labels)
    assert classifier.row_spaces is not None
    costs = classifier.row_spaces.spaces["1"].costs(batch.images.flatten(1))
    torch.testing.assert_close(LOSSES["row_space"].of_classifier(seen), (costs - 0.05).clamp_min(0).mean())


def test_training_brings_samples_into_the_row_space(fresh: Make) -> None:
    alone = {name: 0.0 for name in ("stationarity_weight", "beta", "tv_weight", "bn_weight", "ce_weight")}
    run = {"steps": 120, "report_every": 60, "lr": 1e-2, "row_space_eps": 0.1}
    first, last = steps_of(fresh(**alone, **run, row_space_weight=1.0))
    assert last["loss/row_space"] < 0.8 * first["loss/row_space"]
    level = math.ceil(first["loss/row_space"] * 100) / 100
    assert steps_of(fresh(**alone, **run, row_space_weight=1.0, row_space_level=level))[-1]["loss/row_space"] < 0.02
