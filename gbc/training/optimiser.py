"""torch's Adam without the import of torch's compiler."""

from __future__ import annotations

import inspect
from typing import Any, Final

import torch
from torch import optim

_STEP: Final = inspect.unwrap(optim.Adam.step)
_ADD: Final = inspect.unwrap(optim.Optimizer.add_param_group)
_ZERO: Final = inspect.unwrap(optim.Optimizer.zero_grad)
_STATE: Final = inspect.unwrap(optim.Optimizer.state_dict)
_LOAD: Final = inspect.unwrap(optim.Optimizer.load_state_dict)


class Adam(optim.Adam):
    """Adam with the same results as torch's, which saves seconds at the start of every process.

    torch's methods import its compiler in order to exclude themselves from compilation. Compiled code must not call this class.
    """

    @torch.no_grad()
    def step(self) -> None:  # type: ignore[override]
        """Make one step."""
        _STEP(self)

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
