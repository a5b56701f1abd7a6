"""Things that the groups of `run.py` share: settings, clocks that take turns, peak memory, tables, the machine in words.

A group is a module with `NAME`, `ABOUT` (a line), `COLUMNS` and `rows(options)`, which yields rows as they are measured.
A row is a flat mapping of plain values, so that JSON takes it; ratios are medians of the ratios of single rounds.
"""

from __future__ import annotations

import multiprocessing
import os
import platform
import resource
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Protocol

if TYPE_CHECKING:
    import torch

    from gbc.classifiers.architectures import Classifier
    from gbc.config import TrialConfig
    from gbc.training.trainer import Trainer

ROOT: Final = Path(__file__).resolve().parents[2]
PRESETS: Final = {
    "quick": ("digits", "quick"),
    "default": ("fashion_mnist", "quick"),
    "paper": ("fashion_mnist", "paper"),
}
"""Sizes by name: data set and preset, the words of a file in configs/."""

Value = str | int | float | None
Row = dict[str, Value]

_LANES: Final = {"AVX512": "AVX-512, 512-bit vectors", "AVX2": "AVX2, 256-bit vectors", "DEFAULT": "128-bit vectors"}
_LONGEST: Final = 100  # steps of one turn


@dataclass(frozen=True)
class Options:
    """The number from the command line; None leaves it to the group."""

    quick: bool = False
    threads: int = 1
    device: str = "auto"
    rounds: int | None = None
    trials: int | None = None
    steps: int | None = None

    def turns(self, usual: int = 5) -> int:
        """The number of rounds: a few, if it has to be quick."""
        return self.rounds or (2 if self.quick else usual)

    @property
    def seconds(self) -> float:
        """The shortest turn of a contender; a single step may take longer."""
        return 0.03 if self.quick else 0.2


@dataclass(frozen=True)
class Column:
    """One column of a table: the key in the rows, its heading, how a value is written."""

    key: str
    title: str
    form: str = ""

    def text(self, row: Row) -> str:
        """The value, or a dash where it was not measured."""
        value = row[self.key]
        return "–" if value is None else format(value, "" if isinstance(value, str) else self.form)


class Group(Protocol):
    """A module that measures something."""

    NAME: str
    ABOUT: str
    COLUMNS: Sequence[Column]

    def rows(self, options: Options) -> Iterator[Row]:
        """Rows as they come; every one has the same keys, among them those of `COLUMNS`."""


def table(columns: Sequence[Column], rows: Sequence[Row]) -> str:
    """Words to the left, numbers to the right."""
    cells = [[column.title for column in columns], *([column.text(row) for column in columns] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    left = [any(isinstance(row[column.key], str) for row in rows) for column in columns]
    return "\n".join(
        "  ".join(
            f"{cell:<{width}}" if wordy else f"{cell:>{width}}"
            for cell, width, wordy in zip(line, widths, left, strict=True)
        ).rstrip()
        for line in cells
    )  # fmt: skip


def machine(options: Options) -> Row:
    """The machine of the figures, without a name: kinds and counts."""
    import psutil
    import torch

    device = pick(options)
    return {
        "cpu": f"{platform.machine()}, {_LANES.get(kind := torch.backends.cpu.get_cpu_capability(), kind)}",
        "cores": cores(),
        "memory_gb": round(psutil.virtual_memory().total / 1e9, 1),
        "gpu": torch.cuda.get_device_name(device) if device.type == "cuda" else None,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "threads": options.threads,
        "load_average": round(os.getloadavg()[0], 2),
    }


def cores() -> int:
    """Peak memory of this process."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def pick(options: Options) -> torch.device:
    """The device that is measured."""
    from gbc.runtime import pick_device

    return pick_device(options.device)


def settings_of(size: str, options: Options, **changes: Any) -> TrialConfig:
    """A trial of the preset behind `size`: what its file fixes, the middle of every range that it searches."""
    from search.spec.resolve import resolve
    from search.spec.space import settle

    dataset, preset = PRESETS[size]
    sweep = resolve(dataset=dataset, preset=preset, config=None, flags={}, assignments={}, slots=lambda _: 1)
    middle = {key: dimension.at(0.5) for key, dimension in sweep.space.items()}
    return settle(sweep.trial, middle, 0).updated({"device": options.device, **changes}, size)


def untrained(settings: TrialConfig, shape: tuple[int, ...] | None = None, classes: int | None = None) -> list[Classifier]:
    """Classifiers with random weights: the time of a step does not depend on them. Shape and classes: the data set's."""
    from gbc.classifiers import architectures
    from gbc.data import datasets

    data = datasets.load(settings.dataset)
    shape = shape or data.shape
    names = tuple(map(str, range(classes or len(data.class_names))))
    return [
        architectures.Classifier(architectures.build(spec.classifier, shape, len(names)), names, shape, len(data.train_labels))
        for spec in settings.classifiers()
    ]


def trainer_of(settings: TrialConfig, **shape: Any) -> Trainer:
    """A trainer on untrained classifiers (`untrained`)."""
    from gbc.training.trainer import Trainer

    return Trainer(settings, untrained(settings, **shape))


def clock(device: torch.device) -> float:
    """Seconds, after the device has done what it was given."""
    if device.type == "cuda":
        import torch

        torch.cuda.synchronize(device)
    return time.perf_counter()


def turn(step: Callable[[], object], options: Options, steps: int | None = None) -> Callable[[], float]:
    """A turn of a contender: the mean seconds of a step, over as many steps as `options.seconds` holds.

    The step is run twice before: the first fills caches, the second says how long one takes.
    """
    device = pick(options)
    step()
    began = clock(device)
    step()
    count = steps or max(1, min(_LONGEST, round(options.seconds / (clock(device) - began))))

    def measure() -> float:
        began = clock(device)
        for _ in range(count):
            step()
        return (clock(device) - began) / count

    return measure


def interleaved(contenders: Mapping[str, Callable[[], float]], rounds: int) -> dict[str, list[float]]:
    """Every contender once a round, each round begun by the next: a noisy machine disturbs all alike."""
    names = list(contenders)
    times: dict[str, list[float]] = {name: [] for name in names}
    for number in range(rounds):
        first = number % len(names)
        for name in names[first:] + names[:first]:
            times[name].append(contenders[name]())
    return times


def ratio(above: Sequence[float], below: Sequence[float]) -> float:
    """Median of the ratios of single rounds."""
    return statistics.median(a / b for a, b in zip(above, below, strict=True))


def milliseconds(seconds: Sequence[float]) -> float:
    """Their median."""
    return 1e3 * statistics.median(seconds)


def flops(step: Callable[[], object]) -> int:
    """Operations of one step, by torch's counter: every matrix product and convolution, forward and backward; nothing else."""
    from torch.utils.flop_counter import FlopCounterMode

    with FlopCounterMode(display=False) as counter:
        step()
    return counter.get_total_flops()


def peak_memory(make: Callable[..., Callable[[], object]], options: Options, *given: Any, steps: int = 3) -> float | None:
    """Peak of `steps` steps in a process of its own, in 10⁶ bytes: of the GPU's memory there, else resident.

    `make(options, *given)`, a function of a module, gives the step. Resident memory counts from the point where everything is
    imported: what is compared are steps, not libraries. None: the process was ended, or had no room.
    """
    # A server forks each process from one that has imported everything: fresh, and there at once. Tests may have started it.
    context = multiprocessing.get_context("forkserver")
    # torch's own optimisers import its compiler when they are made; ours does not, and should not win by that here.
    libraries = ["torch", "torch._dynamo", "gbc.training.trainer", "search.spec.config"]
    context.set_forkserver_preload([*libraries, "tests.benchmarks.harness", make.__module__])
    mine, theirs = context.Pipe(duplex=False)
    process = context.Process(target=_peak, args=(theirs, make, options, given, steps))
    process.start()
    theirs.close()
    try:
        peak: float = mine.recv()
    except EOFError:
        return None
    finally:
        process.join()
    return peak


def _peak(to: Any, make: Callable[..., Callable[[], object]], options: Options, given: tuple[Any, ...], steps: int) -> None:
    import psutil
    import torch._dynamo

    import gbc.training.trainer  # noqa: F401

    torch.set_num_threads(options.threads)
    before = psutil.Process().memory_info().rss
    step = make(options, *given)
    for _ in range(steps):
        step()
    if pick(options).type == "cuda":
        peak = torch.cuda.max_memory_allocated()
    else:
        scale = 1 if sys.platform == "darwin" else 1024
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * scale - before
    to.send(peak / 1e6)
