"""Generators g(ε, y, t; θ) of images (section 5.2) and points (section 5.1), and plain pixels as a baseline."""

from __future__ import annotations

from typing import Final

import torch
from torch import Tensor, nn

from gbc.config import TrialConfig
from gbc.layers import BatchNormReLU, UpsamplingConvolution, one_hot

EVALUATION_SEED: Final = 0
"""Seed of the evaluation latents, the same for every trial."""

_FEATURES: Final = 64
_FREQUENCY: Final = 10.0  # standard deviation; with 2 and 3 more points are not found (docs/log.md)


class _FromNoise(nn.Module):
    """Base class of generators whose latents are noise ε ~ N(0, 1)."""

    noise_dim: int

    def latents(self, labels: Tensor, rng: torch.Generator) -> Tensor:
        """Fresh noise [M, noise_dim] for labels [M]."""
        return torch.randn(len(labels), self.noise_dim, generator=rng, device=labels.device)

    def evaluation_latents(self, labels: Tensor, rng: torch.Generator) -> Tensor:
        """Noise for the evaluated samples, [K, noise_dim], drawn like any other."""
        return self.latents(labels, rng)


class Generator(_FromNoise):
    """Maps noise ε [M, noise_dim] and labels y [M] to images [M, channels, height, width] in (0, 1)."""

    def __init__(
        self, *, classes: int, shape: tuple[int, ...], noise_dim: int, width: int, channels: int, tasks: int = 1
    ) -> None:
        """`width`: units of the fully connected layers; `channels`: of the first feature map, halved by each layer.

        With more than one of `tasks` the classifier index t is an input as well (Algorithm 2).

        Raises:
            ValueError: `shape` is not (channels, height, width), or height or width is not a multiple of 4.
        """
        super().__init__()
        if len(shape) != 3:
            raise ValueError(f"this generator makes images (channels, height, width), not {shape}")
        colours, height, breadth = shape
        if height % 4 or breadth % 4:
            raise ValueError(f"image sides must be multiples of 4, not {height}×{breadth}")
        self.classes, self.noise_dim, self.tasks = classes, noise_dim, tasks
        self.grid = (channels, height // 4, breadth // 4)
        cells = channels * self.grid[1] * self.grid[2]
        self.fully_connected = nn.Sequential(
            nn.Linear(noise_dim + classes + (tasks if tasks > 1 else 0), width), nn.BatchNorm1d(width), nn.ReLU(),
            nn.Linear(width, width), nn.BatchNorm1d(width), nn.ReLU(),
            nn.Linear(width, cells), nn.BatchNorm1d(cells), nn.ReLU(),
        )  # fmt: skip
        self.transposed = nn.Sequential(
            UpsamplingConvolution(channels, channels // 2, 4, stride=2, padding=1),
            BatchNormReLU(channels // 2), nn.Identity(),
            UpsamplingConvolution(channels // 2, channels // 4, 4, stride=2, padding=1),
            BatchNormReLU(channels // 4), nn.Identity(),
            nn.ConvTranspose2d(channels // 4, colours, 3, padding=1),
        )  # fmt: skip

    def forward(self, noise: Tensor, labels: Tensor, tasks: Tensor | None = None) -> Tensor:
        """Images for noise [M, noise_dim], labels [M] and, with several tasks, classifier indices t [M]."""
        features = self.fully_connected(_conditioned(self, noise, labels, tasks)).view(-1, *self.grid)
        # In this order the transposed convolutions take a third of the time on a CPU (docs/performance.md).
        features = features.contiguous(memory_format=torch.channels_last)
        return torch.sigmoid(self.transposed(features)).contiguous()


class PointGenerator(_FromNoise):
    """g for points, as in the 2-D example of section 5.1: three fully connected layers with a linear output.

    Their input is random Fourier features of the noise (Tancik et al. 2020). Without these, a step that moves one sample of a
    class moves all others in the same way, and each class ends on a single point.
    """

    frequencies: Tensor

    def __init__(self, *, classes: int, shape: tuple[int, ...], noise_dim: int, width: int, tasks: int = 1) -> None:
        """`width`: units of the two hidden layers; `shape` is (d,)."""
        super().__init__()
        self.classes, self.noise_dim, self.tasks = classes, noise_dim, tasks
        # Part of the architecture: the same for every seed.
        drawn = torch.randn(noise_dim, _FEATURES, generator=torch.Generator().manual_seed(0))
        self.register_buffer("frequencies", _FREQUENCY * drawn)
        # No BatchNorm: it would couple the samples of a batch again.
        self.layers = nn.Sequential(
            nn.Linear(2 * _FEATURES + classes + (tasks if tasks > 1 else 0), width), nn.ReLU(),
            nn.Linear(width, width), nn.ReLU(),
            nn.Linear(width, shape[0]),
        )  # fmt: skip

    def forward(self, noise: Tensor, labels: Tensor, tasks: Tensor | None = None) -> Tensor:
        """Points [M, d] for noise [M, noise_dim], labels [M] and, with several tasks, classifier indices t [M]."""
        phase = noise @ self.frequencies
        # Kaiming initialisation gives outputs of order one: initial samples lie near every point.
        points: Tensor = self.layers(_conditioned(self, torch.cat([phase.sin(), phase.cos()], dim=1), labels, tasks))
        return points


class Pixels(nn.Module):
    """Images that are optimised directly, without a generator, as in Haim et al. (2022) and DeepInversion.

    Image number i has label i mod C. A latent is an image's number.
    """

    tasks = 1

    def __init__(self, *, classes: int, shape: tuple[int, ...], count: int) -> None:
        """`count` images; a multiple of `classes`."""
        super().__init__()
        self.classes, self.count = classes, count
        self.logits = nn.Parameter(torch.zeros(count, *shape))

    def start(self, rng: torch.Generator, deviation: float) -> None:
        """Set dark initial images with some noise: sigmoid(−2 + deviation·ε)."""
        with torch.no_grad():
            self.logits.normal_(-2, deviation, generator=rng)

    def latents(self, labels: Tensor, rng: torch.Generator) -> Tensor:
        """Numbers [M] of images with these labels, which are in cyclic order: consecutive images from a random position."""
        turns = self.count // self.classes
        first = torch.randint(turns, (), generator=rng, device=labels.device)
        turn = (first + torch.arange(len(labels), device=labels.device) // self.classes) % turns
        return turn * self.classes + labels

    def evaluation_latents(self, labels: Tensor, rng: torch.Generator) -> Tensor:
        """Numbers [K] of the first images, in order."""
        return torch.arange(len(labels), device=labels.device) % self.count

    def forward(self, numbers: Tensor, labels: Tensor, tasks: Tensor | None = None) -> Tensor:
        """Images [M, channels, height, width] in (0, 1) with these numbers [M]."""
        return torch.sigmoid(self.logits[numbers])


def build(config: TrialConfig, *, classes: int, shape: tuple[int, ...], tasks: int) -> Generator | PointGenerator | Pixels:
    """The generator of `config`, not initialised yet: pixels, or g for images (channels, height, width) or points (d,).

    Raises:
        ValueError: as `Generator`.
    """
    if config.generator == "pixels":
        return Pixels(classes=classes, shape=shape, count=config.candidates or classes * config.eval_per_class)
    if len(shape) == 1:
        return PointGenerator(classes=classes, shape=shape, noise_dim=config.noise_dim, width=config.width, tasks=tasks)
    return Generator(
        classes=classes, shape=shape, noise_dim=config.noise_dim, width=config.width, channels=config.channels, tasks=tasks
    )


def _conditioned(network: Generator | PointGenerator, noise: Tensor, labels: Tensor, tasks: Tensor | None) -> Tensor:
    """Noise, one-hot label and, with several tasks, one-hot t side by side, [M, inputs]."""
    parts = [noise, one_hot(labels, network.classes).to(noise.dtype)]
    if network.tasks > 1:
        assert tasks is not None, "this generator was trained from several classifiers: it needs t"
        parts.append(one_hot(tasks, network.tasks).to(noise.dtype))
    return torch.cat(parts, dim=1)
