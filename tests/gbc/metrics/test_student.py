from __future__ import annotations

import pytest
import torch

from gbc.classifiers.architectures import Classifier
from gbc.config import TrialConfig
from gbc.metrics import student
from gbc.metrics.scores import ReferenceSet, ScoredSamples
from gbc.report import STUDENT_METRIC
from gbc.training.trainer import Trainer


def test_a_student_of_real_images_knows_more_than_one_of_noise(reference: ReferenceSet) -> None:
    real = ScoredSamples(reference, reference.train_images, reference.train_labels)
    noise = ScoredSamples(reference, torch.rand_like(reference.train_images), reference.train_labels)
    accuracies = [student.classified_correctly(samples, 10, steps=60).mean().item() for samples in (real, noise)]
    assert accuracies[0] > 0.5 > 0.25 > accuracies[1]  # chance is 0.1


def test_the_mean_is_that_of_several_seeds(reference: ReferenceSet, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(student, "STEPS", 10)
    real = ScoredSamples(reference, reference.train_images, reference.train_labels)
    each = torch.stack([student.classified_correctly(real, 10, steps=10, seed=seed) for seed in range(3)])
    assert torch.equal(student.mean_of_students(real, 10), each.mean(dim=0))
    assert not torch.equal(each[0], each[1])


def test_reports_measure_it_where_asked_and_training_does_not_notice(
    settings: TrialConfig, classifier: Classifier, reference: ReferenceSet
) -> None:
    plain, asked = (Trainer(settings.updated({"student_steps": steps}, "test"), [classifier], reference) for steps in (0, 5))
    for without, with_it in zip(plain.run(), asked.run(), strict=True):
        assert STUDENT_METRIC not in without.metrics
        assert 0 <= with_it.metrics[STUDENT_METRIC] <= 1
    assert torch.equal(plain.rng.get_state(), asked.rng.get_state())
    states = plain.state_dict()["generator"], asked.state_dict()["generator"]
    assert all(torch.equal(value, states[1][name]) for name, value in states[0].items())
