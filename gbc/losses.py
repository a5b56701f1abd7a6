"""The losses: tensors in, a scalar out, an equation number each.

Notation, as in the paper: logits Φ(x; ζ) are [M, C], labels y are [M], multipliers μ are [M, C] and not negative. What has the
form of the parameters ζ is a sequence of tensors, one for each parameter tensor: a flat copy would cost as much as the
losses. Signs follow Eq. (5); Eqs. (2a), (3a) and (4) print them the other way round.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Final

import torch
from torch import Tensor


def lagrangian(logits: Tensor, labels: Tensor, multipliers: Tensor) -> Tensor:
    """S = (1/M) Σ_i Σ_{c≠y_i} μ_ic (Φ_{y_i}(x_i) − Φ_c(x_i)), whose ζ-gradient is the sum in Eq. (5).

    μ does not depend on ζ, so one reverse pass gives what the equation writes as one gradient for each sample and class.
    The term c = y_i is zero by itself.
    """
    own = logits.gather(1, labels[:, None])  # [M, 1]
    return (multipliers * (own - logits)).sum(dim=1).mean()


def margin_gradient(logits: Tensor, labels: Tensor, multipliers: Tensor, parameters: Sequence[Tensor]) -> tuple[Tensor, ...]:
    """∇_ζ S: what the samples pull each parameter tensor towards. Differentiable (second order)."""
    return torch.autograd.grad(lagrangian(logits, labels, multipliers), parameters, create_graph=True, materialize_grads=True)


Parts = Sequence[Tensor | None]
"""Something in the form of ζ, by parameter tensor; None is 0."""


class Target:
    """(1/N) Λ̄ζ with Λ̄ = Λ̃ e^{α(2Λ − I)}, Eqs. (3a) and (4): what the pull should be, as a function of α.

    Λ̃ keeps the largest degrees and zeroes the rest: parameter tensors without them are None and cost nothing.
    """

    def __init__(self, parameters: Sequence[Tensor], degrees: Sequence[float], samples: int) -> None:
        """`degrees` is the diagonal of Λ, a λ for each parameter tensor; `samples` is N."""
        # Degrees that come from a linear system are equal up to rounding: in the precision of ζ, equal.
        rounded = torch.tensor(degrees, dtype=parameters[0].dtype).tolist()
        self.largest = max(rounded)
        self.still: list[Tensor | None] = [
            degree * parameter.detach() / samples if degree == self.largest else None
            for degree, parameter in zip(rounded, parameters, strict=True)
        ]
        """(1/N) Λ̃ζ, the target at α = 0."""

    def at(self, alpha: Tensor) -> list[Tensor | None]:
        """The target for the scalar α; differentiable."""
        growth = torch.exp(alpha * (2 * self.largest - 1))
        return [None if part is None else growth * part for part in self.still]


def inner(first: Parts, second: Parts) -> Tensor:
    """⟨first, second⟩ over all parameter tensors."""
    pairs = [(a, b) for a, b in zip(first, second, strict=True) if a is not None and b is not None]
    return torch.stack([a.flatten() @ b.flatten() for a, b in pairs]).sum()


def size(parts: Parts) -> Tensor:
    """The Euclidean norm over all parameter tensors."""
    norms = [torch.linalg.vector_norm(part) for part in parts if part is not None]
    return torch.linalg.vector_norm(torch.stack(norms))


def residual(target: Parts, pulled: Sequence[Tensor]) -> list[Tensor]:
    """What the pull has too much, pull − target."""
    return [found if part is None else found - part for part, found in zip(target, pulled, strict=True)]


def stationarity(target: Parts, pulled: Sequence[Tensor]) -> Tensor:
    """‖(1/N) Λ̄ζ − ∇_ζ S‖, Eq. (5)."""
    return size(residual(target, pulled))


def relative_residual(target: Parts, pulled: Sequence[Tensor]) -> Tensor:
    """ρ = ‖target − pull‖ / ‖target‖: the stationarity loss in a form that compares across classifiers."""
    return stationarity(target, pulled) / size(target)


def stationarity_halves(target: Parts, first: Sequence[Tensor], second: Sequence[Tensor]) -> Tensor:
    """⟨ĝ_A − t, ĝ_B − t⟩ / ‖t‖², an unbiased estimate of ρ² from the pulls of two independent half batches.

    The plain norm also counts the variance of ĝ, E‖ĝ − t‖² = ‖g − t‖² + Var/M, and so rewards samples that are all alike.
    """
    return inner(residual(target, first), residual(target, second)) / inner(target, target)


def closed_form(targets: Sequence[Tensor], pulls: Sequence[Tensor], size_weight: float = 0.3) -> Tensor:
    """How far −∇CE is from wd·ζ, tensor by tensor and free of scale.

    A classifier that converged under mean cross-entropy with weight decay wd has wd·ζ = −∇CE: the KKT conditions with
    μ_ic = p_ic/(wd·N) known, without h, α or Λ, and every tensor takes part. `targets` are wd·ζ_k, `pulls` −∇_{ζ_k} CE. Mean
    over k of (1 − cos) + `size_weight`·|log(⟨pull, target⟩/‖target‖²)|; a plain norm does not train, because the size
    of −∇CE changes by orders of magnitude with the confidence of the samples. A target that is all zeros has neither direction
    nor scale: it is left out of the mean, which is 0 where all are.
    """
    terms, counted = [], []
    for target, found in zip(targets, pulls, strict=True):
        target, found = target.flatten(), found.flatten()
        norm = target @ target
        nonzero = norm > 0
        cosine = torch.nn.functional.cosine_similarity(found, target, dim=0)
        size = ((found @ target) / torch.where(nonzero, norm, 1)).clamp_min(1e-6).log().abs()
        terms.append(torch.where(nonzero, 1 - cosine + size_weight * size, 0))
        counted.append(nonzero)
    return torch.stack(terms).sum() / torch.stack(counted).sum().clamp_min(1)


def reconstruction(parameters: Sequence[Tensor], pulled: Sequence[Tensor], count: int) -> Tensor:
    """‖ζ − Σ_i λ_i ∇_ζ(Φ_{y_i} − max_{c≠y_i} Φ_c)‖² / ‖ζ‖², Haim et al. (2022) and, for several classes, Buzaglo et al. (2023).

    `pulled` is the mean over `count` images, as `pull` gives it. Every tensor takes part and λ absorbs the scale: exact, up
    to the max, for a classifier that converged with weight decay. Divided by ‖ζ‖², which they do not do and which is constant,
    so that its weight means the same for every classifier.
    """
    apart = [parameter.detach() - count * found for parameter, found in zip(parameters, pulled, strict=True)]
    whole = [parameter.detach() for parameter in parameters]
    return inner(apart, apart) / inner(whole, whole)


def descent(logits: Tensor, labels: Tensor, parameters: Sequence[Tensor], kind: str = "cross_entropy") -> list[Tensor]:
    """−∇_ζ loss, one tensor for each parameter tensor; where gradient descent pulls. Differentiable (second order).

    `kind` is the loss of the classifier's training, `cross_entropy` or, with two logits, `exponential`: mean e^{−margin}.
    """
    loss = cross_entropy(logits, labels) if kind == "cross_entropy" else torch.exp(-margins(logits, labels)).mean()
    return list(torch.autograd.grad(-loss, parameters, create_graph=True, materialize_grads=True))


def diversity(noise: Tensor, images: Tensor, classes: int) -> Tensor:
    """How little the images change with the noise, after Mao et al. (2019): mean |Δε|₁/(|Δx|₁ + 0.1·|Δε|₁), means over entries.

    Samples i and i + `classes` are compared; with labels in cyclic order they share one. `noise` is [M, noise_dim],
    `images` [M, …]. Bounded by 10, so that equal images do not blow it up.
    """
    moved = (images[classes:] - images[:-classes]).flatten(1).abs().mean(dim=1)
    asked = (noise[classes:] - noise[:-classes]).abs().mean(dim=1)
    return (asked / (moved + 0.1 * asked)).mean()


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
    """Mean absolute difference of neighbouring pixels, down plus across, of images [M, channels, height, width]."""
    down = images[..., 1:, :] - images[..., :-1, :]
    across = images[..., 1:] - images[..., :-1]
    return down.abs().mean() + across.abs().mean()


def batch_norm_statistics(layers: Iterable[tuple[Tensor, Tensor, Tensor, Tensor]]) -> Tensor:
    """How far the batch's BatchNorm statistics are from the stored ones, after DeepInversion (Yin et al. 2020).

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
    """mean_i max(0, cost_i − h): how far samples leave the row space of a classifier's layers, beyond what is free.

    `costs` [M] are those of `gbc.kkt.row_space`, in [0, 1]; `level` is h. Real images do not lie wholly in the row space:
    without a level the loss asks for more than they have, and takes away variety.
    """
    return torch.relu(costs - level).mean()


def cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """−(1/M) Σ_i log softmax(Φ(x_i))_{y_i}: the classifier should recognise what it is shown."""
    return torch.nn.functional.cross_entropy(logits, labels)


def signs(labels: Tensor) -> Tensor:
    """Labels 0 and 1 as the y_i of supplement B.2, −1 and +1; [M]."""
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
"""What a classifier can be trained with."""
