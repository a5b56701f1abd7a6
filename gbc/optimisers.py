"""torch's optimisers without the import of torch's compiler, which takes seconds at the start of every process.

torch's methods import the compiler in order to exclude themselves from compilation. Compiled code must not call these classes.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any, Final

import torch
from torch import Tensor, optim

_ADD: Final = inspect.unwrap(optim.Optimizer.add_param_group)
_ZERO: Final = inspect.unwrap(optim.Optimizer.zero_grad)
_STATE: Final = inspect.unwrap(optim.Optimizer.state_dict)
_LOAD: Final = inspect.unwrap(optim.Optimizer.load_state_dict)


class _Optimiser(optim.Optimizer):
    """The methods that all optimisers share."""

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a parameter group, like torch's method."""
        _ADD(self, param_group)

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Reset gradients, like torch's method."""
        _ZERO(self, set_to_none)

    def state_dict(self) -> dict[str, Any]:
        """Return the state, like torch's method."""
        state: dict[str, Any] = _STATE(self)
        return state

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load a state, like torch's method."""
        _LOAD(self, state_dict)


class Adam(_Optimiser, optim.Adam):
    """Adam with the same results as torch's."""

    _without_compiler = inspect.unwrap(optim.Adam.step)

    @torch.no_grad()
    def step(self) -> None:  # type: ignore[override]
        """Make one step."""
        self._without_compiler()


class SGD(_Optimiser, optim.SGD):
    """Stochastic gradient descent with the same results as torch's."""

    _without_compiler = inspect.unwrap(optim.SGD.step)

    @torch.no_grad()
    def step(self) -> None:  # type: ignore[override]
        """Make one step."""
        self._without_compiler()


class LBFGS(_Optimiser, optim.LBFGS):
    """L-BFGS with the same results as torch's."""

    _without_compiler = inspect.unwrap(optim.LBFGS.step)

    @torch.no_grad()
    def step(self, closure: Callable[[], Tensor]) -> Tensor:  # type: ignore[override]
        """Make one step; returns the loss before it. `closure` computes the loss and its gradient."""
        loss: Tensor = self._without_compiler(closure)
        return loss
