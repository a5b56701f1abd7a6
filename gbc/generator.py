"""g(ε, y; θ): the conditional generator of section 5.2, three fully connected and three transposed convolution layers."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Generator(nn.Module):
    """Turns noise ε [M, noise_dim] and labels y [M] into images [M, channels, height, width] in (0, 1)."""

    def __init__(self, *, classes: int, shape: tuple[int, ...], noise_dim: int, width: int, channels: int) -> None:
        """`width`: units of the fully connected layers; `channels`: of the first feature map, halved by each layer.

        Raises:
            ValueError: `shape` is not (channels, height, width), or height or width is not a multiple of 4.
        """
        super().__init__()
        if len(shape) != 3:
            raise ValueError(f"this generator makes images (channels, height, width), not {shape}")
        colours, height, breadth = shape
        if height % 4 or breadth % 4:
            raise ValueError(f"image sides must be multiples of 4, not {height}×{breadth}")
        self.classes, self.noise_dim = classes, noise_dim
        self.grid = (channels, height // 4, breadth // 4)
        cells = channels * self.grid[1] * self.grid[2]
        self.fully_connected = nn.Sequential(
            nn.Linear(noise_dim + classes, width), nn.BatchNorm1d(width), nn.ReLU(),
            nn.Linear(width, width), nn.BatchNorm1d(width), nn.ReLU(),
            nn.Linear(width, cells), nn.BatchNorm1d(cells), nn.ReLU(),
        )  # fmt: skip
        self.transposed = nn.Sequential(
            nn.ConvTranspose2d(channels, channels // 2, 4, stride=2, padding=1),
            nn.BatchNorm2d(channels // 2), nn.ReLU(),
            nn.ConvTranspose2d(channels // 2, channels // 4, 4, stride=2, padding=1),
            nn.BatchNorm2d(channels // 4), nn.ReLU(),
            nn.ConvTranspose2d(channels // 4, colours, 3, padding=1),
        )  # fmt: skip

    def forward(self, noise: Tensor, labels: Tensor) -> Tensor:
        """Images for noise [M, noise_dim] and labels [M]."""
        condition = nn.functional.one_hot(labels, self.classes).to(noise.dtype)
        features = self.fully_connected(torch.cat([noise, condition], dim=1))
        return torch.sigmoid(self.transposed(features.view(-1, *self.grid)))
