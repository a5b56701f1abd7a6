"""The check of Fig. 3: does Φ(x; e^{αΛ}ζ) = e^α Φ(x; ζ) hold?"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor, nn

from gbc.classifiers.architectures import BATCH_NORMS, normalising_by

EPS: Final = 1e-14
"""eps of an ideal normalisation: far below any variance, far above the square of float64's rounding."""


def flat_degrees(degrees: Mapping[str, float], module: nn.Module) -> Tensor:
    """The diagonal of Λ as a flat vector [P] in the order of `module.parameters()`."""
    return torch.cat([torch.full_like(p, degrees[name]).flatten() for name, p in module.named_parameters()]).detach()


def float64_copy(module: nn.Module, eps: float | None, mode: str) -> nn.Module:
    """A copy in float64 on the CPU, with `eps` in every layer that normalises by its own input's statistics.

    Such a layer is scale-invariant only up to eps/variance. With the usual 1e-5, degrees that rely on it have an error of that
    size, although the rules are right. None keeps the network's own eps.
    """
    phi = copy.deepcopy(module).cpu().double()
    for layer in phi.modules():
        by_sample = isinstance(layer, nn.LayerNorm | nn.GroupNorm)
        by_batch = isinstance(layer, BATCH_NORMS) and (mode == "train" or layer.running_mean is None)
        if eps is not None and (by_sample or by_batch):
            setattr(layer, "eps", eps)  # noqa: B010  # nn.Module types every attribute as a tensor
    return phi


@dataclass(frozen=True)
class Curves:
    """The two sides of the definition as functions of α; they are equal if Λ is right."""

    alpha: Tensor
    """[A]"""
    scaled: Tensor
    """Φ(x; e^{αΛ}ζ), [A, M, C]."""
    expected: Tensor
    """e^α Φ(x; ζ), [A, M, C]."""

    @property
    def error(self) -> float:
        """Max over α of ‖scaled − expected‖ / ‖expected‖, the norm over all images and logits."""
        errors = (self.scaled - self.expected).flatten(1).norm(dim=1) / self.expected.flatten(1).norm(dim=1)
        return float(errors.max())


@torch.no_grad()
def curves(
    module: nn.Module,
    degrees: Mapping[str, float] | Tensor,
    images: Tensor,
    *,
    mode: str,
    points: int = 9,
    eps: float | None = None,
) -> Curves:
    """The curves of Fig. 3, for `points` values of α in [−1, 1], in float64.

    `degrees` are λ by tensor, or the flat diagonal of Λ [P]; `images` are [M, ...]; `mode` is the BatchNorm mode, `train`
    or `eval`; `eps` as in `float64_copy`.
    """
    phi, images = float64_copy(module, eps, mode), images.detach().cpu().double()
    diagonal = degrees if isinstance(degrees, Tensor) else flat_degrees(degrees, phi)
    parameters = dict(phi.named_parameters())
    pieces = diagonal.detach().cpu().double().split([parameter.numel() for parameter in parameters.values()])
    exponents = {name: piece.view_as(p) for piece, (name, p) in zip(pieces, parameters.items(), strict=True)}
    alpha = torch.linspace(-1, 1, points, dtype=torch.float64)
    with normalising_by(phi, mode):
        logits = phi(images)  # [M, C]
        scaled = [
            torch.func.functional_call(
                phi, {name: p * (a * exponents[name]).exp() for name, p in parameters.items()}, (images,)
            )
            for a in alpha
        ]
    return Curves(alpha, torch.stack(scaled), alpha.exp()[:, None, None] * logits)


def relative_error(
    module: nn.Module, degrees: Mapping[str, float] | Tensor, images: Tensor, *, mode: str, eps: float | None = None
) -> float:
    """Max over α in [−1, 1] of ‖Φ(x; e^{αΛ}ζ) − e^α Φ(x; ζ)‖ / ‖e^α Φ(x; ζ)‖, in float64 (Fig. 3 as a number).

    The norm is over all images [M, ...] and logits. Arguments as in `curves`.
    """
    return curves(module, degrees, images, mode=mode, eps=eps).error
