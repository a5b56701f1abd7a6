"""Policies: which point of the solution set is taken as Λ. The set is a polytope, so somebody has to choose."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, Protocol

from torch import Tensor, nn

from gbc.errors import NotQuasiHomogeneous
from gbc.kkt.homogeneity.structure import structural
from gbc.kkt.homogeneity.system import Degrees


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


def min_norm(module: nn.Module, mode: str, example: Tensor | None = None) -> Degrees:
    """The degrees of least ‖λ‖: all layers take part as evenly as the rules allow. `example` as in `structural`.

    Raises:
        BadInput: the network cannot be traced.
        NotQuasiHomogeneous: no degrees satisfy the rules; the error names the layer.
    """
    return structural(module, mode, example).solve()


def uniform(module: nn.Module, mode: str, example: Tensor | None = None) -> Degrees:
    """λ = 1/L for each of the L weight matrices and kernels; the rest follows by the rules, free ones by least norm.

    The degrees of a plain network: bias l of L gets l/L, and with no biases all degrees are equal. With a last bias it is
    alone at the largest degree, 1, so Λ̃ of Eq. (4) drops every weight.

    Raises:
        BadInput: the network cannot be traced.
        NotQuasiHomogeneous: a layer does not allow it, such as BatchNorm in `eval` mode; the error names it.
    """
    weights = [name for name, parameter in module.named_parameters() if parameter.ndim > 1]
    return structural(module, mode, example).given({name: 1 / len(weights) for name in weights}).solve()


def given(module: nn.Module, mode: str, values: Mapping[str, float], example: Tensor | None = None) -> Degrees:
    """Numbers of the user's own for some tensors or all; those that are not named are chosen by least norm.

    Raises:
        BadInput: a name that the network does not have, a λ below 0, or the network cannot be traced.
        NotQuasiHomogeneous: the numbers break a rule; the error names the layer.
    """
    return structural(module, mode, example).given(values).solve()


class Policy(Protocol):
    """(network, BatchNorm mode, the user's own numbers, a batch of inputs [M, ...] for tracing) → λ of each tensor."""

    def __call__(self, module: nn.Module, mode: str, values: Mapping[str, float], example: Tensor | None = None, /) -> Degrees:
        """Raises BadInput or NotQuasiHomogeneous where the policy has no answer."""


POLICIES: Final[dict[str, Policy]] = {
    "last_layer": lambda module, mode, values, example=None: last_layer(module),
    "min_norm": lambda module, mode, values, example=None: min_norm(module, mode, example),
    "uniform": lambda module, mode, values, example=None: uniform(module, mode, example),
    "given": given,
}

AUTOMATIC: Final = ("last_layer", "min_norm", "uniform")
"""Those that need no numbers of the user's."""
