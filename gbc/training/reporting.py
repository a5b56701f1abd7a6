"""Further metrics of a report: the KKT conditions at the last batch, and data-free metrics of the evaluated samples."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from gbc import losses, pictures
from gbc.kkt.multipliers import Multipliers
from gbc.kkt.trial_classifier import ForwardPass, TrialClassifier, classifier_metrics
from gbc.layers import one_hot
from gbc.metrics import student
from gbc.metrics.scores import NEAREST, ReferenceSet, ScoredSamples
from gbc.report import STUDENT_METRIC, free_score

# Samples for free/rho, as many as in a large batch: more would only cost time at every report.
_RHO_SAMPLES: Final = 512


class LastPass(NamedTuple):
    """Margins and multipliers of the last batch for one classifier."""

    margins: Tensor
    """[M]"""
    labels: Tensor
    """The classifier's own, [M]."""
    multipliers: Tensor | None
    """[M, C]; None if no loss uses them."""


class EvaluationImages(NamedTuple):
    """The samples that every report evaluates."""

    images: Tensor
    """[K, channels, height, width]"""
    noise: Tensor
    """[K, noise_dim]"""
    labels: Tensor
    """[K]"""
    tasks: Tensor
    """t, [K]"""


def kkt_state(classifiers: Sequence[TrialClassifier], last: Sequence[LastPass]) -> dict[str, float]:
    """α of each classifier; multipliers and margins of the `last` batch."""
    metrics: dict[str, float] = {}
    alphas = [classifier.alpha.item() for classifier in classifiers]
    metrics["kkt/alpha"] = alphas[0]
    if len(alphas) > 1:
        metrics |= {f"kkt/alpha_{number}": alpha for number, alpha in enumerate(alphas, start=1)}
    used = [  # Eq. (5) has none of a sample's own class
        each.multipliers[~one_hot(each.labels, each.multipliers.shape[1])] for each in last if each.multipliers is not None
    ]
    if used:
        multipliers = torch.cat(used)
        metrics["kkt/mu_mean"] = multipliers.mean().item()
        metrics["kkt/mu_active"] = (multipliers > 0).float().mean().item()
    margins = torch.cat([last_pass.margins for last_pass in last])
    quantiles = torch.quantile(margins, torch.tensor([0.05, 0.5, 0.95], device=margins.device))
    return metrics | dict(zip(("margin/q05", "margin/q50", "margin/q95"), quantiles.tolist(), strict=True))


def judge(
    reference: ReferenceSet | None, evaluated: EvaluationImages, classes: int, student_steps: int
) -> tuple[dict[str, float], NDArray[np.uint8] | None]:
    """Scores of the evaluated samples against real images, and their picture above the nearest of these.

    Without `reference` there are no scores, and the picture has the samples alone; of points there is none.
    """
    images, columns = evaluated.images, pictures.columns_for(classes)
    if reference is None:
        return {}, pictures.grid(images[:NEAREST], columns) if images.ndim == 4 else None
    samples = ScoredSamples(reference, images, evaluated.labels)
    metrics = samples.scores()
    if student_steps:
        with torch.enable_grad():
            correct = student.classified_correctly(samples, classes, steps=student_steps)
        metrics[STUDENT_METRIC] = correct.mean().item()
    nearest = reference.train_images[samples.nearest[0]]
    return metrics, pictures.pair_grid(images[: len(nearest)], nearest, columns)


def data_free_metrics(
    classifiers: Sequence[TrialClassifier], multipliers: Multipliers, evaluated: EvaluationImages
) -> dict[str, float]:
    """Metrics of the evaluated samples that need the classifiers alone. No training step used their latents, except for pixels.

    Means over the classifiers whose tasks have two samples or more. BatchNorm uses the stored statistics for every `bn_mode`,
    so that trials can be compared. Only ρ uses `bn_mode`, because Λ belongs to that mode.
    """
    values: dict[str, list[float]] = {}
    for classifier in classifiers:
        of_task = evaluated.tasks == classifier.task
        if of_task.sum() < 2:  # statistics need two; with few samples of each class, another task may have all that they share
            continue
        images, labels = evaluated.images[of_task], evaluated.labels[of_task]
        for name, value in classifier_metrics(
            classifier.phi, classifier.batch_norm_inputs, images, classifier.local[labels]
        ).items():
            values.setdefault(name, []).append(value)
        if classifier.weights["stationarity"]:
            with torch.enable_grad():
                few, noise = slice(_RHO_SAMPLES), evaluated.noise[of_task]
                forward_pass = ForwardPass(classifier, multipliers, images[few], labels[few], noise[few])
                rho = losses.relative_residual(forward_pass.target, forward_pass.margin_gradient).item()
            values.setdefault("free/rho", []).append(rho)
    means = {name: sum(each) / len(each) for name, each in values.items()}
    means["free/score"] = free_score(means["free/confidence"], means.get("free/bn"), means.get("free/rho"))
    return means
