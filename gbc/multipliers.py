"""μ = ReLU(h(x, y; η)): the network that predicts the KKT multipliers (section 4)."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn


class MultiplierNetwork(nn.Module):
    """Turns images [M, channels, height, width] or points [M, d] and labels [M] into multipliers μ ≥ 0, [M, C]."""

    scale: Tensor

    def __init__(self, *, classes: int, shape: tuple[int, ...], width: int) -> None:
        """Two hidden layers of `width` units."""
        super().__init__()
        self.classes = classes
        self.layers = nn.Sequential(
            nn.Linear(math.prod(shape) + classes, width), nn.ReLU(),
            nn.Linear(width, width), nn.ReLU(),
            nn.Linear(width, classes),
        )  # fmt: skip
        # Multiplies μ; the trainer fits it once, so that both sides of Eq. (5) start at the same size.
        self.register_buffer("scale", torch.ones(()))

    def forward(self, images: Tensor, labels: Tensor) -> Tensor:
        """Multipliers [M, C]; the entry of a sample's own class takes no part in Eq. (5)."""
        condition = nn.functional.one_hot(labels, self.classes).to(images.dtype)
        return self.scale * torch.relu(self.layers(torch.cat([images.flatten(1), condition], dim=1)))
