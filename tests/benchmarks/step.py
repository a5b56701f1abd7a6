"""One training step: ours, the textbook's (`plain.py`), one gradient a sample, and the floor that the arithmetic sets.

    python tests/benchmarks/step.py [--quick] [--threads N] [--device cpu|cuda] [--json FILE]

Sizes are those of presets, on untrained classifiers. Loss and gradients of the first step must be equal before anything is
timed. The floor is the time that the matrix products and convolutions of our step (torch's FLOP counter) take at the rate
of one large matrix product, measured in the same round. Gradients of single samples do not exist under the batch's
statistics: they are compared with our step under `bn_mode` eval, which costs as much. Memory is the peak of three steps in
a fresh process, the start of the trainer among it.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

if __package__ in (None, ""):
    sys.path[0] = str(Path(__file__).resolve().parents[2])

import torch

from gbc import layers
from tests.benchmarks.harness import (
    PRESETS,
    Column,
    Options,
    Row,
    clock,
    flops,
    interleaved,
    milliseconds,
    peak_memory,
    pick,
    ratio,
    settings_of,
    trainer_of,
    turn,
    untrained,
)
from tests.benchmarks.plain import Plain
from tests.benchmarks.step_differences import differences

NAME: Final = "step"
ABOUT: Final = "one training step: ours, the textbook's, one gradient a sample, the floor of its arithmetic"
COLUMNS: Final = (
    Column("size", "size"),
    Column("batch", "batch"),
    Column("plain_over_ours", "plain/ours", ".2f"),
    Column("per_sample_over_ours", "per-sample/ours", ".1f"),
    Column("ours_over_floor", "ours/floor", ".2f"),
    Column("plain_over_ours_memory", "memory plain/ours", ".2f"),
    Column("per_sample_over_ours_memory", "memory per-sample/ours", ".1f"),
    Column("ours_ms", "ours ms", ".1f"),
    Column("plain_ms", "plain ms", ".1f"),
    Column("per_sample_ms", "per-sample ms", ".0f"),
    Column("floor_ms", "floor ms", ".1f"),
    Column("gflop", "GFLOP", ".2f"),
    Column("ours_mb", "ours MB", ".0f"),
    Column("plain_mb", "plain MB", ".0f"),
    Column("per_sample_mb", "per-sample MB", ".0f"),
)
BATCHES: Final = (128, 256, 512)

_APART: Final = 1e-5  # float32 sums in another order
_GRADIENTS: Final = 3  # times the gradients of all samples: they, and what the second order needs of them
_ROOM: Final = 0.5


def rows(options: Options) -> Iterator[Row]:
    """A row for each size and batch."""
    cases = [(size, batch) for size in PRESETS for batch in BATCHES]
    for size, batch in [("quick", 128)] if options.quick else cases:
        yield _row(size, batch, options)


def ours(options: Options, size: str, batch: int, mode: str) -> Callable[[], object]:
    """Our step; `mode` is the BatchNorm mode, "" for the preset's."""
    return trainer_of(settings_of(size, options, batch_size=batch, **_mode(mode))).step


def textbook(options: Options, size: str, batch: int, mode: str, per_sample: bool = False) -> Callable[[], object]:
    """The plain step."""
    settings = settings_of(size, options, batch_size=batch, **_mode(mode))
    return Plain(settings, untrained(settings), per_sample=per_sample).step


def check_equal(size: str, options: Options, *, per_sample: bool) -> None:
    """The plain form computes the same loss and the same gradients as ours, or nothing may be compared."""
    changes = {"batch_size": 32, "steps": 1, "report_every": 1, **_mode("eval" if per_sample else "")}
    settings = settings_of(size, options, **changes)
    short = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = False  # ten bits of a product are not enough to compare by
    try:
        relative = differences(trainer_of(settings), Plain(settings, untrained(settings), per_sample=per_sample))
    finally:
        torch.backends.cudnn.allow_tf32 = short
    alpha = relative.pop("alpha")  # of ρ a difference of two equal parts, where most digits cancel
    assert max(relative.values()) < _APART and alpha < 100 * _APART, f"{size}: the two forms differ: {relative}, α {alpha}"


def matrix_rate(device: torch.device) -> Callable[[], float]:
    """A function that times one large matrix product: seconds for one FLOP."""
    size = 2048 if device.type == "cpu" else 8192
    a, b = torch.randn(2, size, size, device=device)
    torch.mm(a, b)

    def measure() -> float:
        began = clock(device)
        torch.mm(a, b)
        return (clock(device) - began) / (2 * size**3)

    return measure


def arithmetic(step: Callable[[], object]) -> int:
    """FLOPs that a step asks for: the doubling layers count as the transposed convolutions that they are."""
    own, layers.UpsamplingConvolution.forward = layers.UpsamplingConvolution.forward, torch.nn.ConvTranspose2d.forward  # type: ignore[method-assign]
    try:
        return flops(step)
    finally:
        layers.UpsamplingConvolution.forward = own  # type: ignore[method-assign]


def _mode(mode: str) -> dict[str, str]:
    return {"bn_mode": mode} if mode else {}


def _row(size: str, batch: int, options: Options) -> Row:
    fits = _fits(size, batch, options)
    check_equal(size, options, per_sample=False)
    step, plain = ours(options, size, batch, ""), textbook(options, size, batch, "")
    count = arithmetic(step)
    contenders = {
        "ours": turn(step, options),
        "plain": turn(plain, options),
        "flop": matrix_rate(pick(options)),
    }
    if fits:
        check_equal(size, options, per_sample=True)
        contenders["ours_eval"] = turn(ours(options, size, batch, "eval"), options)
        contenders["per_sample"] = turn(textbook(options, size, batch, "eval", True), options, steps=1)
    times = interleaved(contenders, options.turns())
    floor = [count * seconds for seconds in times["flop"]]
    memory = {
        "ours_mb": peak_memory(ours, options, size, batch, ""),
        "plain_mb": peak_memory(textbook, options, size, batch, ""),
        "per_sample_mb": peak_memory(textbook, options, size, batch, "eval", True) if fits else None,
    }
    return {
        "size": size,
        "batch": batch,
        "plain_over_ours": ratio(times["plain"], times["ours"]),
        "per_sample_over_ours": ratio(times["per_sample"], times["ours_eval"]) if fits else None,
        "ours_over_floor": ratio(times["ours"], floor),
        "plain_over_ours_memory": _quotient(memory["plain_mb"], memory["ours_mb"]),
        "per_sample_over_ours_memory": _quotient(memory["per_sample_mb"], memory["ours_mb"]),
        "ours_ms": milliseconds(times["ours"]),
        "plain_ms": milliseconds(times["plain"]),
        "per_sample_ms": milliseconds(times["per_sample"]) if fits else None,
        "floor_ms": milliseconds(floor),
        "gflop": count / 1e9,
        **memory,
    }


def _fits(size: str, batch: int, options: Options) -> bool:
    """True if there is room for one gradient a sample."""
    import psutil

    settings = settings_of(size, options, batch_size=batch)
    (classifier,) = untrained(settings)
    needed = 4 * _GRADIENTS * batch * sum(parameter.numel() for parameter in classifier.module.parameters())
    device = pick(options)
    free = torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else psutil.virtual_memory().available
    return needed < _ROOM * free


def _quotient(above: float | None, below: float | None) -> float | None:
    return above / below if above is not None and below else None


if __name__ == "__main__":
    from tests.benchmarks.run import main

    sys.exit(main(["--only", NAME, *sys.argv[1:]]))
