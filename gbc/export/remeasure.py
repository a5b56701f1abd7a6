"""An exported generator measured again on the samples that training judged, beside what training logged.

What needs the multipliers (ρ, and with it free/score) or a training batch (losses, margins) stays with the training.
"""

from __future__ import annotations

import math
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
"""Relative to the logged value where that is above 1. On the machine of the training nothing differs. Elsewhere rounding does:
a GPU's convolutions move pixels by up to 1e-3, and scores by some thousandths."""
OF_CLASSIFIER: Final = ("classifier/accuracy", "free/confidence", "free/bn")


@dataclass(frozen=True)
class Remeasured:
    """The same metrics twice."""

    logged: dict[str, float]
    now: dict[str, float]
    notes: tuple[str, ...]
    """What could not be measured, or not alike, and why."""
    compared: frozenset[str]
    """Metrics that were measured with the same data and classifiers."""

    def differences(self) -> dict[str, float]:
        """Now − logged, where both are known."""
        return {name: value - self.logged[name] for name, value in self.now.items() if name in self.logged}

    def disagreeing(self) -> list[str]:
        """Metrics that differ by more than rounding explains; not finite counts."""
        return [
            name
            for name, difference in self.differences().items()
            if name in self.compared and not abs(difference) <= TOLERANCE * max(1.0, abs(self.logged[name]))
        ]

    def plain(self) -> dict[str, Any]:
        """As JSON takes it."""
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
            logged, difference = self.logged.get(name, math.nan), differences.get(name, math.nan)
            # So few digits that what is printed as 0 is 0.
            lines.append(f"{name:26}{logged:12.4f}{value:12.4f}{f'{difference:.1e}' if difference else '0':>14}")
        return "\n".join([*lines, *(f"note: {note}" for note in self.notes)])


def remeasure(
    generator: ExportedGenerator, data: ImageDataset, classifiers: Sequence[Classifier] | None, absent: str | None = None
) -> Remeasured:
    """Measure the judged samples against `data`, and with `classifiers`, those of `generator.settings.classifiers()`.

    `absent` says why there are none.
    """
    device, notes, compared = _device(generator), list[str](), set[str]()
    images = generator.judged(device)
    labels = torch.tensor(generator.judging.labels, device=device)
    with generator.judging.as_trained():
        now = ScoredSamples(ReferenceSet.of(data, device), images, labels).scores()
        if classifiers is not None:
            now |= _classifier_metrics(generator, classifiers, images, labels)
    if data.digest() == generator.origin["data"]["digest"]:
        compared |= set(METRICS)
    else:
        notes.append("these are not the data that it was judged against in training: scores against images may differ")
    if classifiers is None:
        notes.append(f"not measured: {', '.join(OF_CLASSIFIER)}: {absent}")
    elif [weights_digest(one.module.state_dict()) for one in classifiers] == [
        found["digest"] for found in generator.origin["classifiers"]
    ]:
        compared |= set(OF_CLASSIFIER)
    else:
        notes.append("these are not the classifiers it was born from (other weights): what they say may differ")
    return Remeasured(generator.metrics, now, tuple(notes), frozenset(compared))


def _classifier_metrics(
    generator: ExportedGenerator, classifiers: Sequence[Classifier], images: Tensor, labels: Tensor
) -> dict[str, float]:
    """Means over classifiers, as the trainer reports them."""
    found: dict[str, list[float]] = {}
    tasks = torch.tensor(generator.judging.tasks, device=images.device)
    for classifier, spec in zip(classifiers, generator.settings.classifiers(), strict=True):
        known = classifier.class_names
        local = torch.tensor([known.index(name) if name in known else -1 for name in generator.class_names])
        mine = tasks == spec.task
        phi = classifier.module.to(images.device)
        for name, value in classifier_metrics(
            phi, BatchNormInputs(phi), images[mine], local.to(images.device)[labels[mine]]
        ).items():
            found.setdefault(name, []).append(value)
    return {name: sum(values) / len(values) for name, values in found.items()}


def _device(generator: ExportedGenerator) -> torch.device:
    """Where training would compute here: what was logged on a GPU is measured on one again."""
    try:
        return pick_device(generator.settings.device)
    except BadInput:
        return torch.device("cpu")
