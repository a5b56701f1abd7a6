"""Exported generators for tests: trained for real, by the trainer itself."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from gbc import export, pictures
from gbc.config import TrialConfig
from gbc.metrics.scores import ReferenceSet
from gbc.training import tasks
from gbc.training.trainer import Trainer
from tests.conftest import TINY, TINY_CLASSIFIER

TWO_TASKS = {"experts": [{"classifier": TINY_CLASSIFIER, "dataset": {"name": "mnist", "per_class": 10}}]}


@dataclass(frozen=True)
class Trained:
    """An exported folder, and what its training had judged and logged last."""

    folder: Path
    images: Tensor
    picture: NDArray[np.uint8]
    metrics: dict[str, float]


def trained(cache: Path, folder: Path, formats: Sequence[str] = (), **changes: object) -> Trained:
    """Train with the settings `TINY`, but for `changes`, and export to the new `folder`."""
    torch.set_num_threads(1)
    settings = TrialConfig.parse({**TINY, **changes}, "tests")
    inputs = tasks.obtain(settings, cache)
    trainer = Trainer(settings, inputs.classifiers, ReferenceSet.of(inputs.images, "cpu"))
    *_, report = trainer.run()
    assert report.images is not None
    picture = folder.with_suffix(".png")
    picture.parent.mkdir(parents=True, exist_ok=True)
    picture.write_bytes(pictures.png(report.images))
    export.write(
        folder, export.generator_weights(trainer.state_dict()), settings, inputs, report.metrics,
        origin="Made by a test.", picture=picture, formats=formats, threads=1,
    )  # fmt: skip
    images = trainer.sample(trainer.evaluation_noise, trainer.evaluation_labels, trainer.evaluation_tasks)
    return Trained(folder, images, report.images, dict(report.metrics))
