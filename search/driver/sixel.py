"""Sixel: pictures as six rows of pixels a line, which many terminals draw (DEC's VT340 Programmer Reference, chapter 14)."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from PIL.Image import Image

_COLOURS: Final = 255
"""Colours of a picture: every terminal with sixel that is in use has at least 256 registers."""
_LEVELS: Final = 100  # of each channel


def encode(image: Image) -> str:
    """The escape sequence that draws `image` in its own size, with its upper left corner at the cursor.

    Greys are kept to half a percent. A picture in colour is reduced to 255 of them.
    """
    indices, palette = _reduced(image)
    height, width = indices.shape
    registers = "".join(f"#{number};2;{red};{green};{blue}" for number, (red, green, blue) in enumerate(palette))
    bands = "-".join(_band(indices[row : row + 6]) for row in range(0, height, 6))
    return f'\x1bP0;1;0q"1;1;{width};{height}{registers}{bands}\x1b\\'


def _reduced(image: Image) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The number of each pixel's colour [height, width], and the colours [K, 3] in percent."""
    if image.mode in ("1", "L"):
        percent = np.rint(np.asarray(image.convert("L"), dtype=float) * _LEVELS / 255).astype(int)
        levels, indices = np.unique(percent, return_inverse=True)
        return indices.reshape(percent.shape), np.repeat(levels[:, None], 3, axis=1)
    reduced = image.convert("RGB").quantize(_COLOURS)
    palette = np.asarray(reduced.getpalette(), dtype=float).reshape(-1, 3)
    return np.asarray(reduced).astype(int), np.rint(palette * _LEVELS / 255).astype(int)


def _band(rows: NDArray[np.int64]) -> str:
    """At most six rows of colour numbers: for each colour a character for each column, whose bits say which rows have it."""
    weights = 1 << np.arange(len(rows))
    lines = []
    for number in np.unique(rows):
        sixels = (63 + weights @ (rows == number)).astype(np.uint8).tobytes().decode("ascii").rstrip("?")
        lines.append(f"#{number}" + re.sub(r"(.)\1{3,}", lambda run: f"!{len(run[0])}{run[1]}", sixels))
    return "$".join(lines)
