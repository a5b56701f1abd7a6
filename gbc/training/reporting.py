"""Report metrics beside losses and scores: the KKT conditions at the last batch, and what classifiers say of fresh samples."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple

import torch
from torch import Tensor

from gbc import losses
from gbc.kkt.multipliers import Multipliers
from gbc.kkt.trial_classifier import ForwardPass, TrialClassifier, classifier_metrics
from gbc.report import free_score

# As many fresh samples as a large batch: more would only cost time at every report.
_FREE: Final = 512


class LastPass(NamedTuple):
    """Margins and multipliers of the last batch before one classifier."""

    margins: Tensor
    """[M]"""
    multipliers: Tensor | None
    """[M, C]; None where no loss asks for any."""


class EvaluationImages(NamedTuple):
    """The samples that are judged at every report."""

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
    used = [seen.multipliers.flatten() for seen in last if seen.multipliers is not None]
    if used:
        multipliers = torch.cat(used)
        metrics["kkt/mu_mean"] = multipliers.mean().item()
        metrics["kkt/mu_active"] = (multipliers > 0).float().mean().item()
    margins = torch.cat([seen.margins for seen in last])
    quantiles = torch.quantile(margins, torch.tensor([0.05, 0.5, 0.95], device=margins.device))
    return metrics | dict(zip(("margin/q05", "margin/q50", "margin/q95"), quantiles.tolist(), strict=True))


def data_free_metrics(
    classifiers: Sequence[TrialClassifier], multipliers: Multipliers, evaluated: EvaluationImages
) -> dict[str, float]:
    """What the classifiers alone say of the judged samples, whose latents no step was trained on.

    Means over classifiers. Normalised by their own statistics, whatever `bn_mode` is, so that trials compare; only ρ needs the
    mode whose Λ it is stated in.
    """
    values: dict[str, list[float]] = {}
    for classifier in classifiers:
        mine = evaluated.tasks == classifier.task
        images, labels = evaluated.images[mine], evaluated.labels[mine]
        for name, value in classifier_metrics(
            classifier.phi, classifier.batch_norm_inputs, images, classifier.local[labels]
        ).items():
            values.setdefault(name, []).append(value)
        if classifier.weights["stationarity"]:
            with torch.enable_grad():
                fresh = ForwardPass(classifier, multipliers, images[:_FREE], labels[:_FREE], evaluated.noise[mine][:_FREE])
                rho = losses.relative_residual(fresh.target, fresh.margin_gradient).item()
            values.setdefault("free/rho", []).append(rho)
    means = {name: sum(each) / len(each) for name, each in values.items()}
    means["free/score"] = free_score(means["free/confidence"], means.get("free/bn"), means.get("free/rho"))
    return means
