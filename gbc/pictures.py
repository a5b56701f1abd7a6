"""Pictures of samples, as in the paper's figures."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

if TYPE_CHECKING:
    from matplotlib.figure import Figure

COLOURS: Final = ("#d1495b", "#00798c", "#edae49", "#66a182", "#2e4057")
"""Colours of lines and points in figures."""


def columns_for(classes: int) -> int:
    """Number of columns for images whose labels repeat in cycles of `classes`: about ten, in whole cycles.

    Each column then holds one class.
    """
    return classes * max(1, 10 // classes)


def pair_grid(generated: Tensor, nearest: Tensor, columns: int) -> NDArray[np.uint8]:
    """A picture with generated images in odd rows and, below each, the nearest real image, [height, width] or [.., 3].

    Both are [K, channels, height, width] in [0, 1]. Each row holds `columns` images; the last two rows may be shorter.
    """
    rows = [_rows(images, columns) for images in (generated, nearest)]
    return grid(torch.stack(rows, dim=1).flatten(0, 2), columns)


def grid(images: Tensor, columns: int) -> NDArray[np.uint8]:
    """A picture of images [K, channels, height, width] in [0, 1] in a grid with thin borders, [height, width] or [.., 3]."""
    framed = torch.nn.functional.pad(_rows(images, columns), (1, 1, 1, 1), value=1.0)
    sheet = framed.permute(0, 3, 1, 4, 2).flatten(2, 3).flatten(0, 1).squeeze(-1)
    return (sheet * 255).round().to(torch.uint8).numpy()


def _rows(images: Tensor, columns: int) -> Tensor:
    """[K, …] as [rows, columns, …]; white images fill the last row."""
    missing = -len(images) % columns
    white = torch.ones(missing, *images.shape[1:])
    return torch.cat([images.detach().cpu(), white]).unflatten(0, (-1, columns))


def png(picture: NDArray[np.uint8], zoom: int = 2) -> bytes:
    """The content of a PNG file, with every pixel enlarged `zoom` times."""
    from PIL import Image

    content = io.BytesIO()
    Image.fromarray(picture.repeat(zoom, 0).repeat(zoom, 1)).save(content, "PNG")
    return content.getvalue()


def figure_png(figure: Figure, dpi: int) -> bytes:
    """The PNG of a figure that was made without pyplot, so that pyplot does not keep it in memory."""
    content = io.BytesIO()
    figure.savefig(content, format="png", dpi=dpi)
    return content.getvalue()


def pairs_png(upper: Tensor, lower: Tensor, rows: tuple[str, str], captions: Sequence[str]) -> bytes:
    """A PNG of two rows of images [K, channels, height, width] in [0, 1], a name before each row, a caption below each pair."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(1.1 * len(upper) + 0.6, 3.2), layout="constrained")
    axes = figure.subplots(2, len(upper), squeeze=False)
    for row, images, name in zip(axes, (upper, lower), rows, strict=True):
        for axis, image in zip(row, images.detach().cpu(), strict=True):
            axis.imshow(image.permute(1, 2, 0).squeeze(-1).numpy(), cmap="gray", vmin=0, vmax=1, interpolation="nearest")
            axis.set_xticks([])
            axis.set_yticks([])
        row[0].set_ylabel(name, fontsize=9)
    for axis, caption in zip(axes[1], captions, strict=True):
        axis.set_xlabel(caption, fontsize=9)
    return figure_png(figure, dpi=110)
