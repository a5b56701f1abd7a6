"""A device that computes on the CPU and does not mix with it: finds tensors on the wrong device where there is no GPU.

It is `cpu:1` to the code under test. Memory that was made there, copied there or computed from such memory is of the device; an
operator whose inputs are of both is refused as CUDA does, except for single numbers and indices. Its memory cannot be
read by NumPy, its generators are its own. All memory lives as long as the device, so use it for small runs.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

import pytest
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

DEVICE: Final = torch.device("cpu", 1)

_COPIES: Final = ("copy_", "_to_copy", "lift_fresh")
_BACKWARD: Final = ("backward", "grad")
_TAKES_INDICES: Final = ("index", "index_put_", "index_put", "_index_put_impl_")


class WrongDevice(RuntimeError):
    """An operator was given tensors of two devices, or NumPy memory that it cannot read."""


class PretendedGenerator(torch.Generator):
    """A generator of the CPU that says where it was asked for."""

    def __new__(cls, device: torch.device | str = "cpu") -> PretendedGenerator:
        made = super().__new__(cls, "cpu")
        made.asked = torch.device(device)
        return made

    @property
    def device(self) -> torch.device:
        return self.asked


@contextmanager
def pretended_gpu(monkeypatch: pytest.MonkeyPatch) -> Iterator[torch.device]:
    """The device, while it can be used."""
    memory = _Memory()
    with monkeypatch.context() as patch:
        patch.setattr(torch, "Generator", PretendedGenerator)
        with _Calls(memory), _Operators(memory):
            yield DEVICE


class _Memory:
    """The storages that are of the device."""

    def __init__(self) -> None:
        self._storages: dict[int, Any] = {}
        self.backward = 0
        """Depth of backward passes that run now."""

    def __contains__(self, tensor: Tensor) -> bool:
        with torch._C.DisableTorchFunction():
            return tensor.untyped_storage()._cdata in self._storages

    def add(self, values: Any) -> None:
        with torch._C.DisableTorchFunction():
            for tensor in _tensors(values):
                storage = tensor.untyped_storage()
                self._storages[storage._cdata] = storage  # kept: another one may not get its address

    def copied_out(self, tensor: Tensor) -> Tensor:
        """A copy on the CPU."""
        copy = tensor.clone()
        del self._storages[copy.untyped_storage()._cdata]
        return copy


class _Calls(TorchFunctionMode):
    """The calls of Python on tensors: devices by name, and copies between them."""

    def __init__(self, memory: _Memory) -> None:
        super().__init__()
        self._memory = memory

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        name = getattr(func, "__name__", "")
        if name == "__get__" and func == torch.Tensor.device.__get__:  # type: ignore[attr-defined]
            return DEVICE if args[0] in self._memory else func(*args, **kwargs)
        if name in ("numpy", "__array__") and args[0] in self._memory:
            raise WrongDevice(f"{name} of a tensor of the device")
        if name == "cpu" or (name == "to" and torch.device("cpu") in map(_as_device, (*args[1:], *kwargs.values()))):
            with torch._C.DisableTorchFunction():
                return self._memory.copied_out(args[0]) if args[0] in self._memory else func(*args, **kwargs)
        self._memory.backward += name in _BACKWARD
        try:
            result = func(*args, **kwargs)
        finally:
            self._memory.backward -= name in _BACKWARD
        if _as_device(kwargs.get("device")) == DEVICE:
            self._memory.add(result)
        return result


class _Operators(TorchDispatchMode):
    """The computations: forward, backward and in place."""

    def __init__(self, memory: _Memory) -> None:
        super().__init__()
        self._memory = memory

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        name = func.overloadpacket.__name__
        given = _tensors((args[:1] if name in _TAKES_INDICES else args, kwargs))
        are_on_device = [tensor in self._memory for tensor in given]
        if any(are_on_device) and name not in _COPIES:
            apart = [tensor for tensor, on_device in zip(given, are_on_device, strict=True) if not on_device and tensor.dim()]
            if apart:
                shapes = ", ".join(str(tuple(tensor.shape)) for tensor in apart)
                raise WrongDevice(f"{name}: tensors {shapes} are on the CPU, others on the device")
        result = func(*args, **kwargs)
        # Zeros that torch itself makes in a backward pass are where the gradients are.
        made_backward = not given and self._memory.backward
        if name != "copy_" and (any(are_on_device) or made_backward or kwargs.get("device") == DEVICE):
            self._memory.add(result)
        return result


def _tensors(values: Any) -> list[Tensor]:
    return [value for value in tree_leaves(values) if isinstance(value, Tensor)]


def _as_device(value: Any) -> torch.device | None:
    if isinstance(value, torch.device):
        return value
    return torch.device("cpu") if value == "cpu" and isinstance(value, str) else None
