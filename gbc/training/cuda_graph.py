"""Replay of a step as one CUDA graph, because launching its hundreds of small kernels takes longer than running them."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Hashable, Sequence
from typing import Final, Generic, TypeVar

import torch
from torch import Tensor

Result = TypeVar("Result")

# Steps before a graph is captured: libraries choose their kernels and workspaces in the first ones.
_WARM_UP: Final = 3
STEPS_BEFORE_REPLAY: Final = _WARM_UP + 1
"""After so many calls a function is replayed, where it can be."""
# Rounding noise alone changes parameters by a thousandth, a missing step by a tenth.
_TOLERANCE: Final = 1e-2


class GraphReplay(Generic[Result]):
    """A function of tensors at fixed addresses. On a GPU its first calls run it, and later calls replay it as a CUDA graph.

    A graph is used only after a test: one step is made both ways from the same state. If the results differ, or the function
    cannot be captured, there is a warning and every call runs the function.
    """

    def __init__(self, rng: torch.Generator) -> None:
        """`rng`, on the function's device, is the only generator that the function draws from."""
        self._rng, self._device = rng, rng.device
        self._usable = self._device.type == "cuda"
        # Always the same one: torch keeps the freed memory of each stream for that stream.
        self._stream = torch.cuda.Stream(self._device) if self._usable else None
        self.reset()

    def reset(self) -> None:
        """Discard the graph, because the tensors have new addresses."""
        self._graph: torch.cuda.CUDAGraph | None = None
        self._result: Result | None = None
        self._key: Hashable = None
        self._warm = 0

    def __call__(self, body: Callable[[], Result], state: Callable[[], Sequence[Tensor]], key: Hashable = None) -> Result:
        """Make one step, which is `body`, the same in every call. It must not synchronise with the host.

        `state` lists all tensors that it changes. Another `key` than in the last call says that its operations have changed.
        Neither function is kept, so that their owner goes with its memory as soon as nothing else uses it. The next call
        overwrites the tensors in the result.
        """
        if not self._usable:
            return body()
        if key != self._key:
            self.reset()
            self._key = key
        if self._graph is None:
            if self._warm < _WARM_UP:
                self._warm += 1
                return self._run_on_side_stream(body)
            with torch.cuda.device(self._device):  # a capture is of the current device
                self._usable = self._capture(body, state)
            if not self._usable:
                return body()
        assert self._graph is not None
        self._graph.replay()
        return self._result  # type: ignore[return-value]

    def _run_on_side_stream(self, body: Callable[[], Result]) -> Result:
        """Run the function on a separate stream, which capturing requires for the steps before it."""
        assert self._stream is not None
        self._stream.wait_stream(torch.cuda.current_stream(self._device))
        with torch.cuda.stream(self._stream):
            result = body()
        torch.cuda.current_stream(self._device).wait_stream(self._stream)
        return result

    def _capture(self, body: Callable[[], Result], state: Callable[[], Sequence[Tensor]]) -> bool:
        graph = torch.cuda.CUDAGraph()
        graph.register_generator_state(self._rng)
        before = self._snapshot(state)
        try:
            with torch.cuda.graph(graph, stream=self._stream):
                result = body()
            graph.replay()
        except RuntimeError as fault:
            self._restore(before, state)
            warnings.warn(f"steps are not replayed as a CUDA graph: {str(fault).splitlines()[0]}", stacklevel=2)
            return False
        replayed = self._snapshot(state)
        self._restore(before, state)
        self._run_on_side_stream(body)
        same = same_step(replayed[0], self._snapshot(state)[0])
        self._restore(before, state)
        # Steps that are replayed have memory of their own. That of the steps before is room for other trials.
        torch.cuda.empty_cache()
        if not same:
            warnings.warn("steps are not replayed as a CUDA graph: its results differ from theirs", stacklevel=2)
            return False
        self._graph, self._result = graph, result
        return True

    def _snapshot(self, state: Callable[[], Sequence[Tensor]]) -> tuple[list[Tensor], Tensor]:
        return [tensor.detach().clone() for tensor in state()], self._rng.get_state()

    @torch.no_grad()
    def _restore(self, snapshot: tuple[list[Tensor], Tensor], state: Callable[[], Sequence[Tensor]]) -> None:
        for tensor, value in zip(state(), snapshot[0], strict=True):
            tensor.copy_(value)
        self._rng.set_state(snapshot[1])


def same_step(first: Sequence[Tensor], second: Sequence[Tensor]) -> bool:
    """True if two steps from one state gave the same tensors. Single numbers are compared one by one, the others together.

    Tensors are not compared one by one, because the gradient of a bias before BatchNorm is rounding noise, from which Adam
    makes steps of full size.
    """
    difference = whole = 0.0
    for tensor, other in zip(first, second, strict=True):
        if not tensor.is_floating_point():
            if not torch.equal(tensor, other):
                return False
            continue
        not_finite = ~other.isfinite()  # the run has diverged
        if not torch.equal(~tensor.isfinite(), not_finite):
            return False
        tensor, other = tensor.masked_fill(not_finite, 0), other.masked_fill(not_finite, 0)
        if tensor.numel() == 1 and not torch.allclose(tensor, other, rtol=_TOLERANCE, atol=1e-6):
            return False
        difference += float((tensor - other).square().sum())
        whole += float(other.square().sum())
    return difference <= _TOLERANCE**2 * whole
