"""Adam as torch has it, without torch's compiler."""

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
