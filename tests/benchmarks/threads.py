"""Two trainers of one thread against one of two threads: steps a second in total.

    python tests/benchmarks/threads.py [--quick] [--device cpu|cuda] [--json FILE]

A process for each trainer, the default preset. The two kinds take turns; while one works, the other waits and takes no CPU.
"""

from __future__ import annotations

import multiprocessing
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

if __package__ in (None, ""):
    sys.path[0] = str(Path(__file__).resolve().parents[2])

import torch

from tests.benchmarks.harness import Column, Options, Row, clock, interleaved, pick, ratio, settings_of, trainer_of

NAME: Final = "threads"
ABOUT: Final = "two trainers of one thread at once against one of two threads (default preset)"
COLUMNS: Final = (
    Column("batch", "batch"),
    Column("ratio", "two of one / one of two", ".2f"),
    Column("two_of_one", "2 × 1 thread, steps/s", ".1f"),
    Column("one_of_two", "1 × 2 threads, steps/s", ".1f"),
)
_PAUSE: Final = 0.3  # seconds after which threads of a pool no longer spin


class Worker:
    """A trainer in a process of its own that steps for so many seconds when it is told to."""

    def __init__(self, options: Options, batch: int, threads: int) -> None:
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=_work, args=(theirs, options, batch, threads), daemon=True)
        self._process.start()
        self._pipe.recv()

    def begin(self, seconds: float) -> None:
        self._pipe.send(seconds)

    def rate(self) -> float:
        """Steps a second of the turn that was begun."""
        steps_per_second: float = self._pipe.recv()
        return steps_per_second

    def end(self) -> None:
        self._pipe.send(None)
        self._process.join()


def rows(options: Options) -> Iterator[Row]:
    """A row for each batch size."""
    seconds = 0.5 if options.quick else 2.0
    for batch in (128,) if options.quick else (128, 256):
        single, double = [Worker(options, batch, 1) for _ in range(2)], [Worker(options, batch, 2)]
        try:
            measured_rates = interleaved(
                {"two_of_one": _together(single, seconds), "one_of_two": _together(double, seconds)}, options.turns()
            )
        finally:
            for worker in single + double:
                worker.end()
        yield {
            "batch": batch,
            "ratio": ratio(measured_rates["two_of_one"], measured_rates["one_of_two"]),
            **{name: statistics.median(rates) for name, rates in measured_rates.items()},
        }


def _together(workers: list[Worker], seconds: float) -> Callable[[], float]:
    def measure() -> float:
        time.sleep(_PAUSE)
        for worker in workers:
            worker.begin(seconds)
        return sum(worker.rate() for worker in workers)

    return measure


def _work(pipe: Any, options: Options, batch: int, threads: int) -> None:
    torch.set_num_threads(threads)
    device = pick(options)
    run = trainer_of(settings_of("default", options, batch_size=batch))
    for _ in range(3):
        run.step()
    pipe.send(None)
    while (seconds := pipe.recv()) is not None:
        began, steps = clock(device), 0
        while (passed := clock(device) - began) < seconds:
            run.step()
            steps += 1
        pipe.send(steps / passed)


if __name__ == "__main__":
    from tests.benchmarks.run import main

    sys.exit(main(["--only", NAME, *sys.argv[1:]]))
