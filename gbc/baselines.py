"""What others do with a classifier and no data, with the same data, metrics and picture.

Each is a setting of the trainer: pixels instead of a generator, or fewer losses.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from gbc import pictures, tasks
from gbc.checkpoint import write_atomic
from gbc.config import TrialConfig
from gbc.errors import BadInput
from gbc.metrics import Judge
from gbc.report import Report
from gbc.runtime import pick_device
from gbc.settings import suggest
from gbc.tasks import Announce
from gbc.trainer import Trainer

_PIXELS: Final = {"generator": "pixels", "lr": 0.05, "weight_decay": 0.0, "lr_schedule": "cosine", "batch_size": 500}
_NO_KKT: Final = {"stationarity_weight": 0.0, "beta": 0.0}
# The regime in which the closed form holds: weight decay, no BatchNorm, trained until gradient descent stands still.
_CONVERGED: Final = {
    "name": "mlp", "hidden": 256, "weight_decay": 5e-3, "optimiser": "converge", "lr": 0.1, "steps": 6000, "polish": 200,
}  # fmt: skip


@dataclass(frozen=True)
class Baseline:
    """A name in the literature and the settings that make the trainer it."""

    about: str
    settings: dict[str, Any]


BASELINES: Final[dict[str, Baseline]] = {
    "activation": Baseline(
        "activation maximisation, as in DeepDream (supplement B.3): every image climbs its own logit",
        {**_PIXELS, **_NO_KKT, "ce_weight": 1.0, "tv_weight": 0.3, "bn_mode": "eval", "steps": 300, "report_every": 100},
    ),
    "kkt-pixels": Baseline(
        "pixels that make a converged classifier's parameters stationary (Haim et al. 2022, Buzaglo et al. 2023)",
        {
            **_PIXELS, **_NO_KKT, "classifier": _CONVERGED, "closed_weight": 1.0, "ce_weight": 0.3, "tv_weight": 0.1,
            "steps": 3000, "report_every": 500,
        },
    ),
    "bn-inversion": Baseline(
        "pixels that match BatchNorm's statistics and please the classifier (DeepInversion, Yin et al. 2020)",
        {**_PIXELS, **_NO_KKT, "bn_weight": 10.0, "ce_weight": 0.05, "tv_weight": 0.3, "steps": 1000, "report_every": 250},
    ),
    "ce-generator": Baseline(
        "a generator that only pleases the classifier: cross-entropy and total variation",
        {
            **_NO_KKT, "ce_weight": 1.0, "tv_weight": 0.3, "width": 256, "channels": 32, "lr": 5e-3,
            "lr_schedule": "cosine", "steps": 1000, "report_every": 250,
        },
    ),
}  # fmt: skip


def settings_of(name: str, changes: dict[str, Any], source: str) -> TrialConfig:
    """The trial that is baseline `name`, with `changes` on top.

    Raises:
        BadInput: an unknown name or setting.
    """
    if name not in BASELINES:
        raise BadInput(f"unknown baseline {name!r}; {suggest(name, list(BASELINES))}")
    return TrialConfig.parse(BASELINES[name].settings, name).updated(changes, source)


def run(
    config: TrialConfig, out: Path, cache: Path, announce: Announce | None = None, say: Callable[[Report], None] | None = None
) -> dict[str, float]:
    """Train, write `samples.png` into `out`, and return the last report's metrics with the cost of an image.

    `cost/seconds_per_image` is training time over judged images for pixels, sampling time for a generator;
    `cost/parameters` counts what was optimised to make images (supplement, Tab. 3).
    """
    world = tasks.obtain(config, cache, announce)
    trainer = Trainer(config, world.classifiers, Judge.of(world.images, pick_device(config.device)))
    began = time.perf_counter()
    for report in trainer.run():
        if say:
            say(report)
    trained = time.perf_counter() - began
    count = len(trainer.judged_labels)
    if config.generator != "pixels":
        began = time.perf_counter()
        trainer.sample(trainer.judged_noise, trainer.judged_labels, trainer.judged_tasks)
        trained = time.perf_counter() - began
    if report.images is not None:
        write_atomic(out / "samples.png", pictures.png(report.images))
    parameters = sum(parameter.numel() for parameter in trainer.generator.parameters())
    return {**report.metrics, "cost/seconds_per_image": trained / count, "cost/parameters": float(parameters)}
