"""Audit of a classifier's first layer: its spectrum, and the energy of images outside its row space."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import torch
from torch import Tensor, nn

from gbc.classifiers.architectures import normalising_by, two_logits
from gbc.classifiers.convergence import before_batch_norm
from gbc.config import TrialConfig
from gbc.kkt.row_space import RowSpace, decompose, linear_layers
from gbc.kkt.spectrum import Spectrum, spectra

_EPS: Final = TrialConfig.model_fields["row_space_eps"].default
_DIRECTIONS: Final = (10, 30, 100)


@dataclass(frozen=True)
class FirstLayer:
    """The spectrum of the rows, and with data the shares of images that they explain."""

    spectrum: Spectrum
    costs: dict[str, float] = field(default_factory=dict)
    """By set, the median over images of the share of energy outside the row space, with ε = 1e-3."""
    explained_variance: dict[int, float] = field(default_factory=dict)
    """Share of the variance of unseen images, by number of strongest directions. Empty for a convolution."""
    accuracy: float | None = None
    """Accuracy on the unseen images."""

    def to_json(self) -> dict[str, Any]:
        """Plain data."""
        more = (
            {"costs": self.costs, "explained_variance": self.explained_variance, "test_accuracy": self.accuracy}
            if self.costs
            else {}
        )
        return {**self.spectrum.to_json(), **more}

    def lines(self) -> list[str]:
        """The findings in sentences."""
        spectrum = self.spectrum
        summary = spectrum.summary()
        shown = [
            f"{summary[0].upper()}{summary[1:]}. Its strongest singular value is {spectrum.strongest:.3g}, the largest of a "
            f"random start would be {spectrum.edge:.3g}."
        ]
        if self.explained_variance:
            shares = ", ".join(f"{count}: {share:.2f}" for count, share in self.explained_variance.items())
            shown.append(f"Share of the variance of unseen images in its strongest directions: {shares}.")
        if self.costs:
            costs = ", ".join(f"{name} {cost:.3f}" for name, cost in self.costs.items())
            shown.append(f"Median share of an image's energy outside the row space (ε = {_EPS:g}): {costs}.")
            shown.append(f"Accuracy on the unseen images: {self.accuracy:.3f}.")
        return shown


@torch.no_grad()
def first_layer(
    module: nn.Module,
    example: Tensor,
    sets: Mapping[str, tuple[Tensor, Tensor]] | None = None,
    unseen: tuple[Tensor, Tensor] | None = None,
) -> FirstLayer:
    """The first layer of the classifier `module`; `example` is a batch of inputs, `unseen` are held-out images and labels.

    Raises:
        BadInput: its rows are no combinations of images (`gbc.kkt.row_space.linear_layers`).
    """
    (spectrum,) = spectra(module, example)
    if sets is None or unseen is None:
        return FirstLayer(spectrum)
    layer = linear_layers(module, example)[spectrum.layer]
    space = RowSpace(layer, _EPS, spectrum.layer in before_batch_norm(module, example))
    layer_inputs: list[Tensor] = []
    handle = layer.register_forward_pre_hook(lambda _, inputs: layer_inputs.append(inputs[0]))
    try:
        with normalising_by(module, "eval"):
            for images, _ in sets.values():
                module(images)
            logits = two_logits(module(unseen[0]))
    finally:
        handle.remove()
    *batches, tests = layer_inputs
    explained: dict[int, float] = {}
    if isinstance(layer, nn.Linear) and tests.ndim == 2:
        directions = decompose(layer, with_bias=False)[1].to(tests)
        centred = tests - tests.mean(dim=0)
        shares = (centred @ directions.T).square().sum(dim=0) / centred.square().sum()
        explained = {count: shares[:count].sum().item() for count in _DIRECTIONS if count <= len(shares)}
    return FirstLayer(
        spectrum,
        {name: space.costs(batch).median().item() for name, batch in zip(sets, batches, strict=True)},
        explained,
        (logits.argmax(dim=1) == unseen[1]).float().mean().item(),
    )
