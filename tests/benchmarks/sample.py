"""The speed at which synthetic images are made: drawing alone, then with writing them, in images a second.

    python tests/benchmarks/sample.py [--count N] [--threads N] [--folder DIR]

The generator has the size of the quick preset and random weights. For comparison the module is called as it is, as
training does: one thread, 500 images at a time. Small files are as fast as the file system that `--folder` lies in.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from torch import Tensor

from gbc.classifiers.architectures import kaiming
from gbc.config import TrialConfig
from gbc.export import synthetic_sets
from gbc.export.drawing import ExportedGenerator
from gbc.training.evaluation_latents import EvaluationLatents
from gbc.training.generator import Generator


def quick() -> ExportedGenerator:
    """A generator of the quick preset that has seen a batch, so that its BatchNorm has statistics."""
    settings = TrialConfig(width=256, channels=32)
    module = Generator(classes=10, shape=(1, 28, 28), noise_dim=settings.noise_dim, width=256, channels=32)
    kaiming(module, torch.Generator().manual_seed(0))
    module(torch.randn(256, settings.noise_dim), torch.arange(256) % 10)
    labels = list(range(10))
    latents = EvaluationLatents.of(settings, [labels], 10, threads=1)
    return ExportedGenerator(module.eval(), (1, 28, 28), tuple(map(str, labels)), settings, {}, [labels], latents, {})


def as_it_is(generator: ExportedGenerator, count: int) -> Iterator[Tensor]:
    """Without the painter."""
    torch.set_num_threads(1)
    for labels in (torch.arange(count) % 10).split(500):
        with torch.no_grad():
            yield generator.module(torch.randn(len(labels), generator.module.noise_dim), labels)


def rate(count: int, work: Callable[[], object]) -> float:
    """Images a second."""
    began = time.perf_counter()
    work()
    return count / (time.perf_counter() - began)


def main() -> None:
    """Print the table."""
    cli = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    cli.add_argument("--count", type=int, default=50_000)
    cli.add_argument("--threads", type=int, default=torch.get_num_threads())
    cli.add_argument("--folder", metavar="DIR", help="where files are written (default: the folder for temporary files)")
    arguments = cli.parse_args()
    count, generator = arguments.count, quick()
    torch.set_num_threads(arguments.threads)
    wanted = synthetic_sets.SyntheticSet(generator, range(10), count, 0)
    drawn = [synthetic_sets.as_bytes(part) for part in wanted.images()]
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        rows = {
            "drawing": lambda: [len(part) for part in wanted.images()],
            "PNG, encoding alone": lambda: [len(file) for part in drawn for file in synthetic_sets.small_pngs(part)],
            "files of 500 bytes": lambda: [Path(folder, str(number)).write_bytes(bytes(500)) for number in range(count)],
            "drawing, image folder": lambda: synthetic_sets.write_folder(Path(folder) / "set", wanted, lambda _: None),
            "drawing, npz": lambda: synthetic_sets.write_arrays(Path(folder) / "set.npz", wanted, lambda _: None),
            "module as it is, one thread": lambda: [len(part) for part in as_it_is(generator, count)],
        }
        print(f"{'':30}{'images/s':>10}   ({count} images, {arguments.threads} threads)")
        for name, work in rows.items():
            print(f"{name:30}{rate(count, work):10.0f}", flush=True)


if __name__ == "__main__":
    main()
