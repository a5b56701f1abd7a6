"""Losses against cases solved by hand, against the definition sample by sample, and gradcheck in float64."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from gbc import losses


def linear(weight: list[list[float]]) -> tuple[nn.Linear, list[Tensor]]:
    layer = nn.Linear(2, len(weight), bias=False).double()
    with torch.no_grad():
        layer.weight.copy_(torch.tensor(weight))
    return layer, list(layer.parameters())


def test_the_two_point_svm_is_a_kkt_point() -> None:
    """Points ±e1, logits W x. min ½‖W‖² with margins ≥ 1 has W = [[¼, 0], [−¼, 0]]·2: margins 1, multipliers ¼ each."""
    phi, zeta = linear([[0.5, 0.0], [-0.5, 0.0]])
    points = torch.tensor([[1.0, 0.0], [-1.0, 0.0]], dtype=torch.float64)
    labels = torch.tensor([0, 1])
    logits = phi(points)
    assert losses.margins(logits, labels).tolist() == [1.0, 1.0]

    # Stationarity, Eq. (2a): W = Σ_i μ_i (∇Φ_y − ∇Φ_c) = μ [[2, 0], [−2, 0]], so μ = ¼ of each point.
    multipliers = torch.tensor([[0.0, 0.25], [0.25, 0.0]], dtype=torch.float64)
    alpha = torch.zeros((), dtype=torch.float64)
    # A linear map is homogeneous of degree 1 with every λ = 1; N = M = 2 on both sides.
    target = losses.Target(zeta, [1.0], samples=2).at(alpha)
    pulled = losses.margin_gradient(logits, labels, multipliers, zeta)
    assert losses.stationarity(target, pulled).item() == 0.0
    assert losses.relative_residual(target, pulled).item() == 0.0
    # Eq. (6) with α = 0: margins equal e^{−α} = 1, complementary slackness holds.
    assert losses.duality(losses.margins(logits, labels), alpha, delta=0.1).item() == 0.0


def test_the_two_point_svm_is_reconstructed() -> None:
    """λ = ¼ of both points gives ζ itself; without the second the pull is half of it, so a quarter of ‖ζ‖² is missing."""
    phi, zeta = linear([[0.5, 0.0], [-0.5, 0.0]])
    points = torch.tensor([[1.0, 0.0], [-1.0, 0.0]], dtype=torch.float64)
    labels = torch.tensor([0, 1])
    multipliers = torch.tensor([[0.0, 0.25], [0.25, 0.0]], dtype=torch.float64)
    pulled = losses.margin_gradient(phi(points), labels, multipliers, zeta)
    assert losses.reconstruction(zeta, pulled, 2).item() == 0.0
    alone = losses.margin_gradient(phi(points[:1]), labels[:1], multipliers[:1], zeta)
    assert losses.reconstruction(zeta, alone, 1).item() == 0.25


def test_the_sign_is_that_of_equation_5() -> None:
    """The same point would be as far from stationary as it can be with the sign of Eq. (2a) as printed."""
    phi, zeta = linear([[0.5, 0.0], [-0.5, 0.0]])
    points = torch.tensor([[1.0, 0.0], [-1.0, 0.0]], dtype=torch.float64)
    multipliers = torch.full((2, 2), 0.25, dtype=torch.float64)
    pulled = losses.margin_gradient(phi(points), torch.tensor([0, 1]), multipliers, zeta)
    assert losses.inner_product(pulled, zeta) > 0


def test_one_reverse_pass_is_the_sum_over_samples_and_classes() -> None:
    torch.manual_seed(0)
    phi = nn.Sequential(nn.Linear(3, 5), nn.ReLU(), nn.Linear(5, 4)).double()
    zeta = list(phi.parameters())
    x, labels = torch.randn(6, 3, dtype=torch.float64), torch.tensor([0, 1, 2, 3, 0, 1])
    multipliers = torch.rand(6, 4, dtype=torch.float64)

    expected = torch.zeros(sum(p.numel() for p in zeta), dtype=torch.float64)
    for i, label in enumerate(labels):
        gradients = [torch.autograd.grad(phi(x[i])[c], zeta) for c in range(4)]
        flat = [torch.cat([g.flatten() for g in gradient]) for gradient in gradients]
        for c in range(4):
            if c != label:
                expected += multipliers[i, c] * (flat[label] - flat[c])
    pulled = losses.margin_gradient(phi(x), labels, multipliers, zeta)
    torch.testing.assert_close(
        torch.cat([part.flatten() for part in pulled]), expected / 6, rtol=1e-12, atol=1e-14
    )  # float64 sums in another order


def test_the_target_keeps_only_the_largest_degrees() -> None:
    """Λ̄ = Λ̃ e^{α(2Λ − I)}: with λ_max = 1 and α = log 2 the kept tensors double, the others vanish."""
    zeta = [torch.tensor([3.0, 1.0]), torch.tensor([5.0]), torch.tensor([7.0])]
    first, second, third = losses.Target(zeta, [1.0, 0.5, 1.0], samples=10).at(torch.tensor(math.log(2)))
    torch.testing.assert_close((first, third), (torch.tensor([0.6, 0.2]), torch.tensor([1.4])))
    assert second is None
    # λ_max = ½ makes the factor e^0.
    target = losses.Target(zeta, [0.5, 0.5, 0.5], samples=1).at(torch.tensor(5.0))
    torch.testing.assert_close(target, [0.5 * part for part in zeta])


def test_degrees_that_differ_by_rounding_are_equal() -> None:
    """A linear system leaves ⅓ and ⅓ + 6e-17: both are the largest."""
    target = losses.Target([torch.ones(1), torch.ones(1)], [1 / 3, 1 / 3 + 6e-17], samples=1).at_zero
    assert all(part is not None for part in target)


def test_a_tensor_without_a_target_counts_as_one_whose_target_is_zero() -> None:
    torch.manual_seed(0)
    pulled, other = [torch.randn(3), torch.randn(2, 2)], [torch.randn(3), torch.randn(2, 2)]
    target = torch.randn(3)
    left_out, written = [target, None], [target, torch.zeros(2, 2)]
    torch.testing.assert_close(losses.stationarity(left_out, pulled), losses.stationarity(written, pulled))
    flat = torch.cat([part.flatten() for part in written]), torch.cat([part.flatten() for part in pulled])
    torch.testing.assert_close(losses.stationarity(left_out, pulled), (flat[0] - flat[1]).norm())
    torch.testing.assert_close(losses.relative_residual(left_out, pulled), (flat[0] - flat[1]).norm() / target.norm())
    torch.testing.assert_close(
        losses.stationarity_halves(left_out, pulled, other), losses.stationarity_halves(written, pulled, other)
    )


def test_margins_by_hand() -> None:
    logits = torch.tensor([[1.0, 4.0, 2.0], [0.0, 1.0, 5.0]])
    assert losses.margins(logits, torch.tensor([1, 0])).tolist() == [2.0, -5.0]


def test_the_exponential_loss_and_scalar_margins_by_hand() -> None:
    """Φ = log 2 for class 1 and −log 4 for class 0: e^{−log 2} = ½ and e^{−log 4} = ¼; wrong labels turn them over."""
    outputs = torch.tensor([[math.log(2)], [-math.log(4)]])
    labels = torch.tensor([1, 0])
    assert losses.signs(labels).tolist() == [1, -1]
    assert losses.exponential(outputs, labels).item() == pytest.approx(0.375)
    assert losses.exponential(outputs, 1 - labels).item() == pytest.approx(3.0)
    torch.testing.assert_close(losses.margins(outputs, labels), torch.tensor([math.log(2), math.log(4)]))
    torch.testing.assert_close(losses.margins(outputs, 1 - labels), -torch.tensor([math.log(2), math.log(4)]))


def test_the_two_point_svm_is_stationary_under_the_exponential_loss() -> None:
    """Points ±e1, Φ = w·x. mean e^{−w₁} + wd/2·‖w‖² is least where e^{−w₁} = wd·w₁: w₁ = 1 for wd = 1/e."""
    phi, (weight,) = linear([[1.0, 0.0]])
    points = torch.tensor([[1.0, 0.0], [-1.0, 0.0]], dtype=torch.float64)
    (gradient,) = torch.autograd.grad(losses.exponential(phi(points), torch.tensor([1, 0])), weight)
    torch.testing.assert_close(gradient, -weight.detach() / math.e, rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize(("margin", "loss"), [(1.0, 0.0), (1.1, 0.0), (1.35, 0.25), (0.25, 0.75), (-2.0, 3.0)])
def test_duality_is_u_shaped(margin: float, loss: float) -> None:
    """Fig. 2: zero between e^{−α} and e^{−α} + δ, slope one on either side; α = 0, δ = 0.1."""
    loss_value = losses.duality(torch.tensor([margin]), torch.zeros(()), delta=0.1)
    assert loss_value.item() == pytest.approx(loss, abs=1e-6)


def test_total_variation_by_hand() -> None:
    """One step of height 1 between two rows of three: mean over 3 vertical and 4 horizontal differences."""
    image = torch.tensor([[0.0, 0.0, 0.0], [1.0, 1.0, 1.0]])[None, None]
    assert losses.total_variation(image).item() == 1.0
    image = torch.tensor([[0.0, 1.0, 0.0], [0.0, 1.0, 0.0]])[None, None]
    assert losses.total_variation(image).item() == 1.0
    assert losses.total_variation(torch.full((2, 3, 4, 4), 0.3)).item() == 0.0


def test_the_border_loss_by_hand() -> None:
    """A bright pixel in the middle is free, at the border it is one of 4·4, and in a corner two of them."""
    image = torch.zeros(3, 1, 4, 4)
    image[0, 0, 1, 2], image[1, 0, 0, 1], image[2, 0, 3, 3] = 1, 1, 1
    assert [losses.border(pixels[None]).item() for pixels in image] == [0, 1 / 16, 2 / 16]


def test_batch_norm_statistics_by_hand() -> None:
    """Means off by one stored deviation: 1. Deviation doubled: (2σ − σ)²/σ² = 1. Both agree: 0."""
    zeros, ones = torch.zeros(2), torch.ones(2)
    assert losses.batch_norm_statistics([(zeros, ones, zeros, ones)]).item() == pytest.approx(0, abs=1e-6)
    assert losses.batch_norm_statistics([(3 * ones, 9 * ones, zeros, 9 * ones)]).item() == pytest.approx(1, rel=1e-4)
    assert losses.batch_norm_statistics([(zeros, 4 * ones, zeros, ones)]).item() == pytest.approx(1, rel=1e-4)


def test_batch_norm_statistics_do_not_depend_on_the_scale_of_the_layer() -> None:
    mean, variance, stored_mean, stored_variance = torch.rand(4, 8) + 1
    plain = losses.batch_norm_statistics([(mean, variance, stored_mean, stored_variance)])
    scaled = losses.batch_norm_statistics([(10 * mean, 100 * variance, 10 * stored_mean, 100 * stored_variance)])
    torch.testing.assert_close(plain, scaled, rtol=1e-4, atol=0)  # the stabiliser 1e-5 is not scaled


def test_the_half_batch_estimate_is_unbiased_where_the_norm_is_not() -> None:
    """Pulls with mean t: ρ² is 0. The norm sees the noise, the product of two independent halves does not."""
    torch.manual_seed(0)
    target = torch.randn(50)
    draws = target + torch.randn(4000, 2, 50)
    halves = torch.stack([losses.stationarity_halves([target], [a], [b]) for a, b in draws])
    plain = torch.stack([losses.relative_residual([target], [(a + b) / 2]).square() for a, b in draws])
    error = halves.std() / 4000**0.5
    assert halves.mean().abs() < 4 * error  # four standard errors
    assert plain.mean() == pytest.approx(0.5 * 50 / target.square().sum().item(), rel=0.05)


def test_the_closed_form_is_zero_where_gradient_descent_stands_still() -> None:
    """One parameter w, one sample: CE = log(1 + e^{−w}), so wd·w = σ(−w) has a solution and the loss vanishes there."""
    w = torch.tensor([1.0], dtype=torch.float64, requires_grad=True)
    logits = torch.stack([torch.zeros(1).double(), w], dim=1)
    decay = torch.sigmoid(-w.detach()) / w.detach()
    (pulled,) = losses.descent(logits, torch.tensor([1]), [w])
    torch.testing.assert_close(pulled, torch.sigmoid(-w))
    assert losses.closed_form([decay * w.detach()], [pulled]).item() == pytest.approx(0, abs=1e-12)


def test_the_closed_form_by_hand() -> None:
    """Half the size: 0.3·log 2. Opposite: 1 − cos = 2 and a clamped size. Right angles: 1 and a clamped size."""
    target = torch.tensor([3.0, 4.0])
    assert losses.closed_form([target], [0.5 * target]).item() == pytest.approx(0.3 * math.log(2), rel=1e-5)
    clamped = 0.3 * -math.log(1e-6)
    assert losses.closed_form([target], [-target]).item() == pytest.approx(2 + clamped, rel=1e-5)
    assert losses.closed_form([target], [torch.tensor([4.0, -3.0])]).item() == pytest.approx(1 + clamped, rel=1e-5)
    both = losses.closed_form([target, target], [target, 0.5 * target]).item()
    assert both == pytest.approx(0.15 * math.log(2), rel=1e-5)


@pytest.mark.parametrize(("targets", "value"), [([[0.0, 0.0], [3.0, 4.0]], 0.3 * math.log(2)), ([[0.0, 0.0]] * 2, 0.0)])
def test_the_closed_form_leaves_out_tensors_that_are_all_zeros(targets: list[list[float]], value: float) -> None:
    """A bias or a γ that was never trained has no direction. The gradient is that of the others, and finite."""
    pulls = [torch.tensor([1.5, 2.0], requires_grad=True) for _ in targets]
    loss = losses.closed_form([torch.tensor(target) for target in targets], pulls)
    assert loss.item() == pytest.approx(value, rel=1e-5)
    slopes = torch.autograd.grad(loss, pulls)
    assert all(slope.isfinite().all() for slope in slopes) and not slopes[0].any()


def test_diversity_by_hand() -> None:
    """Two classes in turn: samples 0, 2 and 1, 3 are compared. Equal images cost 10, images that move as the noise about 1."""
    noise = torch.tensor([[0.0], [0.0], [1.0], [1.0]])
    equal = torch.zeros(4, 1, 2, 2)
    assert losses.diversity(noise, equal, classes=2).item() == pytest.approx(10)
    moving = noise.view(4, 1, 1, 1).expand(4, 1, 2, 2)
    assert losses.diversity(noise, moving, classes=2).item() == pytest.approx(1 / 1.1)
    images = torch.rand(4, 1, 2, 2).requires_grad_()
    same = losses.diversity(torch.ones(4, 3), images.detach()[:1].expand(4, 1, 2, 2) + 0 * images, classes=2)
    same.backward()
    assert same.item() == 0 and images.grad is not None and images.grad.isfinite().all()  # a latent drawn twice


def test_contrast_by_hand() -> None:
    """log(1 + Σ e^{(s − 1)/τ}): equal features cost log(1 + their number), orthogonal ones little; lengths do not count."""
    apart = torch.tensor([[2.0, 0.0], [0.0, 0.5]])
    none = torch.zeros(0, 2)
    assert losses.contrast(apart, none, 0.5).item() == pytest.approx(math.log(1 + math.exp(-2)))
    assert losses.contrast(apart[:1], torch.tensor([[7.0, 0.0], [0.0, 0.0]]), 0.5).item() == pytest.approx(
        math.log(2 + math.exp(-2))
    )
    assert losses.contrast(torch.ones(4, 2), none).item() == pytest.approx(math.log(4))


def test_disagreements_by_hand() -> None:
    sure = torch.tensor([[50.0, 0.0], [0.0, 50.0]], dtype=torch.float64)
    undecided = torch.zeros(2, 2, dtype=torch.float64)
    assert losses.logit_distance(sure, undecided).item() == 25.0
    assert losses.jensen_shannon(sure, sure, 2.0).item() == pytest.approx(0.0, abs=1e-12)
    assert losses.jensen_shannon(sure, sure.flip(1), 1.0).item() == pytest.approx(math.log(2))
    # m = (¾, ¼) between (1, 0) and (½, ½): ½ log(4/3) + ½ (½ log(2/3) + ½ log 2).
    middle = math.log(4 / 3) / 2 + (math.log(2 / 3) + math.log(2)) / 4
    assert losses.jensen_shannon(sure, undecided, 1.0).item() == pytest.approx(middle)
    # Equal probabilities at the temperature, not at 1.
    assert losses.distillation((sure / 25).softmax(dim=1), sure, 25.0).item() == pytest.approx(0.0, abs=1e-12)
    # KL((½, ½) ‖ (p, 1 − p)) = −½ log 4p(1 − p) with p = σ(2), times τ² = 4.
    share = 1 / (1 + math.exp(-2))
    expected = -2 * math.log(4 * share * (1 - share))
    assert losses.distillation(undecided + 0.5, 4 * sure / 50, 2.0).item() == pytest.approx(expected)


def test_the_losses_of_dafl_by_hand() -> None:
    logits = torch.tensor([[math.log(3), 0.0], [0.0, math.log(3)]], dtype=torch.float64)
    assert losses.one_hot_loss(logits).item() == pytest.approx(-math.log(3 / 4))
    assert losses.information_entropy(logits).item() == pytest.approx(-math.log(2) / 2)  # both classes as often
    one_class = torch.tensor([[1000.0, 0.0]], dtype=torch.float64)
    assert losses.information_entropy(one_class).item() == 0.0 > losses.information_entropy(logits).item()
    assert losses.activation(torch.tensor([[1.0, -2.0], [3.0, 0.0]])).item() == -1.5


def _double(*shape: int) -> Tensor:
    return torch.randn(shape, dtype=torch.float64, requires_grad=True)


def _positive(*shape: int) -> Tensor:
    return (torch.rand(*shape, dtype=torch.float64) + 0.5).requires_grad_()


LABELS = torch.tensor([0, 2, 1])
STORED_MEAN = torch.linspace(-1, 1, 5).double()
TARGET = torch.linspace(1, 2, 5).double()
STORED_VARIANCE = torch.linspace(0.5, 2, 5).double()


@pytest.mark.parametrize(
    ("loss", "inputs"),
    [
        (lambda a, b, c: losses.stationarity([a, None], [b, c]), lambda: (_double(7), _double(7), _double(3))),
        (lambda a, b, c: losses.relative_residual([a, None], [b, c]), lambda: (_double(7), _double(7), _double(3))),
        (lambda logits, mu: losses.lagrangian(logits, LABELS, mu), lambda: (_double(3, 4), _positive(3, 4))),
        (lambda logits, alpha: losses.duality(losses.margins(logits, LABELS), alpha, 0.1), lambda: (_double(3, 4), _double())),
        (losses.total_variation, lambda: (_double(2, 1, 4, 4),)),
        (losses.border, lambda: (_double(2, 1, 4, 4),)),
        (lambda m, v: losses.batch_norm_statistics([(m, v, STORED_MEAN, STORED_VARIANCE)]), lambda: (_double(5), _positive(5))),
        (lambda logits: losses.cross_entropy(logits, LABELS), lambda: (_double(3, 4),)),
        (lambda a, b, c: losses.stationarity_halves([a], [b], [c]), lambda: (_double(7), _double(7), _double(7))),
        (
            lambda a, b: losses.closed_form([TARGET, TARGET.flip(0)], [TARGET + 0.3 * a, TARGET + 0.3 * b]),
            lambda: (_double(5), _double(5)),
        ),
        (lambda noise, images: losses.diversity(noise, images, 2), lambda: (_double(6, 3), _double(6, 1, 2, 2))),
        (losses.contrast, lambda: (_double(4, 3), _double(2, 3))),
        (
            lambda a, b: losses.reconstruction([TARGET, TARGET.flip(0)], [a, b], 3),
            lambda: (_double(5), _double(5)),
        ),
        (lambda outputs: losses.exponential(outputs, torch.tensor([0, 1, 1])), lambda: (_double(3, 1),)),
        (losses.logit_distance, lambda: (_double(3, 4), _double(3, 4))),
        (lambda teacher, student: losses.jensen_shannon(teacher, student, 2.0), lambda: (_double(3, 4), _double(3, 4))),
        (lambda student: losses.distillation(torch.eye(4).double()[:3], student, 2.0), lambda: (_double(3, 4),)),
        (losses.one_hot_loss, lambda: (_double(3, 4),)),
        (losses.information_entropy, lambda: (_double(3, 4),)),
        (losses.activation, lambda: (_double(3, 4),)),
        (
            lambda alpha: losses.Target(list(torch.eye(3).double()), [1.0, 0.5, 1.0], 3).at(alpha)[0],
            lambda: (_double(),),
        ),
    ],
)
def test_gradients_are_right(loss: object, inputs: object) -> None:
    torch.manual_seed(1)
    assert torch.autograd.gradcheck(loss, inputs())  # type: ignore[operator]


def test_the_pull_can_be_differentiated_again() -> None:
    """The generator is trained through ∇_ζ S, so its gradient with respect to the images must be right."""
    torch.manual_seed(0)
    phi = nn.Sequential(nn.Linear(3, 5), nn.BatchNorm1d(5), nn.Tanh(), nn.Linear(5, 4)).double()
    multipliers = torch.rand(6, 4, dtype=torch.float64)
    labels = torch.tensor([0, 1, 2, 3, 0, 1])

    def residual(x: Tensor) -> Tensor:
        return losses.norm(losses.margin_gradient(phi(x), labels, multipliers, list(phi.parameters())))

    assert torch.autograd.gradcheck(residual, _double(6, 3))
