"""Test of stationarity: does a better fulfilled condition give samples that are nearer to the training images?

Stationarity is a property of the whole training set: a mini-batch of training images does not satisfy it. So here every step
uses all N latents of a bank, as many as there were training images. The curves show for each report the cosine of −∇CE and ζ,
mean over parameter tensors, and the mean SSIM of a sample to its nearest training image, beside that to the nearest of as many
held-out images. If samples approach the training images, the first SSIM must become clearly higher than the second.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor

from gbc import pictures
from gbc.checkpoint import write_atomic
from gbc.classifiers import convergence
from gbc.classifiers.architectures import Classifier
from gbc.config import TrialConfig
from gbc.data.samples import ImageDataset
from gbc.metrics.scores import CEILING, FLOOR, SSIMFeatures, ssim
from gbc.training import tasks
from gbc.training.trainer import Trainer

STEPS: Final = 3000
REPORTS: Final = 10

_CLASSIFIER: Final = {
    "name": "mlp", "hidden": 256, "optimiser": "converge", "lr": 0.1, "weight_decay": 5e-3, "steps": 6000, "polish": 200,
}  # fmt: skip
SETTINGS: Final[dict[str, Any]] = {
    "dataset": {"name": "fashion_mnist", "per_class": 10},
    "classifier": _CLASSIFIER,
    "width": 256,
    "channels": 32,
    "lr": 0.008,
    "lr_schedule": "cosine",
    "weight_decay": 0.0,
    "stationarity_weight": 0.0,
    "beta": 0.0,
    "ce_weight": 0.3,
    "tv_weight": 0.1,
    "device": "cpu",
}

CURVES: Final[dict[str, dict[str, Any]]] = {
    "without": {},
    "closed form": {"closed_weight": 1.0},
    "closed form, mini-batches": {"closed_weight": 1.0, "bank": 0},
    "closed form, 1000 units": {"closed_weight": 1.0, "classifier": {**_CLASSIFIER, "hidden": 1000}},
    "closed form and row space": {"closed_weight": 1.0, "row_space_weight": 1.0},
}
"""Changes to `SETTINGS` for each curve."""

Points = dict[str, list[float]]
"""Values by name, one for each report."""


def settings(curve: str, steps: int, seed: int) -> TrialConfig:
    """The settings of one of `CURVES`."""
    samples = 10 * SETTINGS["dataset"]["per_class"]
    run = {
        "steps": steps,
        "report_every": math.gcd(steps, max(1, steps // REPORTS)),
        "seed": seed,
        "bank": samples,
        "batch_size": samples,
    }
    return TrialConfig.parse({**SETTINGS, **run, **CURVES[curve]}, f"curve {curve!r}")


def run(
    out: Path, cache: Path, steps: int = STEPS, seed: int = 0, say: Callable[[str], None] = print
) -> dict[str, dict[str, Any]]:
    """Train every curve for `steps`; write `stationarity.png` and `.json` into `out`, and return the content of the JSON.

    Raises:
        BadInput, CorruptFile, Diverged: as the trainer and the cache do.
    """
    curves: dict[str, dict[str, Any]] = {}
    for name in CURVES:
        config = settings(name, steps, seed)
        inputs = tasks.obtain(config, cache)
        nearest = NearestSSIM(inputs.images)
        trainer = Trainer(config, inputs.classifiers)
        labels = torch.arange(len(trainer.batches.bank) or config.batch_size) % len(inputs.images.class_names)
        noise = trainer.batches.bank if config.bank else trainer.generator.latents(labels, torch.Generator().manual_seed(seed))
        points: Points = {}
        for report in trainer.run():
            images = trainer.sample(noise, labels, torch.zeros_like(labels))
            for key, value in {"step": report.step, **measure(inputs.classifier, images, labels, nearest)}.items():
                points.setdefault(key, []).append(value)
        say(f"{name}: cosine {points['cosine'][-1]:.2f}, SSIM to training images {points['training'][-1]:.3f}, "
            f"to held-out ones {points['held out'][-1]:.3f}")  # fmt: skip
        controls = {control: measure(inputs.classifier, *images, nearest) for control, images in nearest.controls().items()}
        curves[name] = {"points": points, "controls": controls}
    write_atomic(out / "stationarity.json", json.dumps(curves, indent=1).encode())
    write_atomic(out / "stationarity.png", _png(curves))
    return curves


class NearestSSIM:
    """SSIM of samples to the nearest training image, and to the nearest of as many held-out images of the same classes."""

    def __init__(self, data: ImageDataset) -> None:
        self.images, self.labels = data.train()
        test_images, test_labels = data.test()
        taken = []
        for label in self.labels.unique():
            count = int((self.labels == label).sum())
            taken.append(torch.nonzero(test_labels == label).squeeze(1)[: 2 * count])
        # Samples are compared with one half; the other half is a control, which must not be compared with itself.
        first, second = (torch.cat([part[half::2] for part in taken]) for half in (0, 1))
        self.held_out = test_images[first]
        self._control_images, self._control_labels = test_images[second], test_labels[second]
        self._features = [SSIMFeatures(self.images), SSIMFeatures(self.held_out)]

    def of(self, images: Tensor) -> dict[str, float]:
        """Mean SSIM of images [K, channels, height, width] to the nearest training image and to the nearest held-out one."""
        own = SSIMFeatures(images)
        values = [ssim(own, features).max(dim=1).values.mean().item() for features in self._features]
        return dict(zip(("training", "held out"), values, strict=True))

    def controls(self) -> dict[str, tuple[Tensor, Tensor]]:
        """Control sets: (images, labels) by name."""
        noise = torch.rand(self.images.shape, generator=torch.Generator().manual_seed(0))
        return {
            "training images": (self.images, self.labels),
            CEILING: (self._control_images, self._control_labels),
            FLOOR: (noise, self.labels),
        }


def measure(classifier: Classifier, images: Tensor, labels: Tensor, nearest: NearestSSIM) -> dict[str, float]:
    """The cosine of the condition, and the two mean SSIM, of a set of images [K, …] with labels [K]."""
    cosines = convergence.cosines(classifier.module, images, labels)
    return {"cosine": sum(cosines.values()) / len(cosines), **nearest.of(images)}


def _png(curves: dict[str, dict[str, Any]]) -> bytes:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 5), layout="constrained")
    axis = figure.subplots()
    for number, (name, curve) in enumerate(curves.items()):
        for kind, style in (("training", "-"), ("held out", ":")):
            points = curve["points"]
            label = name if kind == "training" else None
            axis.plot(points["cosine"], points[kind], style, color=f"C{number}", label=label, linewidth=1.5)
            axis.plot(points["cosine"][-1:], points[kind][-1:], "o", color=f"C{number}", fillstyle="full" if label else "none")
    others = next(iter(curves.values()))["controls"][CEILING]
    axis.axhline(others["training"], color="grey", linewidth=0.8, linestyle="--")
    axis.annotate(CEILING, (0.02, others["training"]), xycoords=("axes fraction", "data"), va="bottom", color="grey")
    axis.set(
        xlabel="cosine of −∇CE and ζ, mean over parameter tensors", ylabel="mean SSIM to the nearest image",
        title="solid: nearest training image; dotted: nearest held-out image; dot: end of the run",
    )  # fmt: skip
    axis.legend(frameon=False)
    return pictures.figure_png(figure, dpi=110)
