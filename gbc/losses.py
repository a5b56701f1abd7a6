"""The losses: functions of tensors that return a scalar, each with its equation number.

Notation, as in the paper: logits Φ(x; ζ) are [M, C], labels y are [M], multipliers μ are [M, C] and not negative. A vector of
the shape of the parameters ζ is a sequence of tensors, one for each parameter tensor: a flat copy would cost as much as the
losses. Signs follow Eq. (5); Eqs. (2a), (3a) and (4) print them with the opposite sign.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Final

import torch
from torch import Tensor


def lagrangian(logits: Tensor, labels: Tensor, multipliers: Tensor) -> Tensor:
    """S = (1/M) Σ_i Σ_{c≠y_i} μ_ic (Φ_{y_i}(x_i) − Φ_c(x_i)), whose ζ-gradient is the sum in Eq. (5).

    μ does not depend on ζ, so one reverse pass gives the sum, in which the equation has a gradient for each sample and class.
    The term c = y_i is zero by itself.
    """
    own = logits.gather(1, labels[:, None])  # [M, 1]
    return (multipliers * (own - logits)).sum(dim=1).mean()


def margin_gradient(logits: Tensor, labels: Tensor, multipliers: Tensor, parameters: Sequence[Tensor]) -> tuple[Tensor, ...]:
    """∇_ζ S, by parameter tensor: the right-hand side of Eq. (4), called the pull. Differentiable (second order)."""
    return torch.autograd.grad(lagrangian(logits, labels, multipliers), parameters, create_graph=True, materialize_grads=True)


Parts = Sequence[Tensor | None]
"""A vector of the shape of ζ, by parameter tensor; None stands for 0."""


class Target:
    """(1/N) Λ̄ζ with Λ̄ = Λ̃ e^{α(2Λ − I)}, Eqs. (3a) and (4): the target of the pull as a function of α.

    Λ̃ keeps the largest degree and sets the others to 0: parameter tensors of lower degree are None and cost nothing.
    """

    def __init__(self, parameters: Sequence[Tensor], degrees: Sequence[float], samples: int) -> None:
        """`degrees` is the diagonal of Λ, a λ for each parameter tensor; `samples` is N."""
        # Degrees from a linear system may differ by rounding; in the precision of ζ they are equal.
        rounded = torch.tensor(degrees, dtype=parameters[0].dtype).tolist()
        self.largest = max(rounded)
        self.at_zero: list[Tensor | None] = [
            degree * parameter.detach() / samples if degree == self.largest else None
            for degree, parameter in zip(rounded, parameters, strict=True)
        ]
        """(1/N) Λ̃ζ, the target at α = 0."""

    def at(self, alpha: Tensor) -> list[Tensor | None]:
        """The target for the scalar α, by parameter tensor; differentiable."""
        growth = torch.exp(alpha * (2 * self.largest - 1))
        return [None if part is None else growth * part for part in self.at_zero]


def inner_product(first: Parts, second: Parts) -> Tensor:
    """⟨first, second⟩ over all parameter tensors, a scalar."""
    pairs = [(a, b) for a, b in zip(first, second, strict=True) if a is not None and b is not None]
    return torch.stack([a.flatten() @ b.flatten() for a, b in pairs]).sum()


def fitted_scale(target: Parts, pulled: Parts) -> Tensor:
    """The factor that brings the pull nearest to the target; if μ ≥ 0 forbids it, a small one above 0."""
    fitted = inner_product(target, pulled) / inner_product(pulled, pulled)
    return torch.where(fitted > 0, fitted, 0.1 * norm(target) / norm(pulled))


def norm(parts: Parts) -> Tensor:
    """The Euclidean norm over all parameter tensors, a scalar."""
    norms = [torch.linalg.vector_norm(part) for part in parts if part is not None]
    return torch.linalg.vector_norm(torch.stack(norms))


def residual(target: Parts, pulled: Sequence[Tensor]) -> list[Tensor]:
    """Pull − target, by parameter tensor."""
    return [pull if part is None else pull - part for part, pull in zip(target, pulled, strict=True)]


def stationarity(target: Parts, pulled: Sequence[Tensor]) -> Tensor:
    """‖(1/N) Λ̄ζ − ∇_ζ S‖, Eq. (5)."""
    return norm(residual(target, pulled))


def relative_residual(target: Parts, pulled: Sequence[Tensor]) -> Tensor:
    """ρ = ‖target − pull‖ / ‖target‖: the stationarity loss in a form that can be compared between classifiers."""
    return stationarity(target, pulled) / norm(target)


def stationarity_halves(target: Parts, first: Sequence[Tensor], second: Sequence[Tensor]) -> Tensor:
    """⟨ĝ_A − t, ĝ_B − t⟩ / ‖t‖², an unbiased estimate of ρ² from the pulls of two independent half batches.

    The plain norm includes the variance of ĝ, E‖ĝ − t‖² = ‖g − t‖² + Var/M, and so rewards samples that are all the same.
    """
    return inner_product(residual(target, first), residual(target, second)) / inner_product(target, target)


def closed_form(targets: Sequence[Tensor], pulls: Sequence[Tensor], size_weight: float = 0.3) -> Tensor:
    """Distance of −∇CE from wd·ζ, for each tensor and independent of scale.

    A classifier that converged under mean cross-entropy with weight decay wd has wd·ζ = −∇CE: the KKT conditions with
    μ_ic = p_ic/(wd·N) known, without h, α or Λ, for every tensor. `targets` are wd·ζ_k, `pulls` −∇_{ζ_k} CE. The loss is the
    mean over k of (1 − cos) + `size_weight`·|log(⟨pull, target⟩/‖target‖²)|. Training with a plain norm fails, because the
    size of −∇CE changes by orders of magnitude with the confidence of the samples. A target that is all zeros has neither
    direction nor scale: it is left out of the mean, which is 0 where all are.
    """
    terms, counted = [], []
    for target, pull in zip(targets, pulls, strict=True):
        target, pull = target.flatten(), pull.flatten()
        energy = target @ target
        nonzero = energy > 0
        cosine = torch.nn.functional.cosine_similarity(pull, target, dim=0)
        size = ((pull @ target) / torch.where(nonzero, energy, 1)).clamp_min(1e-6).log().abs()
        terms.append(torch.where(nonzero, 1 - cosine + size_weight * size, 0))
        counted.append(nonzero)
    return torch.stack(terms).sum() / torch.stack(counted).sum().clamp_min(1)


def reconstruction(parameters: Sequence[Tensor], pulled: Sequence[Tensor], count: int) -> Tensor:
    """‖ζ − Σ_i λ_i ∇_ζ(Φ_{y_i} − max_{c≠y_i} Φ_c)‖² / ‖ζ‖², Haim et al. (2022) and, for several classes, Buzaglo et al. (2023).

    `pulled` is the mean over `count` images, as `margin_gradient` gives it. The sum is over every tensor, and λ absorbs the
    scale: apart from the max it is exact for a classifier that converged with weight decay. The division by the constant ‖ζ‖²
    is ours, so that a weight of the loss means the same for every classifier.
    """
    difference = [parameter.detach() - count * pull for parameter, pull in zip(parameters, pulled, strict=True)]
    zeta = [parameter.detach() for parameter in parameters]
    return inner_product(difference, difference) / inner_product(zeta, zeta)


def descent(logits: Tensor, labels: Tensor, parameters: Sequence[Tensor], kind: str = "cross_entropy") -> list[Tensor]:
    """−∇_ζ loss, the direction of gradient descent, by parameter tensor. Differentiable (second order).

    `kind` is the loss of the classifier's training, `cross_entropy` or, with two logits, `exponential`: mean e^{−margin}.
    """
    loss = cross_entropy(logits, labels) if kind == "cross_entropy" else torch.exp(-margins(logits, labels)).mean()
    return list(torch.autograd.grad(-loss, parameters, create_graph=True, materialize_grads=True))


def diversity(noise: Tensor, images: Tensor, classes: int) -> Tensor:
    """Ratio of the change of the noise to that of the images, after Mao et al. (2019): mean of |Δε|₁/(|Δx|₁ + 0.1·|Δε|₁).

    |·|₁ is the mean over entries. Samples i and i + `classes` are compared; labels are in cyclic order, so both have the same
    one. `noise` is [M, noise_dim], `images` [M, …]. The ratio is at most 10, also for equal images; equal noise counts 0. M is
    above `classes`.
    """
    image_change = (images[classes:] - images[:-classes]).flatten(1).abs().mean(dim=1)
    noise_change = (noise[classes:] - noise[:-classes]).abs().mean(dim=1)
    least = torch.finfo(images.dtype).tiny  # the same latent twice, as a bank can give it, is 0/0
    return (noise_change / (image_change + 0.1 * noise_change).clamp_min(least)).mean()


def contrast(features: Tensor, queue: Tensor, temperature: float = 0.2) -> Tensor:
    """(1/M) Σ_i log(1 + Σ_{j≠i} e^{(s_ij − 1)/τ}) with s the cosine of features [M, d] to each other and to `queue` [K, d].

    InfoNCE as in CMI (Fang et al. 2021), with the sample itself as its positive: no augmentation. A row of zeros in the queue
    has the cosine 0.
    """
    directions = torch.nn.functional.normalize(features, dim=1)
    others = torch.nn.functional.normalize(torch.cat([features, queue]), dim=1)
    return (directions @ others.T / temperature).logsumexp(dim=1).mean() - 1 / temperature


def margins(logits: Tensor, labels: Tensor) -> Tensor:
    """Φ_{y_i} − max_{c≠y_i} Φ_c for each sample, [M]; positive where the classifier agrees with the label.

    For a scalar classifier, Φ [M, 1] and labels 0 or 1, it is y_i·Φ(x_i), supplement Eq. (1b).
    """
    if logits.shape[1] == 1:
        return signs(labels) * logits.squeeze(1)
    own = logits.gather(1, labels[:, None]).squeeze(1)
    others = logits.scatter(1, labels[:, None], -torch.inf)
    return own - others.max(dim=1).values


def duality(margin: Tensor, alpha: Tensor, delta: float) -> Tensor:
    """mean(relu(q − δ) + relu(−q)) with q = margin − e^{−α}, Eq. (6): zero where 0 ≤ q ≤ δ."""
    slack = margin - torch.exp(-alpha)
    return (torch.relu(slack - delta) + torch.relu(-slack)).mean()


def total_variation(images: Tensor) -> Tensor:
    """Mean absolute difference of neighbouring pixels, vertical plus horizontal, of images [M, channels, height, width]."""
    down = images[..., 1:, :] - images[..., :-1, :]
    across = images[..., 1:] - images[..., :-1]
    return down.abs().mean() + across.abs().mean()


def border(images: Tensor) -> Tensor:
    """Mean absolute value of the pixels at the border of images [M, channels, height, width].

    It is the total variation across the border when black surrounds the images, as the zero padding of convolutions has it.
    Without it an object that the border cuts off has no edge there, and so costs less total variation than a whole one.
    """
    sides = images[..., 0, :], images[..., -1, :], images[..., 0], images[..., -1]
    return torch.cat([side.flatten() for side in sides]).abs().mean()


def batch_norm_statistics(layers: Iterable[tuple[Tensor, Tensor, Tensor, Tensor]]) -> Tensor:
    """Distance of the batch's BatchNorm statistics from the stored ones, after DeepInversion (Yin et al. 2020).

    Each layer gives (mean, variance, stored mean, stored variance), each [features]. Mean over layers and features of
    (Δmean)²/var + (Δstd)²/var, the 2-Wasserstein distance of two Gaussians in units of the stored deviation: unlike
    a plain norm it does not depend on the scale of the weights before the layer.
    """
    terms = []
    for mean, variance, stored_mean, stored_variance in layers:
        shift = (mean - stored_mean).square()
        spread = ((variance + 1e-12).sqrt() - stored_variance.sqrt()).square()
        terms.append(((shift + spread) / (stored_variance + 1e-5)).mean())
    return torch.stack(terms).mean()


def row_space(costs: Tensor, level: float) -> Tensor:
    """mean_i max(0, cost_i − h): energy of the samples outside the row space of a classifier's layers, above the level h.

    `costs` [M] are those of `gbc.kkt.row_space`, in [0, 1]; `level` is h. Real images are not entirely in the row space:
    with h = 0 the loss demands more than real images satisfy, and reduces variety.
    """
    return torch.relu(costs - level).mean()


def cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """−(1/M) Σ_i log softmax(Φ(x_i))_{y_i}, for logits [M, C] and labels [M].

    For a scalar classifier, Φ [M, 1] and labels 0 or 1, it is (1/M) Σ_i log(1 + e^{−y_i Φ(x_i)}), binary cross-entropy.
    """
    if logits.shape[1] == 1:
        return torch.nn.functional.softplus(-signs(labels) * logits.squeeze(1)).mean()
    return torch.nn.functional.cross_entropy(logits, labels)


def logit_distance(teacher: Tensor, student: Tensor) -> Tensor:
    """(1/MC) Σ_i ‖T(x_i) − S(x_i)‖₁ of logits [M, C], the disagreement of DFAD (Fang et al. 2019, Eq. 3)."""
    return (teacher - student).abs().mean()


def jensen_shannon(teacher: Tensor, student: Tensor, temperature: float) -> Tensor:
    """(1/M) Σ_i JS(softmax(T(x_i)/τ), softmax(S(x_i)/τ)) in [0, log 2], for logits [M, C].

    JS(p, q) = ½KL(p‖m) + ½KL(q‖m) with m = (p + q)/2, the competition of Adaptive DeepInversion (Yin et al. 2020, Eq. 8).
    """
    first, second = ((logits / temperature).log_softmax(dim=1) for logits in (teacher, student))
    middle = torch.logaddexp(first, second) - math.log(2)
    return ((first.exp() * (first - middle) + second.exp() * (second - middle)).sum(dim=1) / 2).mean()


def distillation(teacher: Tensor, student: Tensor, temperature: float) -> Tensor:
    """τ²·(1/M) Σ_i KL(p_i ‖ softmax(S(x_i)/τ)), the loss of a student (Hinton et al. 2015).

    `teacher` are probabilities p [M, C] at the temperature τ, `student` logits [M, C].
    """
    log_probabilities = (student / temperature).log_softmax(dim=1)
    return temperature**2 * torch.nn.functional.kl_div(log_probabilities, teacher, reduction="batchmean")


def one_hot_loss(logits: Tensor) -> Tensor:
    """Cross-entropy of logits [M, C] with their own largest class, DAFL's L_oh (Chen et al. 2019, Eq. 3)."""
    return torch.nn.functional.cross_entropy(logits, logits.argmax(dim=1))


def activation(features: Tensor) -> Tensor:
    """−(1/M) Σ_i ‖f_i‖₁ over features [M, d], in units of d; DAFL's L_a (Chen et al. 2019, Eq. 4)."""
    return -features.flatten(1).abs().mean()


def information_entropy(logits: Tensor) -> Tensor:
    """(1/C) Σ_c p̄_c log p̄_c with p̄ the mean of the probabilities of logits [M, C]; DAFL's L_ie (Chen et al. 2019, Eq. 5).

    It is least, −(1/C) log C, where the batch has as much of each class.
    """
    mean = logits.softmax(dim=1).mean(dim=0)
    return torch.special.entr(mean).mean().neg()


def signs(labels: Tensor) -> Tensor:
    """The labels y_i of supplement B.2, −1 and +1, for labels 0 and 1; [M]."""
    return 2 * labels - 1


def exponential(outputs: Tensor, labels: Tensor) -> Tensor:
    """(1/M) Σ_i e^{−y_i Φ(x_i)}, supplement B.2, for a scalar classifier: Φ is [M, 1], labels [M] are 0 or 1.

    The supplement sums; the mean keeps learning rate and weight decay independent of M.
    """
    return torch.exp(-signs(labels) * outputs.squeeze(1)).mean()


CLASSIFICATION: Final[dict[str, Callable[[Tensor, Tensor], Tensor]]] = {
    "cross_entropy": cross_entropy,
    "exponential": exponential,
}
"""Training losses of a classifier, by name."""
