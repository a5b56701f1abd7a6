"""Pictures of samples, as in the paper's figures."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

if TYPE_CHECKING:
    from matplotlib.figure import Figure

COLOURS: Final = ("#d1495b", "#00798c", "#edae49", "#66a182", "#2e4057")
"""Of lines and points in figures."""


def columns_of(classes: int) -> int:
    """Images side by side where labels take turns: whole turns, about ten images, so that columns are classes."""
    return classes * max(1, 10 // classes)


def pairs(generated: Tensor, nearest: Tensor, columns: int) -> NDArray[np.uint8]:
    """Odd rows generated images, even rows the real image nearest to the one above, [height, width] or [.., 3].

    Both are [K, channels, height, width] in [0, 1]; each row holds `columns` of them, and the last two may be shorter.
    """
    rows = [_rows(images, columns) for images in (generated, nearest)]
    return tile(torch.stack(rows, dim=1).flatten(0, 2), columns)


def tile(images: Tensor, columns: int) -> NDArray[np.uint8]:
    """Images [K, channels, height, width] in [0, 1] side by side with a thin frame, [height, width] or [.., 3]."""
    framed = torch.nn.functional.pad(_rows(images, columns), (1, 1, 1, 1), value=1.0)
    sheet = framed.permute(0, 3, 1, 4, 2).flatten(2, 3).flatten(0, 1).squeeze(-1)
    return (sheet * 255).round().to(torch.uint8).numpy()


def _rows(images: Tensor, columns: int) -> Tensor:
    """[K, …] as [rows, columns, …], the last row filled up with white."""
    missing = -len(images) % columns
    white = torch.ones(missing, *images.shape[1:])
    return torch.cat([images.detach().cpu(), white]).unflatten(0, (-1, columns))


def png(picture: NDArray[np.uint8], zoom: int = 2) -> bytes:
    """A PNG file's content, every pixel `zoom` times as large."""
    from PIL import Image

    content = io.BytesIO()
    Image.fromarray(picture.repeat(zoom, 0).repeat(zoom, 1)).save(content, "PNG")
    return content.getvalue()


def drawn(figure: Figure, dpi: int) -> bytes:
    """The PNG of a figure that was made without pyplot, so that nothing of it stays behind."""
    content = io.BytesIO()
    figure.savefig(content, format="png", dpi=dpi)
    return content.getvalue()
