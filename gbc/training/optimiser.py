"""Adam as torch has it, without torch's compiler; for one trial, and for several at once."""

from __future__ import annotations

import inspect
from typing import Any, Final

import torch
from torch import Tensor, optim

_STEP: Final = inspect.unwrap(optim.Adam.step)
_ADD: Final = inspect.unwrap(optim.Optimizer.add_param_group)
_ZERO: Final = inspect.unwrap(optim.Optimizer.zero_grad)
_STATE: Final = inspect.unwrap(optim.Optimizer.state_dict)
_LOAD: Final = inspect.unwrap(optim.Optimizer.load_state_dict)


class Adam(optim.Adam):
    """The same numbers, and seconds less at the start of every process.

    torch's own methods import its compiler to be left alone by it. Whoever compiles a step calls its optimiser outside.
    """

    @torch.no_grad()
    def step(self) -> None:  # type: ignore[override]
        """One step."""
        _STEP(self)

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """As torch's."""
        _ADD(self, param_group)

    def zero_grad(self, set_to_none: bool = True) -> None:
        """As torch's."""
        _ZERO(self, set_to_none)

    def state_dict(self) -> dict[str, Any]:
        """As torch's."""
        found: dict[str, Any] = _STATE(self)
        return found

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """As torch's."""
        _LOAD(self, state_dict)


_MEAN: Final = 0.9
_SQUARE: Final = 0.999
_EPS: Final = 1e-8


class StackedAdam:
    """Torch's Adam for the K rows of one matrix, each with its own learning rate, weight decay and number of steps."""

    def __init__(self, values: Tensor, mean: Tensor, square: Tensor, steps: Tensor) -> None:
        """`values` [K, P] are changed in place, `mean` and `square` [K, P] are their gradients' moments so far.

        `steps` [K] is how many were made, in float64.
        """
        self.values, self.mean, self.square, self.steps = values, mean, square, steps

    @torch.no_grad()
    def step(self, gradient: Tensor, lr: Tensor, decay: Tensor, decayed: int) -> None:
        """One step along `gradient` [K, P], which is used up. `lr` [K] is in float64.

        The weight decay `decay` [K] holds back the first `decayed` columns.
        """
        self.steps += 1
        gradient[:, :decayed].addcmul_(self.values[:, :decayed], decay[:, None])
        self.mean.lerp_(gradient, 1 - _MEAN)
        self.square.mul_(_SQUARE).addcmul_(gradient, gradient, value=1 - _SQUARE)
        # In float64, as torch's own corrections; and on the device, which is not waited for.
        length = (lr / (1 - _MEAN**self.steps)).to(gradient.dtype)[:, None]
        deviation = (1 - _SQUARE**self.steps).sqrt().to(gradient.dtype)[:, None]
        self.values.addcdiv_(self.mean * -length, self.square.sqrt().div_(deviation).add_(_EPS))
