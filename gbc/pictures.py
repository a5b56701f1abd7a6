"""Pictures of samples, as in the paper's figures."""

from __future__ import annotations

import io

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


def pairs(generated: Tensor, nearest: Tensor, columns: int) -> NDArray[np.uint8]:
    """Odd rows generated images, even rows the real image nearest to the one above, [height, width] or [.., 3].

    Both are [K, channels, height, width] in [0, 1]; each row holds `columns` of them, an incomplete last row is left out.
    """
    whole = len(generated) // columns * columns
    generated, nearest = generated[:whole], nearest[:whole]
    rows = torch.stack([generated.unflatten(0, (-1, columns)), nearest.unflatten(0, (-1, columns))], dim=1)
    return tile(rows.flatten(0, 2), columns)


def tile(images: Tensor, columns: int) -> NDArray[np.uint8]:
    """Images [K, channels, height, width] in [0, 1] side by side with a thin frame, [height, width] or [.., 3]."""
    framed = torch.nn.functional.pad(images.detach().cpu(), (1, 1, 1, 1), value=1.0)
    rows = framed.unflatten(0, (-1, columns))  # [rows, columns, channels, height, width]
    sheet = rows.permute(0, 3, 1, 4, 2).flatten(2, 3).flatten(0, 1).squeeze(-1)
    return (sheet * 255).round().to(torch.uint8).numpy()


def png(picture: NDArray[np.uint8], zoom: int = 2) -> bytes:
    """A PNG file's content, every pixel `zoom` times as large."""
    from PIL import Image

    content = io.BytesIO()
    Image.fromarray(picture.repeat(zoom, 0).repeat(zoom, 1)).save(content, "PNG")
    return content.getvalue()
