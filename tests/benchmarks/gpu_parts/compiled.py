"""The step with a generator that torch.compile has compiled: the losses need second derivatives, which it does not do.

On a CPU torch's compiler only traces (backend `eager`): compiling for one takes half a minute and is of no use there.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Final

from gbc.training.trainer import Trainer
from tests.benchmarks.gpu_parts.steps import new_trainer, replays, warm
from tests.benchmarks.harness import PRESETS, Column, Options, Row, clock, interleaved, milliseconds, pick, ratio, turn
from tests.benchmarks.step import BATCHES

ABOUT: Final = "the step with a compiled generator, as it is and as a CUDA graph, beside ours"
LIMIT: Final = 80.0
COLUMNS: Final = (
    Column("size", "size"),
    Column("batch", "batch"),
    Column("stepped_over_ours", "compiled/ours, as it is", ".2f"),
    Column("replayed_over_ours", "compiled/ours, graph", ".2f"),
    Column("compiling_s", "compiling, s", ".1f"),
    Column("stepped_ms", "compiled, as it is, ms", ".2f"),
    Column("replayed_ms", "compiled, graph, ms", ".2f"),
)

_ENOUGH: Final = 45.0  # seconds after which no further row is begun; compiling takes most of them


def rows(options: Options) -> Iterator[Row]:
    """A row for each size and batch, one batch of every size first, as many as there is time for."""
    cases = [(size, batch) for batch in BATCHES for size in PRESETS]
    began = time.monotonic()
    for size, batch in [("quick", 32)] if options.quick else cases:
        if time.monotonic() - began > _ENOUGH:  # there may be no time for another one
            return
        yield _row(size, batch, options)


def _row(size: str, batch: int, options: Options) -> Row:
    device = pick(options)
    on_gpu = device.type == "cuda"

    def compiled(replayed: bool) -> tuple[Trainer, float]:
        """A trainer and the seconds of its first step, in which the generator is compiled."""
        trainer = new_trainer(size, batch, options, replayed=replayed)
        trainer.generator.compile(backend="inductor" if on_gpu else "eager", dynamic=False)
        began = clock(device)
        trainer.step()
        return trainer, clock(device) - began

    first, seconds = compiled(replayed=False)
    stepped = _times(first, new_trainer(size, batch, options, replayed=False), options)
    replayed = {}
    if on_gpu:
        replayed = _times(compiled(replayed=True)[0], new_trainer(size, batch, options, replayed=True), options, graphs=True)
    return {
        "size": size,
        "batch": batch,
        "stepped_over_ours": ratio(stepped["compiled"], stepped["ours"]),
        "replayed_over_ours": ratio(replayed["compiled"], replayed["ours"]) if replayed else None,
        "compiling_s": seconds,
        "stepped_ms": milliseconds(stepped["compiled"]),
        "replayed_ms": milliseconds(replayed["compiled"]) if replayed else None,
    }


def _times(compiled: Trainer, ours: Trainer, options: Options, *, graphs: bool = False) -> dict[str, list[float]]:
    """Seconds of a step of both, round by round; none if `graphs` are asked for and one of them has no graph."""
    both = {"compiled": warm(compiled), "ours": warm(ours)}
    if graphs and not all(map(replays, both.values())):
        return {}
    return interleaved({name: turn(trainer.step, options) for name, trainer in both.items()}, options.turns())
