"""Things that the peers of `peers_sweep.py` share: the same task as ours, read from the same file."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from search.files.paths import CLASSIFIERS
from search.spec.config import SweepConfig
from search.spec.space import settle

if TYPE_CHECKING:
    from gbc.report import Report


def sweep_of(file: str | Path) -> SweepConfig:
    """The sweep that our own command gets."""
    from gbc.settings import load_yaml

    return SweepConfig.parse(load_yaml(Path(file)), str(file))


def command_line(about: str) -> argparse.ArgumentParser:
    """FILE and `--threads` of one trial."""
    cli = argparse.ArgumentParser(description=about.partition("\n")[0])
    cli.add_argument("file", help="a sweep file of ours")
    cli.add_argument("--threads", type=int, default=1)
    return cli


def reports(file: str | Path, sampled: Mapping[str, Any], seed: int, threads: int) -> Iterator[Report]:
    """Train one setting as a worker of ours does; `file` lies in the folder of the classifiers' cache."""
    import torch

    from gbc.metrics.scores import ReferenceSet
    from gbc.runtime import pick_device
    from gbc.training import tasks
    from gbc.training.trainer import Trainer

    torch.set_num_threads(threads)
    settings = settle(sweep_of(file).trial, sampled, seed)
    inputs = tasks.obtain(settings, Path(file).parent / CLASSIFIERS)
    yield from Trainer(settings, inputs.classifiers, ReferenceSet.of(inputs.images, pick_device(settings.device))).run()
