"""BatchNorm statistics of more samples than a batch has: moments of the batch and of those before it."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

Statistics = tuple[Tensor, Tensor, Tensor, Tensor]
"""(mean, variance, stored mean, stored variance) of a layer, each [features]."""


class MovingMoments(nn.Module):
    """Exponentially weighted mean and variance of layers' inputs; a batch of M samples becomes one of M(1 + d)/(1 − d).

    The moments of earlier batches are constants. The gradient is that of the batch's own share, divided by this share, so
    that the weight of the loss means the same for every decay d.
    """

    weight: Tensor

    def __init__(self, sizes: Sequence[int], decay: float) -> None:
        """`sizes` are the features of each layer; `decay` is d in [0, 1)."""
        super().__init__()
        self.decay = decay
        self.register_buffer("weight", torch.zeros(()))  # of the earlier batches together; it nears 1
        for index, size in enumerate(sizes):
            self.register_buffer(f"layer_{index}", torch.zeros(2, size))

    def mixed(self, layers: Sequence[Statistics]) -> list[Statistics]:
        """The statistics of each layer over this batch and the earlier ones."""
        result = []
        for index, (mean, variance, *stored) in enumerate(layers):
            earlier_mean, earlier_variance = self.get_buffer(f"layer_{index}")
            share = self._share_of_earlier()
            # Two groups of shares a and b = 1 − a have the variance a v₁ + b v₂ + ab (m₁ − m₂)² = a v₁ + b spread.
            spread = variance + share * (mean - earlier_mean).square()
            whole = mean + share * (earlier_mean - mean).detach(), spread + share * (earlier_variance - spread).detach()
            result.append((*whole, *stored))
        return result

    @torch.no_grad()
    def update(self, layers: Sequence[Statistics]) -> None:
        """Count this batch among the earlier ones."""
        for index, (mean, variance, *_) in enumerate(self.mixed(layers)):
            self.get_buffer(f"layer_{index}").copy_(torch.stack([mean, variance]))
        self.weight.mul_(self.decay).add_(1 - self.decay)

    def _share_of_earlier(self) -> Tensor:
        earlier = self.decay * self.weight
        return earlier / (earlier + 1 - self.decay)
