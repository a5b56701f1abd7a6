"""A step as one CUDA graph: launching its hundreds of small kernels takes longer than running them, and is paid once."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Hashable, Sequence
from typing import Final, Generic, TypeVar

import torch
from torch import Tensor

Result = TypeVar("Result")

# Steps before a graph is taken: libraries choose their kernels and workspaces in the first ones.
_WARM_UP: Final = 3
# Parameters that move by rounding noise alone differ by a thousandth; a step that is not taken, by a tenth.
_TOLERANCE: Final = 1e-2


class GraphReplay(Generic[Result]):
    """A function of tensors that stay where they are, run step by step and, on a GPU, replayed as a graph from then on.

    Before a graph is used it has to show that it does what the function does: one step is taken both ways from the same state.
    If the two differ, or the function cannot be captured, a warning says so and steps are run as they are.
    """

    def __init__(self, body: Callable[[], Result], rng: torch.Generator, state: Callable[[], Sequence[Tensor]]) -> None:
        """`body` waits for nothing and draws from `rng` alone; `state` lists all tensors that it changes."""
        self._body, self._rng, self._state = body, rng, state
        self._device = rng.device
        self._usable = self._device.type == "cuda"
        self.forget()

    def forget(self) -> None:
        """Start over: the tensors have moved."""
        self._graph: torch.cuda.CUDAGraph | None = None
        self._result: Result | None = None
        self._key: Hashable = None
        self._warm = 0

    def __call__(self, key: Hashable = None) -> Result:
        """One step. Where `key` is not that of the last call, the function does something else than before.

        What is returned holds the values of the newest step, and no longer those of earlier ones.
        """
        if not self._usable:
            return self._body()
        if key != self._key:
            self.forget()
            self._key = key
        if self._graph is None:
            if self._warm < _WARM_UP:
                self._warm += 1
                return self._beside()
            if not self._capture():
                self._usable = False
                return self._body()
        assert self._graph is not None
        self._graph.replay()
        return self._result  # type: ignore[return-value]

    def _beside(self) -> Result:
        """On a stream of its own, as capturing asks of the steps before it."""
        stream = torch.cuda.Stream(self._device)
        stream.wait_stream(torch.cuda.current_stream(self._device))
        with torch.cuda.stream(stream):
            result = self._body()
        torch.cuda.current_stream(self._device).wait_stream(stream)
        return result

    def _capture(self) -> bool:
        graph = torch.cuda.CUDAGraph()
        graph.register_generator_state(self._rng)
        before = self._snapshot()
        try:
            with torch.cuda.graph(graph):
                result = self._body()
            graph.replay()
        except RuntimeError as fault:
            self._restore(before)
            warnings.warn(f"steps are not replayed as a CUDA graph: {str(fault).splitlines()[0]}", stacklevel=2)
            return False
        replayed = self._snapshot()
        self._restore(before)
        self._beside()
        same = alike(replayed[0], self._snapshot()[0])
        self._restore(before)
        if not same:
            warnings.warn("steps are not replayed as a CUDA graph: it computes something else than they do", stacklevel=2)
            return False
        self._graph, self._result = graph, result
        return True

    def _snapshot(self) -> tuple[list[Tensor], Tensor]:
        return [tensor.detach().clone() for tensor in self._state()], self._rng.get_state()

    @torch.no_grad()
    def _restore(self, snapshot: tuple[list[Tensor], Tensor]) -> None:
        for tensor, value in zip(self._state(), snapshot[0], strict=True):
            tensor.copy_(value)
        self._rng.set_state(snapshot[1])


def alike(ours: Sequence[Tensor], theirs: Sequence[Tensor]) -> bool:
    """Whether two steps from one state did the same: single numbers one by one, all other tensors together.

    Not each tensor by itself: of the rounding noise that is the gradient of a bias before BatchNorm, Adam makes whole steps.
    """
    apart = whole = 0.0
    for one, other in zip(ours, theirs, strict=True):
        if not one.is_floating_point():
            if not torch.equal(one, other):
                return False
            continue
        lost = ~other.isfinite()  # of a run that has diverged
        if not torch.equal(~one.isfinite(), lost):
            return False
        one, other = one.masked_fill(lost, 0), other.masked_fill(lost, 0)
        if one.numel() == 1 and not torch.allclose(one, other, rtol=_TOLERANCE, atol=1e-6):
            return False
        apart += float((one - other).square().sum())
        whole += float(other.square().sum())
    return apart <= _TOLERANCE**2 * whole
