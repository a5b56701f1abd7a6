"""Random blobs on black: images that know neither data nor a classifier, with outlines, shading and texture."""

from __future__ import annotations

from typing import Final

import torch
from torch import Tensor

_CHUNK: Final = 1000  # images drawn at once
_EDGE: Final = 4.0  # steepness of an outline
_REACH: Final = 2.5  # of the mask, in deviations of its noise, from the centre to the end of the ellipse


def blobs(count: int, shape: tuple[int, ...], seed: int) -> Tensor:
    """`count` images of `shape` (channels, height, width), in [0, 1].

    Each is smooth noise inside an outline, where other smooth noise less the distance from the centre is positive; the ellipse
    that this distance is relative to has sides of 0.35 to 1 of the image's. Half of the outlines are mirror-symmetric.
    """
    rng = torch.Generator().manual_seed(seed)
    return torch.cat([_draw(min(_CHUNK, count - start), shape, rng) for start in range(0, count, _CHUNK)])


def smooth_noise(count: int, shape: tuple[int, ...], exponents: tuple[float, float], rng: torch.Generator) -> Tensor:
    """Noise [count, channels, height, width] of mean 0 and deviation 1 in each channel.

    Phases are random, amplitudes 1/f^e with one e of each image, uniform between the `exponents`.
    """
    channels, height, width = shape
    rows, columns = torch.fft.fftfreq(height) * height, torch.fft.rfftfreq(width) * width
    frequency = torch.hypot(rows[:, None], columns[None])
    frequency[0, 0] = torch.inf  # without a mean
    exponent = _uniform(count, exponents, rng)
    waves = torch.complex(*(torch.randn(count, channels, *frequency.shape, generator=rng) for _ in range(2)))
    noise = torch.fft.irfft2(waves * frequency**-exponent, s=(height, width))
    return noise / noise.std(dim=(2, 3), keepdim=True)


def _draw(count: int, shape: tuple[int, ...], rng: torch.Generator) -> Tensor:
    _, height, width = shape
    outline = smooth_noise(count, (1, height, width), (1.5, 3.0), rng)
    symmetric = (outline + outline.flip(3)) / 2**0.5
    outline = torch.where(_uniform(count, (0.0, 1.0), rng) < 0.5, symmetric, outline)
    down, across = (torch.linspace(-1, 1, side) for side in (height, width))
    tall, wide = (_uniform(count, (0.35, 1.0), rng) for _ in range(2))
    distance = (across / wide) ** 2 + (down[:, None] / tall) ** 2
    mask = (_EDGE * (outline + _REACH * (1 - distance))).sigmoid()
    level, contrast = _uniform(count, (0.1, 1.0), rng), _uniform(count, (0.0, 0.6), rng)
    return mask * (level + contrast * smooth_noise(count, shape, (1.0, 2.5), rng) / 2).clamp(0, 1)


def _uniform(count: int, limits: tuple[float, float], rng: torch.Generator) -> Tensor:
    """Random numbers [count, 1, 1, 1] between the limits."""
    return limits[0] + (limits[1] - limits[0]) * torch.rand(count, 1, 1, 1, generator=rng)
