"""Policies, each of which chooses one point of the solution set, a polytope, as Λ."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, Protocol

from torch import Tensor, nn

from gbc.classifiers.architectures import layers_in_order_of_use
from gbc.errors import NotQuasiHomogeneous
from gbc.kkt.homogeneity.rules import keeps_degree
from gbc.kkt.homogeneity.structure import structural
from gbc.kkt.homogeneity.system import Degrees


def last_layer(module: nn.Module, example: Tensor | None = None) -> Degrees:
    """λ = 1 for the weight and bias of the last linear or convolutional layer, 0 for all other tensors.

    Exact for every network that ends in such a layer, in either BatchNorm mode; pooling, ReLU and their like may follow it. The
    order is that of a forward pass of `example`, without it that in which layers are registered.

    Raises:
        NotQuasiHomogeneous: the network ends in something else.
    """
    if example is None:
        layers = [(name, layer) for name, layer in module.named_modules() if not list(layer.children())]
    else:
        layers = layers_in_order_of_use(module, example)
    for name, layer in reversed(layers):
        if isinstance(layer, nn.Linear | nn.Conv2d):
            return {key: float(key.rpartition(".")[0] == name) for key, _ in module.named_parameters()}
        if list(layer.parameters()) or not keeps_degree(layer):
            kind = type(layer).__name__
            raise NotQuasiHomogeneous(name, f"the last layer is {kind}, last_layer needs a linear or convolutional one")
    raise NotQuasiHomogeneous(type(module).__name__, "it has no linear or convolutional layer")


def min_norm(module: nn.Module, mode: str, example: Tensor | None = None) -> Degrees:
    """The degrees of least ‖λ‖, which are as even over the layers as the rules allow. `example` as in `structural`.

    Raises:
        BadInput: the network cannot be traced.
        NotQuasiHomogeneous: no degrees satisfy the rules; the error names the layer.
    """
    return structural(module, mode, example).solve()


def uniform(module: nn.Module, mode: str, example: Tensor | None = None) -> Degrees:
    """λ = 1/L for each of the L weight matrices and kernels; the others follow from the rules and the least norm.

    In a plain network bias l of L gets l/L; without biases all degrees are equal. If the last layer has a bias, only this bias
    has the largest degree, 1, so Λ̃ of Eq. (4) drops every weight.

    Raises:
        BadInput: the network cannot be traced.
        NotQuasiHomogeneous: a layer does not allow it, such as BatchNorm in `eval` mode; the error names it.
    """
    weights = [name for name, parameter in module.named_parameters() if parameter.ndim > 1]
    return structural(module, mode, example).with_fixed({name: 1 / len(weights) for name in weights}).solve()


def given(module: nn.Module, mode: str, values: Mapping[str, float], example: Tensor | None = None) -> Degrees:
    """The user's degrees for some or all tensors; the others follow from the rules and the least norm.

    Raises:
        BadInput: a name that the network does not have, a λ below 0, or the network cannot be traced.
        NotQuasiHomogeneous: the degrees break a rule; the error names the layer.
    """
    return structural(module, mode, example).with_fixed(values).solve()


class Policy(Protocol):
    """(network, BatchNorm mode, the user's degrees, a batch of inputs [M, ...] for tracing) → λ of each tensor."""

    def __call__(self, module: nn.Module, mode: str, values: Mapping[str, float], example: Tensor | None = None, /) -> Degrees:
        """λ of each tensor; raises BadInput or NotQuasiHomogeneous if the policy has no solution."""


POLICIES: Final[dict[str, Policy]] = {
    "last_layer": lambda module, mode, values, example=None: last_layer(module, example),
    "min_norm": lambda module, mode, values, example=None: min_norm(module, mode, example),
    "uniform": lambda module, mode, values, example=None: uniform(module, mode, example),
    "given": given,
}

AUTOMATIC: Final = ("last_layer", "min_norm", "uniform")
"""Policies that need no degrees from the user."""
