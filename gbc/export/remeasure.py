"""New measurement of an exported generator on the evaluation samples of its training, beside the logged metrics.

Metrics that need the multipliers (ρ, and with it free/score) or a training batch (losses, margins) are not measured again.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import torch
from torch import Tensor

from gbc.classifiers.architectures import BatchNormInputs, Classifier
from gbc.data.samples import ImageDataset
from gbc.errors import BadInput
from gbc.export.drawing import ExportedGenerator
from gbc.export.folder import weights_digest
from gbc.kkt.trial_classifier import classifier_metrics
from gbc.metrics.scores import METRICS, ReferenceSet, ScoredSamples
from gbc.runtime import pick_device

TOLERANCE: Final = 0.01
"""Largest accepted difference, relative to a logged value above 1. On the machine of the training there is none. Elsewhere
rounding differs. Convolutions with ten bits (TF32, torch's default on a GPU) are expected to change pixels by up to 1e-3, and
scores by some thousandths; not yet run on a GPU."""
OF_CLASSIFIER: Final = ("classifier/accuracy", "free/confidence", "free/bn")


@dataclass(frozen=True)
class Remeasured:
    """Metrics as logged in training and as measured now."""

    logged: dict[str, float]
    now: dict[str, float]
    notes: tuple[str, ...]
    """Remarks on metrics that could not be measured or compared, with the reasons."""
    compared: frozenset[str]
    """Metrics that were measured with the same data and classifiers."""

    def differences(self) -> dict[str, float]:
        """Now − logged, for metrics of which both are known."""
        return {name: value - self.logged[name] for name, value in self.now.items() if name in self.logged}

    def disagreeing(self) -> list[str]:
        """Compared metrics whose difference is above `TOLERANCE` or not finite."""
        return [
            name
            for name, difference in self.differences().items()
            if name in self.compared and not abs(difference) <= TOLERANCE * max(1.0, abs(self.logged[name]))
        ]

    def to_json(self) -> dict[str, Any]:
        """Plain data for JSON."""
        differences = self.differences()
        return {
            "metrics": {
                name: {"logged": self.logged.get(name), "now": value, "difference": differences.get(name)}
                for name, value in self.now.items()
            },
            "agree": not self.disagreeing(),
            "notes": list(self.notes),
        }

    def text(self) -> str:
        """A table, then the notes."""
        differences, lines = self.differences(), [f"{'':26}{'logged':>12}{'now':>12}{'difference':>14}"]
        for name, value in self.now.items():
            if name not in self.logged:
                lines.append(f"{name:26}{'–':>12}{value:12.4f}{'–':>14}")
                continue
            # In this format only a difference of exactly 0 is printed as 0.
            difference = f"{differences[name]:.1e}" if differences[name] else "0"
            lines.append(f"{name:26}{self.logged[name]:12.4f}{value:12.4f}{difference:>14}")
        return "\n".join([*lines, *(f"note: {note}" for note in self.notes)])


def remeasure(
    generator: ExportedGenerator, data: ImageDataset, classifiers: Sequence[Classifier] | None, absent: str | None = None
) -> Remeasured:
    """Measure the evaluation samples against `data`, and with the classifiers of `generator.settings.classifiers()`.

    `absent` is the reason if there are no `classifiers`.
    """
    device, notes, compared = _device(generator), list[str](), set[str]()
    images = generator.judged(device)
    labels = torch.tensor(generator.judging.labels, device=device)
    with generator.judging.training_threads():
        now = ScoredSamples(ReferenceSet.of(data, device), images, labels).scores()
        if classifiers is not None:
            now |= _classifier_metrics(generator, classifiers, images, labels)
    if data.digest() == generator.origin["data"]["digest"]:
        compared |= set(METRICS)
    elif generator.settings.data_free:
        notes.append("in training it was compared with no images: its scores against images are new")
    else:
        notes.append("these are not the data that it was judged against in training: scores against images may differ")
    if classifiers is None:
        notes.append(f"not measured: {', '.join(OF_CLASSIFIER)}: {absent}")
    elif [weights_digest(classifier.module.state_dict()) for classifier in classifiers] == [
        origin["digest"] for origin in generator.origin["classifiers"]
    ]:
        compared |= set(OF_CLASSIFIER)
    else:
        notes.append("these are not the classifiers it was born from (other weights): what they say may differ")
    return Remeasured(generator.metrics, now, tuple(notes), frozenset(compared))


def _classifier_metrics(
    generator: ExportedGenerator, classifiers: Sequence[Classifier], images: Tensor, labels: Tensor
) -> dict[str, float]:
    """Metrics of the classifiers, means over all of them as in the trainer's report."""
    by_metric: dict[str, list[float]] = {}
    tasks = torch.tensor(generator.judging.tasks, device=images.device)
    for classifier, spec in zip(classifiers, generator.settings.classifiers(), strict=True):
        local = torch.tensor(classifier.numbers_of(generator.class_names), device=images.device)
        of_task = tasks == spec.task
        if of_task.sum() < 2:  # as in the trainer's report
            continue
        phi = classifier.module.to(images.device)
        for name, value in classifier_metrics(phi, BatchNormInputs(phi), images[of_task], local[labels[of_task]]).items():
            by_metric.setdefault(name, []).append(value)
    return {name: sum(values) / len(values) for name, values in by_metric.items()}


def _device(generator: ExportedGenerator) -> torch.device:
    """The device that training would use here, or the CPU: metrics logged on a GPU are measured on a GPU if there is one."""
    try:
        return pick_device(generator.settings.device)
    except BadInput:
        return torch.device("cpu")
