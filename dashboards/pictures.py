"""Sheets of samples: taken apart, measured for variety and encoded for a page."""

from __future__ import annotations

import base64
import io
from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Pixels = NDArray[np.uint8]
"""[height, width] grey or [height, width, 3]."""

_SMALLEST: Final = 8
"""Pixels of the smallest image that a sheet can hold: below, any flat region looks like a grid."""
_WHITE: Final = 250  # a frame that was stored lossily is nearly white


def to_pixels(image: Image.Image) -> Pixels:
    """A sheet at its own size: one that was enlarged by whole pixels is brought back."""
    sheet = np.asarray(image if image.mode in ("L", "RGB") else image.convert("RGB"))
    if sheet.ndim == 3 and (sheet == sheet[..., :1]).all():
        sheet = sheet[..., 0]
    height, width = sheet.shape[0] // 2 * 2, sheet.shape[1] // 2 * 2
    if (height, width) == sheet.shape[:2] and (sheet[::2, ::2].repeat(2, 0).repeat(2, 1) == sheet).all():
        sheet = sheet[::2, ::2]
    return np.ascontiguousarray(sheet)


def tile_side(sheet: Pixels) -> int | None:
    """Side of one framed image on a sheet of square images; None where no grid of white frames is found."""
    height, width = sheet.shape[:2]
    for side in range(_SMALLEST, min(height, width) + 1):
        if height % side or width % side:
            continue
        edges = np.r_[0:height:side, side - 1 : height : side], np.r_[0:width:side, side - 1 : width : side]
        if (sheet[edges[0]] >= _WHITE).all() and (sheet[:, edges[1]] >= _WHITE).all():
            return side
    return None


def generated_rows(sheet: Pixels, *, paired: bool = True) -> Pixels:
    """The odd rows, which are the generated images; the whole sheet where no pairs of rows are found.

    Without real images rows are not `paired`: all are generated.
    """
    side = tile_side(sheet) if paired else None
    if side is None or sheet.shape[0] // side % 2:
        return sheet
    rows = sheet.reshape(-1, side, *sheet.shape[1:])[::2]
    return rows.reshape(-1, *sheet.shape[1:])


def generated_images(sheet: Pixels, *, paired: bool = True) -> NDArray[np.float64] | None:
    """Generated images [rows, columns, pixels] in [0, 1], unframed; a column holds one class. None without a grid.

    `paired` as for `generated_rows`.
    """
    side = tile_side(sheet)
    if side is None:
        return None
    made = generated_rows(sheet, paired=paired)
    rows, columns = made.shape[0] // side, made.shape[1] // side
    grid = made.reshape(rows, side, columns, side, -1).swapaxes(1, 2)[:, :, 1:-1, 1:-1]
    return grid.reshape(rows, columns, -1).astype(float) / 255


def variety(sheet: Pixels, *, paired: bool = True) -> tuple[float, float] | None:
    """The distances between generated images: (within a class, over all), root mean square of grey levels in [0, 1].

    The larger of these over classes, respectively over all images, so that 0 means: all are the same. None where the sheet
    has no grid or fewer than two images of a class. `paired` as for `generated_rows`.
    """
    images = generated_images(sheet, paired=paired)
    if images is None or len(images) < 2:
        return None
    filled: NDArray[np.bool_] = np.any(images < _WHITE / 255, axis=2)  # the last row is filled up with white
    within = [_spread(images[filled[:, column], column]) for column in range(images.shape[1])]
    return max(within), _spread(images[filled])


def _spread(images: NDArray[np.float64]) -> float:
    """Root mean square distance of images [K, pixels] from their mean, 0 for fewer than two."""
    if len(images) < 2:
        return 0.0
    return float(np.sqrt(((images - images.mean(axis=0)) ** 2).mean()))


def webp(sheet: Pixels, *, quality: int | None = None) -> str:
    """A `data:` URL; lossless unless a quality (0 to 100) is given."""
    content = io.BytesIO()
    options = {"lossless": True, "method": 6} if quality is None else {"quality": quality, "method": 4}
    Image.fromarray(sheet).save(content, "WEBP", **options)
    return "data:image/webp;base64," + base64.b64encode(content.getvalue()).decode()
