"""Many tensors as one: what Adam moves in a single sweep over memory."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import torch
from torch import Tensor

_ALIGNED: Final = 4  # floats: matrix products read 16 bytes at a time


class Columns:
    """Tensors of one member side by side in a row [P]."""

    def __init__(self, tensors: Sequence[Tensor]) -> None:
        self._shapes = [tensor.shape for tensor in tensors]
        self._gaps = [-tensor.numel() % _ALIGNED for tensor in tensors]
        self.starts = [0]
        """Where each tensor starts, and where the last one ends."""
        for tensor, gap in zip(tensors, self._gaps, strict=True):
            self.starts.append(self.starts[-1] + tensor.numel() + gap)
        self._device, self._dtype = tensors[0].device, tensors[0].dtype

    def row(self, tensors: Sequence[Tensor | None]) -> Tensor:
        """[P] from a member's own tensors; None is 0."""
        like = torch.zeros(1, self.starts[-1], dtype=self._dtype, device=self._device)
        return self.rows([None if tensor is None else tensor[None] for tensor in tensors], like)[0]

    def rows(self, tensors: Sequence[Tensor | None], like: Tensor) -> Tensor:
        """[K, P] from tensors [K, …]; None is 0."""
        parts = []
        for tensor, shape, gap in zip(tensors, self._shapes, self._gaps, strict=True):
            parts.append(like.new_zeros(len(like), shape.numel()) if tensor is None else tensor.reshape(len(like), -1))
            if gap:
                parts.append(like.new_zeros(len(like), gap))
        return torch.cat(parts, dim=1)

    def views(self, rows: Tensor) -> list[Tensor]:
        """Tensors [K, …] that lie in `rows` [K, P]."""
        return [
            rows[:, start : start + shape.numel()].view(len(rows), *shape)
            for start, shape in zip(self.starts[:-1], self._shapes, strict=True)
        ]
