"""Packs of K trials beside one trial alone, on one device: trials an hour.

    python tests/benchmarks/packing.py [--quick] [--threads N] [--device cpu|cuda] [--json FILE]

Above 1, a pack of K is worth more than K trials one after the other. The default preset at batch 256; K doubles up to 16 on a
CPU, on a GPU up to 128.
"""

from __future__ import annotations

import statistics
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

if __package__ in (None, ""):
    sys.path[0] = str(Path(__file__).resolve().parents[2])

from tests.benchmarks.harness import (
    Column,
    Options,
    Row,
    interleaved,
    milliseconds,
    peak_memory,
    pick,
    ratio,
    settings_of,
    trainer_of,
    turn,
    untrained,
)  # fmt: skip

NAME: Final = "packing"
ABOUT: Final = "K trials trained as one stack, beside one trial alone (default preset, batch 256)"
COLUMNS: Final = (
    Column("members", "K"),
    Column("ratio", "trials/h, pack / alone", ".2f"),
    Column("trials_an_hour", "trials/h", ".0f"),
    Column("step_ms", "step ms", ".1f"),
    Column("peak_mb", "peak MB", ".0f"),
)
_BATCH: Final = 256
_STEPS: Final = 1200
"""Of a trial of that preset."""


def rows(options: Options) -> Iterator[Row]:
    """A row for the trial alone (0 members) and for each K."""
    most = 128 if pick(options).type == "cuda" else 4 if options.quick else 16
    counts = [0, *(2**power for power in range(most.bit_length()))]
    found = interleaved({str(count): turn(stepping(options, count), options) for count in counts}, options.turns())
    for count in counts:
        times, trials = found[str(count)], max(1, count)
        yield {
            "members": count or "alone",
            "ratio": trials * ratio(found["0"], times),
            "trials_an_hour": trials * 3600 / _STEPS / statistics.median(times),
            "step_ms": milliseconds(times),
            "peak_mb": peak_memory(stepping, options, count),
            "batch": _BATCH,
        }


def stepping(options: Options, count: int) -> Callable[[], object]:
    """The step of a pack of `count`, or of a trainer alone."""
    from gbc.training.pack import Pack

    settings = settings_of("default", options, batch_size=_BATCH, steps=10**6, report_every=10**6)
    if not count:
        return trainer_of(settings).step
    pack = Pack(untrained(settings))
    for seed in range(count):
        pack.add(settings.updated({"seed": seed, "lr": 1e-3 * (1 + 0.1 * seed)}, "packing"))
    return pack.step


if __name__ == "__main__":
    from tests.benchmarks.run import main

    sys.exit(main(["--only", NAME, *sys.argv[1:]]))
