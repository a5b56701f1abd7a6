"""Stationarity of more samples than a batch has: the pull of the batches before."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import torch
from torch import Tensor, nn

from gbc import losses

_LEAST: Final = 1e-2
"""Share of the squared residual that is left at least: the estimate of the noise is one itself."""


class MovingPull(nn.Module):
    """Exponentially weighted mean of the pulls of earlier batches, with decay d."""

    weight: Tensor

    def __init__(self, parameters: Sequence[Tensor], decay: float) -> None:
        """`parameters` are ζ; `decay` is d in [0, 1)."""
        super().__init__()
        self.decay = decay
        self.register_buffer("weight", torch.zeros(()))  # of all batches together; it nears 1
        for index, parameter in enumerate(parameters):
            self.register_buffer(f"part_{index}", torch.zeros_like(parameter))

    def residual(self, target: losses.Parts, pulled: Sequence[Tensor]) -> Tensor:
        """ρ of the mean pull, without the share that is noise of its batches; a scalar.

        The value is that of the earlier batches, and `pulled`, the pull of this one, moves along its gradient: a batch of its
        own, so the variance of the pull has no gradient. With pulls of variance V the mean has V (1 − d)/(1 + d), and its
        distance from a new one 2V/(1 + d).
        """
        empty = self.weight == 0
        means = [torch.where(empty, pull.detach(), part / self.weight.clamp_min(1e-9)) for part, pull in self._pairs(pulled)]
        apart = losses.norm([pull.detach() - mean for pull, mean in zip(pulled, means, strict=True)])
        noise = (1 - self.decay) / 2 * apart.square()
        moved = [pull + (mean - pull).detach() for pull, mean in zip(pulled, means, strict=True)]
        squared = losses.norm(losses.residual(target, moved)).square()
        return (squared - noise).clamp_min(_LEAST * squared.detach()).sqrt() / losses.norm(target)

    @torch.no_grad()
    def update(self, pulled: Sequence[Tensor]) -> None:
        """Count this batch's pull among the earlier ones."""
        for part, pull in self._pairs(pulled):
            part.lerp_(pull, 1 - self.decay)
        self.weight.lerp_(torch.ones_like(self.weight), 1 - self.decay)

    def _pairs(self, pulled: Sequence[Tensor]) -> list[tuple[Tensor, Tensor]]:
        return [(self.get_buffer(f"part_{index}"), pull) for index, pull in enumerate(pulled)]
