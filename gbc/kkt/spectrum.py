"""The spectrum of a layer beside that of random initial weights, which tells if its row space depends on its inputs.

Training adds combinations of its inputs to a layer's random initial weights (`gbc.kkt.row_space`). What remains of these
spreads over all directions with the singular values of a random matrix, whose distribution is known (Marchenko and Pastur
1967). The contribution of training has larger singular values. It is visible only if weight decay has shrunk the initial
weights.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any, Final

import torch
from torch import Tensor, nn

from gbc.classifiers.convergence import before_batch_norm
from gbc.kkt.row_space import decompose, linear_layers

# At 3% of the energy, images have two thirds of the cost of noise, at 41% a quarter (docs/method.md).
_LEAST_ENERGY: Final = 0.25
# With fewer singular values their median may be wrong by half.
_FEWEST_FOR_MEDIAN: Final = 9


@dataclass(frozen=True)
class Spectrum:
    """Summary of the singular values of one layer beside those of random initial weights."""

    layer: str
    shape: tuple[int, int]
    """(rows, columns) of the weights, with the column of biases if it is used."""
    strongest: float
    """The largest singular value."""
    edge: float
    """The largest singular value of a random matrix with this shape and median (`random_edge`)."""
    above: int
    """Number of directions above the edge."""
    energy: float
    """Their share of Σ s²."""

    @property
    def informative(self) -> bool:
        """True if training contributed enough to the layer that its row space tells where the training inputs lie."""
        return self.energy >= _LEAST_ENERGY

    def summary(self) -> str:
        """The number of directions, their energy, and the conclusion, in one line."""
        counted = f"{self.above} of {min(self.shape)} directions above a random start, {self.energy:.0%} of the energy"
        if self.informative:
            return f"row space of layer {self.layer}: {counted}; it says where the training inputs lie"
        return f"row space of layer {self.layer}: {counted}; mostly its random start, which says nothing of the training inputs"

    def to_json(self) -> dict[str, Any]:
        """Plain data."""
        return {**asdict(self), "informative": self.informative}


def spectra(module: nn.Module, example: Tensor, extent: str = "first") -> list[Spectrum]:
    """The spectrum of the first layer, or with `extent` "all" of every linear and convolutional one in order of use.

    `example` is a batch of inputs.

    Raises:
        BadInput: the first layer's rows are no combinations of inputs (`gbc.kkt.row_space.linear_layers`).
    """
    without_bias = before_batch_norm(module, example)
    result = []
    layers = linear_layers(module, example)
    for name, layer in list(layers.items())[: None if extent == "all" else 1]:
        with_bias = layer.bias is not None and name not in without_bias
        shape = (layer.weight.shape[0], layer.weight[0].numel() + with_bias)
        values, _ = decompose(layer, with_bias)
        edge = random_edge(values, shape)
        above = values > edge
        whole = values.square().sum().clamp_min(torch.finfo(values.dtype).tiny)  # weight decay may have shrunk it to 0
        energy = (values[above].square().sum() / whole).item()
        result.append(Spectrum(name, shape, values[0].item(), edge, int(above.sum()), energy))
    return result


def random_edge(values: Tensor, shape: tuple[int, int]) -> float:
    """The largest singular value of what remains of random initial weights of `shape`; `values` are the layer's.

    Their scale is not known, since they may have decayed. It follows from the median if training changed fewer than half of the
    directions (Gavish and Donoho 2014). If it changed more, as in a last layer of few rows, the scale is at most that of
    Kaiming initialisation, a deviation of √(2/fan-in). The smaller of the two scales is used, and only the second if there are
    too few values for a median.
    """
    small, large = min(shape), max(shape)
    fitted = values.median().item() / math.sqrt(large * _median_eigenvalue(small / large))
    at_most = math.sqrt(2 / shape[1])
    scale = min(fitted, at_most) if small >= _FEWEST_FOR_MEDIAN else at_most
    # The largest eigenvalue of a finite matrix exceeds the limit by a few of these (Johnstone 2001).
    root = math.sqrt(large) + math.sqrt(small)
    fluctuation = root * (1 / math.sqrt(large) + 1 / math.sqrt(small)) ** (1 / 3)
    return scale * math.sqrt(root**2 + 2 * fluctuation)


def _median_eigenvalue(ratio: float) -> float:
    """The median of the Marchenko–Pastur law with `ratio` in (0, 1] and unit variance."""
    low, high = (1 - math.sqrt(ratio)) ** 2, (1 + math.sqrt(ratio)) ** 2
    # With this substitution the density is smooth at both ends.
    angle = torch.linspace(0, math.pi, 4097, dtype=torch.float64)
    values = (low + high) / 2 - (high - low) / 2 * torch.cos(angle)
    density = torch.sin(angle).square() / values.clamp_min(1e-12)
    mass = torch.cumulative_trapezoid(density, angle)
    return values[1:][mass >= mass[-1] / 2][0].item()
