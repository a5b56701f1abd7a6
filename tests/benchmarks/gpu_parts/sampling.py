"""Images a second: the generator's module on the device by batch size, and an exported generator, which draws on the CPU."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

import torch

from tests.benchmarks.harness import Column, Options, Row, cores, interleaved, milliseconds, pick, turn
from tests.benchmarks.sample import quick

ABOUT: Final = (
    "images a second of a generator of the default size: its module on the device, and an export, which draws on CPUs"
)
LIMIT: Final = 20.0
COLUMNS: Final = (
    Column("by", "drawn by"),
    Column("batch", "images at a time"),
    Column("images_per_s", "images/s", ".0f"),
    Column("ms", "ms", ".2f"),
)

_BATCHES: Final = (1, 128, 512, 4096)
_COUNT: Final = 8192  # images of an export at a time


def rows(options: Options) -> Iterator[Row]:
    """A row for each batch size, then the export."""
    device, exported = pick(options), quick()
    count = 256 if options.quick else _COUNT
    torch.set_num_threads(1 if options.quick else cores())

    def export() -> None:
        exported.sample(torch.arange(count) % 10)

    seconds = interleaved({"export": turn(export, options, steps=1)}, options.turns())["export"]
    module: Any = exported.module.to(device)
    for batch in _BATCHES[:2] if options.quick else _BATCHES:
        noise = torch.randn(batch, module.noise_dim, device=device)
        labels = torch.arange(batch, device=device) % 10

        @torch.no_grad()
        def draw(noise: torch.Tensor = noise, labels: torch.Tensor = labels) -> None:
            module(noise, labels)

        yield _row(f"module on {device.type}", batch, interleaved({"draw": turn(draw, options)}, options.turns())["draw"])
    yield _row(f"export on cpu, {torch.get_num_threads()} threads", count, seconds)


def _row(by: str, batch: int, seconds: list[float]) -> Row:
    return {"by": by, "batch": batch, "images_per_s": 1e3 * batch / milliseconds(seconds), "ms": milliseconds(seconds)}
