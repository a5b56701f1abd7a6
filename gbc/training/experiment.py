"""One training run from settings to samples, with its cost."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from gbc.config import TrialConfig
from gbc.report import Report
from gbc.runtime import pick_device
from gbc.training.tasks import TrialInputs
from gbc.training.trainer import Trainer


@dataclass(frozen=True)
class Outcome:
    """Result of a finished run."""

    report: Report
    """The last report."""
    images: Tensor
    """The evaluated samples, [K, channels, height, width] in [0, 1]."""
    labels: Tensor
    """[K]"""
    seconds: float
    """Training time, reports included."""
    seconds_per_image: float
    """Training time per evaluated image for pixels, sampling time for a generator (supplement, Tab. 3)."""
    parameters: int
    """Number of optimised parameters of the generator, or of pixels (ibid.)."""

    def cost(self) -> dict[str, float]:
        """Time and size by name, as metrics."""
        return {
            "cost/seconds": self.seconds,
            "cost/seconds_per_image": self.seconds_per_image,
            "cost/parameters": float(self.parameters),
        }


def run(config: TrialConfig, inputs: TrialInputs, say: Callable[[Report], None] | None = None) -> Outcome:
    """Train on `inputs` to the end; `say` is called with each report. All results are on the CPU, and the classifiers again.

    Raises:
        BadInput, NotQuasiHomogeneous, Diverged: as `Trainer`.
    """
    trainer = Trainer(config, inputs.classifiers, inputs.reference(pick_device(config.device)))
    began = time.perf_counter()
    for report in trainer.run():
        if say:
            say(report)
    seconds = time.perf_counter() - began
    began = time.perf_counter()
    images = trainer.sample(trainer.evaluation_noise, trainer.evaluation_labels, trainer.evaluation_tasks).cpu()
    sampling = time.perf_counter() - began
    for classifier in inputs.classifiers:
        classifier.module.cpu()  # an evaluation gives them the images, which are on the CPU
    return Outcome(
        report=report,
        images=images,
        labels=trainer.evaluation_labels.cpu(),
        seconds=seconds,
        seconds_per_image=(seconds if config.generator == "pixels" else sampling) / len(images),
        parameters=sum(parameter.numel() for parameter in trainer.generator.parameters()),
    )
