"""Growth of the cost of our step with the classifier's width, the images' side, the classes and the classifiers.

    python tests/benchmarks/growth.py [--quick] [--threads N] [--device cpu|cuda] [--json FILE]

One axis at a time from the default preset at batch 128, each as a ratio to its smallest; beside it the ratio of the
arithmetic (torch's FLOP counter). Time that grows more slowly than arithmetic was overhead; faster, memory or what is no
product.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

if __package__ in (None, ""):
    sys.path[0] = str(Path(__file__).resolve().parents[2])

from gbc.training.trainer import Trainer
from tests.benchmarks.harness import (
    Column,
    Options,
    Row,
    flops,
    interleaved,
    milliseconds,
    ratio,
    settings_of,
    trainer_of,
    turn,
)

NAME: Final = "growth"
ABOUT: Final = "our step as classifier width, image side, classes and classifiers grow (default preset, batch 128)"
COLUMNS: Final = (
    Column("axis", "axis"),
    Column("value", "value"),
    Column("time_ratio", "time ratio", ".2f"),
    Column("flop_ratio", "FLOP ratio", ".2f"),
    Column("ms", "ms", ".1f"),
    Column("gflop", "GFLOP", ".2f"),
)


def _width(options: Options, value: int) -> Trainer:
    return trainer_of(settings_of("default", options, batch_size=128, **{"classifier.hidden": value}))


def _side(options: Options, value: int) -> Trainer:
    return trainer_of(settings_of("default", options, batch_size=128), shape=(1, value, value))


def _classes(options: Options, value: int) -> Trainer:
    return trainer_of(settings_of("default", options, batch_size=128), classes=value)


def _classifiers(options: Options, value: int) -> Trainer:
    settings = settings_of("default", options, batch_size=128)
    first = settings.classifier.model_dump(mode="json")
    others: list[dict[str, Any]] = [{"classifier": {**first, "seed": seed}} for seed in range(1, value)]
    return trainer_of(settings.updated({"experts": others}, "growth"))


AXES: Final[dict[str, tuple[Callable[[Options, int], Trainer], tuple[int, ...]]]] = {
    "width": (_width, (256, 512, 1024, 2048, 4096)),
    "side": (_side, (28, 32, 48, 64)),
    "classes": (_classes, (2, 10, 100)),
    "classifiers": (_classifiers, (1, 2, 4, 8)),
}
"""By name: what makes a trainer of a value, and the values."""


def rows(options: Options) -> Iterator[Row]:
    """A row for each value of each axis, the smallest first."""
    for axis, (make, values) in AXES.items():
        values = values[:2] if options.quick else values
        steps = {value: make(options, value).step for value in values}
        counts = {value: flops(step) for value, step in steps.items()}
        times = interleaved({str(value): turn(step, options) for value, step in steps.items()}, options.turns())
        smallest = values[0]
        for value in values:
            yield {
                "axis": axis,
                "value": value,
                "time_ratio": ratio(times[str(value)], times[str(smallest)]),
                "flop_ratio": counts[value] / counts[smallest],
                "ms": milliseconds(times[str(value)]),
                "gflop": counts[value] / 1e9,
            }


if __name__ == "__main__":
    from tests.benchmarks.run import main

    sys.exit(main(["--only", NAME, *sys.argv[1:]]))
