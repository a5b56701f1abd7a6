"""What flows through the graph of a network when the rules for Λ are read off: degrees in place of numbers."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from torch import nn

from gbc.errors import NotQuasiHomogeneous
from gbc.kkt.homogeneity.system import Array, Equation


@dataclass(frozen=True)
class Shift:
    """A term that is the same for every sample (and pixel) of a channel: a bias. Its degree need not be its host's yet."""

    degree: Array
    layer: str


@dataclass(frozen=True)
class Activation:
    """A tensor on its way through the network: a part of one degree, plus shifts that are still to be judged.

    Shifts are kept apart because a BatchNorm that subtracts the batch's mean removes them, whatever their degree. No
    shapes are followed: a Linear on [M, C, L] straight into a BatchNorm over C is taken for [M, C], and `relative_error` tells.
    """

    degree: Array
    """[T]"""
    source: str
    """The layer that last set the degree."""
    shifts: tuple[Shift, ...] = ()


@dataclass(frozen=True)
class Call:
    """One node of the graph: the layer's name, the module if it is one, and the arguments."""

    name: str
    module: Any
    args: tuple[Any, ...]
    kwargs: dict[str, Any]

    @property
    def what(self) -> str:
        """The kind of layer, for messages."""
        return type(self.module).__name__ if isinstance(self.module, nn.Module) else str(self.module)

    def get(self, position: int, keyword: str, default: Any = None) -> Any:
        """An argument that may be given either way."""
        return self.args[position] if position < len(self.args) else self.kwargs.get(keyword, default)


class Collector:
    """Collects the equations that the layers ask for."""

    def __init__(self, module: nn.Module, mode: str) -> None:
        """`mode` is the BatchNorm mode, `train` or `eval`."""
        self.mode = mode
        self.tensors = {id(tensor): index for index, (_, tensor) in enumerate(module.named_parameters())}
        self.names = tuple(name for name, _ in module.named_parameters())
        self.zero: Array = np.zeros(len(self.names))
        self.equations: list[Equation] = []

    def degree_of(self, tensor: Any, layer: str) -> Array:
        """Of a parameter: its λ. Of a buffer: 0.

        Raises:
            NotQuasiHomogeneous: a weight that is computed from other tensors.
        """
        if not isinstance(tensor, nn.Parameter):
            if tensor.requires_grad:
                raise NotQuasiHomogeneous(layer, "its weight is computed from other tensors; remove the parametrisation")
            return self.zero
        form = self.zero.copy()
        form[self.tensors[id(tensor)]] = 1.0
        return form

    def ask(self, form: Array, layer: str, why: str) -> None:
        """⟨form, λ⟩ = 0."""
        if form.any():
            self.equations.append(Equation(form, 0.0, layer, why))

    def settled(self, value: Activation) -> Activation:
        """Without shifts: what cannot tell them from the rest needs them to have its degree."""
        for shift in value.shifts:
            self.ask(value.degree - shift.degree, shift.layer, "a bias must have the degree of what it is added to")
        return replace(value, shifts=())
