"""Sheets of samples, pixel by pixel."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from gbc import pictures


def flat(values: list[float], channels: int = 1) -> torch.Tensor:
    """Images of 2×2 pixels, each of one value."""
    return torch.tensor(values)[:, None, None, None].expand(-1, channels, 2, 2)


def centres(sheet: np.ndarray) -> list[list[int]]:
    """The value of each image of a sheet of 2×2 images with their frames."""
    return [[int(value) for value in row] for row in sheet[1::4, 1::4]]


def test_a_sheet_is_read_like_a_page() -> None:
    sheet = pictures.grid(flat([0.0, 0.2, 0.4, 0.6]), 2)
    assert sheet.shape == (8, 8) and centres(sheet) == [[0, 51], [102, 153]]
    assert sheet[0].tolist() == [255] * 8  # the frame


def test_the_last_row_is_filled_up_with_white() -> None:
    assert centres(pictures.grid(flat([0.0, 0.2, 0.4]), 2)) == [[0, 51], [102, 255]]
    assert centres(pictures.grid(flat([0.2]), 3)) == [[51, 255, 255]]


def test_the_nearest_image_stands_below_each_generated_one() -> None:
    sheet = pictures.pair_grid(flat([0.0, 0.2, 0.4]), flat([1.0, 0.8, 0.6]), 2)
    assert centres(sheet) == [[0, 51], [255, 204], [102, 255], [153, 255]]


def test_colours_are_the_last_axis() -> None:
    assert pictures.grid(flat([0.2, 0.4, 0.6], channels=3), 3).shape == (4, 12, 3)


@pytest.mark.parametrize(("classes", "columns"), [(2, 10), (3, 9), (5, 10), (10, 10), (20, 20)])
def test_columns_are_classes_and_a_row_is_about_ten_images(classes: int, columns: int) -> None:
    assert pictures.columns_for(classes) == columns
