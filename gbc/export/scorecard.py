"""A generator's scores beside those of control sets, and scores of each class."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import torch
from torch import Tensor

from gbc.classifiers.architectures import Classifier, normalising_by, two_logits
from gbc.data.samples import ImageDataset
from gbc.export.drawing import ExportedGenerator
from gbc.metrics import scores
from gbc.metrics.scores import ReferenceSet, ScoredSamples

GENERATOR: Final = "generator"
_BY_CLASS: Final = (GENERATOR, scores.MEANS, scores.CEILING)


def scorecard(generator: ExportedGenerator, data: ImageDataset, classifiers: Sequence[Classifier]) -> dict[str, Any]:
    """Scores of the evaluation samples and of control sets of the same size, as plain data for JSON.

    `scores`: every metric of `METRICS` by set, the generator first and, where there are enough test images, the ceiling last;
    `by_class`: some metrics of some sets by class name.
    """
    reference, per_class = ReferenceSet.of(data, "cpu"), generator.settings.eval_per_class
    labels = torch.tensor(generator.judging.labels)
    sets = {GENERATOR: ScoredSamples(reference, generator.judged(), labels)}
    sets |= {name: ScoredSamples(reference, *images) for name, images in scores.floors(reference, per_class).items()}
    if best := scores.ceiling(reference, per_class):
        sets[scores.CEILING] = ScoredSamples(*best)
    return {
        "eval_per_class": per_class,
        "scores": {name: samples.scores() for name, samples in sets.items()},
        "by_class": {name: by_class(sets[name], data.class_names, classifiers) for name in _BY_CLASS if name in sets},
    }


def by_class(samples: ScoredSamples, names: Sequence[str], classifiers: Sequence[Classifier]) -> dict[str, dict[str, float]]:
    """Metrics of each class: coverage, 1-NN accuracy on its test images, and the share of its samples classified as it."""
    by_metric = {
        "ssim/coverage": scores.ssim_coverage_by_class(samples).tolist(),
        "tstr/1nn": scores.tstr_1nn_by_class(samples).tolist(),
    }
    scores_by_name = {metric: dict(zip(names, values, strict=True)) for metric, values in by_metric.items()}
    return scores_by_name | {"classifier/accuracy": _recognised(samples.images, samples.labels, names, classifiers)}


@torch.no_grad()
def _recognised(images: Tensor, labels: Tensor, names: Sequence[str], classifiers: Sequence[Classifier]) -> dict[str, float]:
    """Share of the images of each class that a classifier assigns to it, mean over the classifiers that have the class."""
    shares: dict[str, list[float]] = {name: [] for name in names}
    for classifier in classifiers:
        phi, device = classifier.module, next(classifier.module.parameters()).device
        with normalising_by(phi, "eval"):
            answers = two_logits(phi(images.to(device))).argmax(dim=1).cpu()
        for local, name in enumerate(classifier.class_names):
            of_class = labels == names.index(name)
            if of_class.any():
                shares[name].append((answers[of_class] == local).float().mean().item())
    return {name: sum(values) / len(values) for name, values in shares.items() if values}
