"""Sheets are taken apart as the trainer put them together."""

from __future__ import annotations

import base64
import io

import numpy as np
import pytest
import torch
from PIL import Image

from dashboards import pictures
from gbc.pictures import pair_grid, png


def sheet(images: torch.Tensor, columns: int = 10) -> np.ndarray:
    return pair_grid(images, torch.rand(images.shape), columns)


@pytest.mark.parametrize(("channels", "size", "columns"), [(1, 28, 10), (3, 32, 10), (1, 8, 4)])
def test_generated_images_come_back(channels: int, size: int, columns: int) -> None:
    images = torch.rand(3 * columns, channels, size, size)
    made = sheet(images, columns)
    assert pictures.tile_side(made) == size + 2
    decoded = pictures.generated_images(made)
    assert decoded is not None
    expected = images.permute(0, 2, 3, 1).reshape(3, columns, -1)
    assert np.abs(decoded - expected.numpy()).max() <= 0.5 / 255 + 1e-6


def test_an_enlarged_picture_is_brought_back() -> None:
    made = sheet(torch.rand(20, 1, 28, 28))
    assert (pictures.to_pixels(Image.open(io.BytesIO(png(made, zoom=2)))) == made).all()
    assert (pictures.to_pixels(Image.fromarray(made).convert("RGB")) == made).all()


def test_variety_of_noise_of_classes_and_of_one_image() -> None:
    noise = pictures.variety(sheet(torch.rand(40, 1, 28, 28)))
    assert noise is not None and min(noise) > 0.2
    classes = pictures.variety(sheet(torch.rand(10, 1, 28, 28).repeat(4, 1, 1, 1)))
    assert classes is not None and classes[0] == 0 and classes[1] > 0.2
    same = pictures.variety(sheet(torch.rand(1, 1, 28, 28).repeat(37, 1, 1, 1)))  # the last row is filled up with white
    assert same == pytest.approx((0, 0), abs=1e-12)
    assert pictures.variety(sheet(torch.rand(10, 1, 28, 28))) is None
    assert pictures.variety(np.zeros((50, 70), np.uint8)) is None


def test_a_sheet_without_a_grid_stays_whole() -> None:
    photo = np.random.default_rng(0).integers(0, 200, (61, 97), np.uint8)
    assert pictures.tile_side(photo) is None and (pictures.generated_rows(photo) == photo).all()


def test_lossless_is_lossless() -> None:
    made = sheet(torch.rand(20, 1, 28, 28))
    content = base64.b64decode(pictures.webp(made).partition(",")[2])
    assert (np.asarray(Image.open(io.BytesIO(content)).convert("L")) == made).all()
    assert len(pictures.webp(made, quality=30)) < len(pictures.webp(made))
