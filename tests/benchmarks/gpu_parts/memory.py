"""`--gpus-per-trial auto`: the memory that it measures for a trial, and what processes with that trial really take.

On a CPU nothing is measured before a sweep: the peak of one process stands for it.
"""

from __future__ import annotations

import multiprocessing
from collections.abc import Iterator
from multiprocessing.synchronize import Event
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

import psutil
import torch

from tests.benchmarks.harness import PRESETS, Column, Options, Row, pick

ABOUT: Final = "`--gpus-per-trial auto`: memory measured before a sweep, and taken by as many processes with that trial"
LIMIT: Final = 60.0
COLUMNS: Final = (
    Column("what", "what"),
    Column("mb", "MB a process", ".0f"),
    Column("measured_over_real", "measured/real", ".2f"),
    Column("processes", "processes"),
    Column("verdict", "verdict"),
)

_PROCESSES: Final = 4
_PATIENCE: Final = 60.0  # seconds until a process with a trial is ready
_CLASSIFIER: Final = 20  # steps of its training: its weights take the same room


def rows(options: Options) -> Iterator[Row]:
    """Rows for the measurement by `auto`, for a bare context, and for processes with a trial."""
    with TemporaryDirectory() as scratch:
        config, measured, trials = _measured(options, Path(scratch))
        yield {"what": "measured for a trial", "mb": measured / 1e6, "processes": 1, **_verdict(None, f"{trials} fit")}
        if not options.quick:
            yield from _taken("a process without a trial", None, options, 1)
        count = 1 if options.quick else max(1, min(_PROCESSES, trials))
        on_gpu = pick(options).type == "cuda"
        yield from _taken("a process with a trial", (config, Path(scratch)), options, count, measured if on_gpu else None)


def sweep_of(options: Options) -> Any:
    """The default sweep, or the smallest one, with a classifier that is trained in a second."""
    from search.spec.resolve import resolve

    dataset, preset = PRESETS["quick" if options.quick else "default"]
    assignments: dict[str, object] = {"classifier.steps": _CLASSIFIER, "device": pick(options).type}
    if options.quick:
        assignments |= {"width": 16, "channels": 8, "classifier.hidden": 24}
    return resolve(dataset=dataset, preset=preset, config=None, flags={}, assignments=assignments, slots=lambda _: 1)


def _measured(options: Options, cache: Path) -> tuple[Any, float, int]:
    """The sweep, the bytes that `auto` measures for one of its trials, and the number of trials that fit."""
    from gbc.training import tasks
    from search.driver import preflight

    config = sweep_of(options)
    if pick(options).type == "cuda":
        (variant,) = preflight.variants(config)
        ready = preflight.PreparedVariant(variant, tasks.obtain(config.trial, cache), ())
        need, free = preflight.measure_memory(config, [ready])
        return config, need, free // need
    before = psutil.Process().memory_info().rss
    _one_report(config, cache, options)
    return config, max(psutil.Process().memory_info().rss - before, 1), 1


def _one_report(config: Any, cache: Path, options: Options) -> Any:
    """A trainer of the largest trial of the sweep after a report."""
    from gbc.metrics.scores import ReferenceSet
    from gbc.training import tasks
    from gbc.training.trainer import Trainer
    from search.driver.preflight import probe_settings, variants

    (variant,) = variants(config)
    settings = probe_settings(config, variant)
    inputs = tasks.obtain(settings, cache)
    trainer = Trainer(settings, inputs.classifiers, ReferenceSet.of(inputs.images, pick(options)))
    for _ in trainer.run():
        pass
    return trainer


def _taken(
    holding: str, trial: tuple[Any, Path] | None, options: Options, count: int, measured: float | None = None
) -> Iterator[Row]:
    """A row for processes that hold a trial, or nothing but what the device needs, at the same time."""
    context = multiprocessing.get_context("spawn")
    done = context.Event()
    before, processes, lines = _in_use(options, []), [], []
    try:
        for _ in range(count):
            reading, writing = context.Pipe(duplex=False)
            process = context.Process(target=_hold, args=(trial, options, writing, done))
            process.start()
            writing.close()
            processes.append(process)
            lines.append(reading)
        faults = [line.recv() if line.poll(_PATIENCE) else "not ready in time" for line in lines]
        real = (_in_use(options, [process.pid for process in processes]) - before) / count
    finally:
        done.set()
        for process in processes:
            process.join(_PATIENCE)
    fault = next(filter(None, faults), None)
    ratio = measured / real if measured and real > 0 else None
    verdict = fault or ("" if ratio is None else "enough" if ratio >= 1 else "TOO LITTLE")
    yield {"what": holding, "mb": real / 1e6, "processes": count, **_verdict(ratio, verdict)}


def _verdict(ratio: float | None, verdict: str) -> Row:
    return {"measured_over_real": ratio, "verdict": verdict}


def _hold(trial: tuple[Any, Path] | None, options: Options, ready: Any, done: Event) -> None:
    """In a process of its own: make the trial, say that it is ready or why not, and keep it until `done`."""
    fault, kept = None, None
    try:
        torch.set_num_threads(1)
        device = pick(options)
        if trial is None:
            kept = torch.ones(64, 64, device=device)
            kept = torch.conv2d(kept[None, None] @ kept, kept[None, None, :3, :3])  # loads cuBLAS and cuDNN
        else:
            kept = _one_report(*trial, options)
        if device.type == "cuda":
            torch.cuda.synchronize(device)
    except Exception as caught:
        fault = f"{type(caught).__name__}: {next(iter(str(caught).splitlines()), '')}"
    ready.send(fault)
    done.wait(_PATIENCE)
    del kept


def _in_use(options: Options, processes: list[int | None]) -> float:
    """Bytes in use on the whole device; on a CPU resident in these processes."""
    device = pick(options)
    if device.type == "cuda":
        torch.cuda.empty_cache()
        free, total = torch.cuda.mem_get_info(device)
        return total - free
    return float(sum(psutil.Process(process).memory_info().rss for process in processes))
