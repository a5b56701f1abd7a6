"""The classifier's features of the newest samples of earlier batches."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from gbc.classifiers.architectures import LayerInputs, last_layer, normalising_by


class FeatureQueue(nn.Module):
    """Inputs of the last layer of a classifier: those of its last forward pass, and the newest of earlier batches."""

    values: Tensor
    """Features [K, d] of earlier batches, newest first; zeros at the start."""

    def __init__(self, phi: nn.Module, probe: Tensor, size: int) -> None:
        """`probe` is a batch of images of any kind; `size` is K."""
        super().__init__()
        self._inputs = LayerInputs([last_layer(phi, probe)])
        with torch.no_grad(), normalising_by(phi, "eval"):
            phi(probe)
        self.register_buffer("values", torch.zeros(size, self.features().shape[1]))
        self.forget()

    def features(self) -> Tensor:
        """Features of the last forward pass, [M, d]."""
        return self._inputs.of(0).flatten(1)

    @torch.no_grad()
    def update(self, features: Tensor) -> None:
        """Put a batch's features [M, d] before the others; the oldest go."""
        self.values.copy_(torch.cat([features, self.values])[: len(self.values)])

    def forget(self) -> None:
        """Drop the inputs of the last forward pass."""
        self._inputs.forget()
