from __future__ import annotations

import pytest
import torch

from gbc.classifiers.architectures import Classifier
from gbc.data.samples import ImageDataset
from gbc.export.scorecard import by_class
from gbc.metrics.scores import METRICS, ReferenceSet, ScoredSamples, tstr_1nn


def test_means_over_classes_are_the_metrics(images: ImageDataset, reference: ReferenceSet, classifier: Classifier) -> None:
    """Classes are of one size here; samples that are other classes' images are recognised as those."""
    train, labels = images.train()
    scores = by_class(ScoredSamples(reference, train, labels), images.class_names, [classifier])
    assert set(scores) == {"ssim/coverage", "tstr/1nn", "classifier/accuracy"}
    assert all(list(values) == list(images.class_names) for values in scores.values())
    assert sum(scores["tstr/1nn"].values()) / 10 == pytest.approx(
        float(tstr_1nn(ScoredSamples(reference, train, labels))), abs=1e-6
    )
    assert all(value == pytest.approx(1.0, abs=1e-4) for value in scores["ssim/coverage"].values())
    assert set(METRICS) > {"ssim/coverage", "tstr/1nn"}

    shifted = by_class(ScoredSamples(reference, train, (labels + 1) % 10), images.class_names, [classifier])
    right, wrong = (sum(scores_by_metric["classifier/accuracy"].values()) / 10 for scores_by_metric in (scores, shifted))
    with torch.no_grad():
        plain = (classifier.module.eval()(train).argmax(dim=1) == labels).float().mean().item()
    assert right == pytest.approx(plain, abs=1e-6) and wrong < 0.5 < right


def test_a_class_that_no_classifier_knows_is_left_out(
    images: ImageDataset, reference: ReferenceSet, classifier: Classifier
) -> None:
    train, labels = images.train()
    scores = by_class(ScoredSamples(reference, train, labels), images.class_names, [])
    assert scores["classifier/accuracy"] == {} and len(scores["tstr/1nn"]) == 10
