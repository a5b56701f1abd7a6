"""Λ: the degrees of quasi-homogeneity, Φ(x; e^{αΛ}ζ) = e^α Φ(x; ζ) (section 3).

Λ is not unique: the degrees that satisfy the definition form a polytope, and a *policy* picks one point of it.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from typing import Final

import torch
from torch import Tensor, nn

from gbc.classifiers import normalising_by
from gbc.errors import NotQuasiHomogeneous

Degrees = dict[str, float]
"""λ for each named parameter tensor."""


def last_layer(module: nn.Module) -> Degrees:
    """λ = 1 for the weight and bias of the final linear layer, 0 for all else.

    Exact for every network that ends in a linear layer, in either BatchNorm mode.

    Raises:
        NotQuasiHomogeneous: the network does not end in a linear layer.
    """
    *_, (name, layer) = ((name, layer) for name, layer in module.named_modules() if not list(layer.children()))
    if not isinstance(layer, nn.Linear):
        raise NotQuasiHomogeneous(name, f"the last layer is {type(layer).__name__}, last_layer needs a Linear")
    return {key: float(key.rpartition(".")[0] == name) for key, _ in module.named_parameters()}


POLICIES: Final[dict[str, Callable[[nn.Module], Degrees]]] = {"last_layer": last_layer}


def flat(degrees: Degrees, module: nn.Module) -> Tensor:
    """The diagonal of Λ as a flat vector [P] in the order of `module.parameters()`."""
    return torch.cat([torch.full_like(p, degrees[name]).flatten() for name, p in module.named_parameters()]).detach()


@torch.no_grad()
def relative_error(module: nn.Module, degrees: Degrees, images: Tensor, *, mode: str) -> float:
    """Max over α ∈ {−1, −½, ½, 1} of ‖Φ(x; e^{αΛ}ζ) − e^α Φ(x; ζ)‖ / ‖e^α Φ(x; ζ)‖, in float64 (Fig. 3 as a number).

    `images` are [M, channels, height, width]; `mode` is the BatchNorm mode, `train` or `eval`.
    """
    reference = copy.deepcopy(module).double()
    images = images.double()
    worst = 0.0
    with normalising_by(reference, mode):
        logits = reference(images)
        for alpha in (-1.0, -0.5, 0.5, 1.0):
            scaled = {name: p * math.exp(alpha * degrees[name]) for name, p in reference.named_parameters()}
            found = torch.func.functional_call(reference, scaled, (images,))
            expected = math.exp(alpha) * logits
            worst = max(worst, float((found - expected).norm() / expected.norm()))
    return worst
