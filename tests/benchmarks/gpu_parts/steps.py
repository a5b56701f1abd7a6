"""One step as it is and replayed as a CUDA graph, beside the floor of its launches and the floor of its arithmetic.

The floor of launches is the number of kernels of a step times the time of the smallest one, launched by torch and by a graph.
The floor of arithmetic is that of `step.py`. On a CPU operators are counted instead of kernels, and nothing is replayed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Final

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from gbc.training.cuda_graph import STEPS_BEFORE_REPLAY
from gbc.training.trainer import Trainer
from tests.benchmarks.harness import (
    PRESETS,
    Column,
    Options,
    Row,
    clock,
    interleaved,
    milliseconds,
    pick,
    ratio,
    settings_of,
    trainer_of,
    turn,
)
from tests.benchmarks.step import BATCHES, arithmetic, matrix_rate

ABOUT: Final = "one step as it is and as a CUDA graph, and its floors: launches by torch, launches by a graph, arithmetic"
LIMIT: Final = 75.0
COLUMNS: Final = (
    Column("size", "size"),
    Column("batch", "batch"),
    Column("stepped_over_replayed", "as it is/graph", ".2f"),
    Column("replayed_over_floor", "graph/floor", ".2f"),
    Column("stepped_ms", "as it is, ms", ".2f"),
    Column("replayed_ms", "graph, ms", ".2f"),
    Column("kernels", "kernels"),
    Column("launches_ms", "launches by torch, ms", ".2f"),
    Column("nodes_ms", "launches by a graph, ms", ".2f"),
    Column("arithmetic_ms", "arithmetic, ms", ".2f"),
    Column("gflop", "GFLOP", ".2f"),
)
_LAUNCHES: Final = 1000


def rows(options: Options) -> Iterator[Row]:
    """A row for each size and batch."""
    cases = [(size, batch) for size in PRESETS for batch in BATCHES]
    for size, batch in [("quick", 32)] if options.quick else cases:
        yield _row(size, batch, options)


def new_trainer(size: str, batch: int, options: Options, *, replayed: bool) -> Trainer:
    """A trainer that replays its steps where that can be done, or never."""
    trainer = trainer_of(settings_of(size, options, batch_size=batch))
    if not replayed:
        trainer._replayed_step._usable = False
    return trainer


def warm(trainer: Trainer) -> Trainer:
    """The trainer after its first steps."""
    for _ in range(STEPS_BEFORE_REPLAY + 1):
        trainer.step()
    return trainer


def replays(trainer: Trainer) -> bool:
    """True if its steps are replayed as a CUDA graph by now."""
    return trainer._replayed_step._graph is not None


def _row(size: str, batch: int, options: Options) -> Row:
    device = pick(options)
    stepped = warm(new_trainer(size, batch, options, replayed=False))
    contenders = {
        "stepped": turn(stepped.step, options),
        "flop": matrix_rate(device),
        "launch": _launch(device),
    }
    count, flop = kernels(stepped.step, device), arithmetic(stepped.step)
    if device.type == "cuda":
        replayed = warm(new_trainer(size, batch, options, replayed=True))
        if replays(replayed):
            contenders["replayed"] = turn(replayed.step, options)
        contenders["node"] = _node(device)
    times: dict[str, list[float] | None] = {**interleaved(contenders, options.turns())}
    arithmetic_ms = flop * milliseconds(times["flop"] or [])
    nodes_ms = count * milliseconds(node) if count and (node := times.get("node")) else None
    stepped_s, replayed_s = times["stepped"] or [], times.get("replayed")
    return {
        "size": size,
        "batch": batch,
        "stepped_over_replayed": ratio(stepped_s, replayed_s) if replayed_s else None,
        "replayed_over_floor": milliseconds(replayed_s) / max(arithmetic_ms, nodes_ms or 0.0) if replayed_s else None,
        "stepped_ms": milliseconds(stepped_s),
        "replayed_ms": milliseconds(replayed_s) if replayed_s else None,
        "kernels": count,
        "launches_ms": count * milliseconds(times["launch"] or []) if count else None,
        "nodes_ms": nodes_ms,
        "arithmetic_ms": arithmetic_ms,
        "gflop": flop / 1e9,
    }


def kernels(step: Callable[[], object], device: torch.device) -> int | None:
    """The number of kernels and copies that a step launches; on a CPU of the operators that it calls.

    None where the profiler sees none, as without the permission to use the GPU's counters.
    """
    if device.type != "cuda":
        with _Operators() as seen:
            step()
        return seen.count
    from torch.autograd import DeviceType
    from torch.profiler import ProfilerActivity, profile

    with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as profiled:
        step()
        torch.cuda.synchronize(device)
    return sum(event.device_type == DeviceType.CUDA for event in profiled.events() or ()) or None


class _Operators(TorchDispatchMode):
    """Counts operators."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += 1
        return func(*args, **(kwargs or {}))


def _launch(device: torch.device) -> Callable[[], float]:
    """A function that times the smallest kernel as torch launches it, one after the other; seconds for each."""
    number = torch.zeros(1, device=device)

    def measure() -> float:
        began = clock(device)
        for _ in range(_LAUNCHES):
            number.add_(1)
        return (clock(device) - began) / _LAUNCHES

    return measure


def _node(device: torch.device) -> Callable[[], float]:
    """A function that times the same kernel in a CUDA graph of many."""
    number = torch.zeros(1, device=device)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for _ in range(_LAUNCHES):
            number.add_(1)

    def measure() -> float:
        began = clock(device)
        graph.replay()
        return (clock(device) - began) / _LAUNCHES

    return measure
