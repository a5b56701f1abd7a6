"""Random blobs on black."""

from __future__ import annotations

import torch

from gbc.data.blobs import blobs, smooth_noise


def test_blobs_are_bright_in_the_middle_of_a_black_image() -> None:
    images = blobs(1100, (3, 20, 28), seed=0)
    assert images.shape == (1100, 3, 20, 28) and images.min() >= 0 and images.max() <= 1
    assert images[..., 8:12, 12:16].mean() > 0.3 and images[..., 0, :3].mean() < 0.01
    assert images.flatten(1).std(dim=1).min() > 0


def test_they_depend_on_the_seed_alone() -> None:
    first = blobs(30, (1, 12, 12), seed=1)
    assert torch.equal(first, blobs(30, (1, 12, 12), seed=1)) and not torch.equal(first, blobs(30, (1, 12, 12), seed=2))
    assert len({image.numpy().tobytes() for image in first}) == 30


def test_half_of_the_outlines_are_symmetric() -> None:
    """The black pixels of an image with a symmetric outline are black in its mirror image too; its filling is not symmetric."""
    outside = (blobs(400, (1, 28, 28), seed=0) < 0.004).flatten(1, 2)
    overlap = (outside & outside.flip(2)).flatten(1).sum(dim=1) / outside.flatten(1).sum(dim=1)
    assert 0.35 < (overlap > 0.97).float().mean() < 0.65


def test_noise_is_the_smoother_the_larger_its_exponent() -> None:
    rng = torch.Generator().manual_seed(0)
    rough, smooth = (smooth_noise(200, (1, 16, 16), (exponent, exponent), rng) for exponent in (0.5, 2.5))
    for noise in (rough, smooth):
        torch.testing.assert_close(noise.std(dim=(2, 3)), torch.ones(200, 1))
        torch.testing.assert_close(noise.mean(dim=(2, 3)), torch.zeros(200, 1), atol=1e-5, rtol=0)
    assert smooth.diff(dim=3).abs().mean() < 0.5 * rough.diff(dim=3).abs().mean()
