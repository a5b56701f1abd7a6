"""Values that the rules for Λ pass through the graph of a network: degrees in place of numbers."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from torch import nn

from gbc.errors import NotQuasiHomogeneous
from gbc.kkt.homogeneity.system import Array, Equation


@dataclass(frozen=True)
class Shift:
    """A term that is the same for every sample and pixel of a channel: a bias. Its degree may differ from its activation's."""

    degree: Array
    layer: str


@dataclass(frozen=True)
class Activation:
    """A tensor in the network: a part of one degree, plus shifts that no layer has constrained yet.

    Shifts are separate because a BatchNorm that subtracts the batch's mean removes them, whatever their degree. Shapes are not
    tracked: a Linear on [M, C, L] directly before a BatchNorm over C is treated as [M, C], and `relative_error` shows this.
    """

    degree: Array
    """[T]"""
    source: str
    """Name of the layer that last set the degree."""
    shifts: tuple[Shift, ...] = ()


@dataclass(frozen=True)
class Call:
    """One node of the graph: the layer's name, the module if it is one, and the arguments."""

    name: str
    module: Any
    args: tuple[Any, ...]
    kwargs: dict[str, Any]

    @property
    def kind(self) -> str:
        """The kind of layer, for messages."""
        return type(self.module).__name__ if isinstance(self.module, nn.Module) else str(self.module)

    def get(self, position: int, keyword: str, default: Any = None) -> Any:
        """An argument of the call, given by position or by keyword."""
        return self.args[position] if position < len(self.args) else self.kwargs.get(keyword, default)


class Collector:
    """Collects the equations that the layers require of the degrees."""

    def __init__(self, module: nn.Module, mode: str) -> None:
        """`mode` is the BatchNorm mode, `train` or `eval`."""
        self.mode = mode
        self.tensors = {id(tensor): index for index, (_, tensor) in enumerate(module.named_parameters())}
        self.names = tuple(name for name, _ in module.named_parameters())
        self.zero: Array = np.zeros(len(self.names))
        self.equations: list[Equation] = []

    def degree_of(self, tensor: Any, layer: str) -> Array:
        """Degree of a parameter, the form of its λ, or of a buffer, which is 0; [T].

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

    def require_zero(self, form: Array, layer: str, reason: str) -> None:
        """Add the equation ⟨form, λ⟩ = 0."""
        if form.any():
            self.equations.append(Equation(form, 0.0, layer, reason))

    def without_shifts(self, value: Activation) -> Activation:
        """Require that every shift of `value` has its degree, and return it without shifts."""
        for shift in value.shifts:
            self.require_zero(value.degree - shift.degree, shift.layer, "a bias must have the degree of what it is added to")
        return replace(value, shifts=())
