"""Train on synthetic, test on real: accuracy on real images of a small network (student) trained on generated ones.

There are two versions. The full one, at the end, is the mean of several students. The short one is an objective for sweeps: at
each report of a trial, one student is trained for `student_steps`, which is enough to rank generators.
"""

from __future__ import annotations

from typing import Final

import torch
from torch import Tensor

from gbc.metrics import features
from gbc.metrics.scores import ScoredSamples

STEPS: Final = 400
STUDENTS: Final = 3
"""Number of students, with different seeds. The score of one varies more than the scores of generators (docs/log.md)."""


def classified_correctly(samples: ScoredSamples, classes: int, *, steps: int, seed: int = features.SEED) -> Tensor:
    """1 for each test image that a student of these generated images classifies correctly, else 0; [test images].

    Generated images are not augmented, because the set itself is evaluated.
    """
    student = features.fit(samples.images.cpu(), samples.labels.cpu(), classes, steps=steps, augment=False, seed=seed)
    return (student.predict(samples.reference.test_images.cpu()) == samples.reference.test_labels.cpu()).float()


def mean_of_students(samples: ScoredSamples, classes: int) -> Tensor:
    """Share of the `STUDENTS` students that classify each test image correctly, [test images] in [0, 1]."""
    seeds = range(features.SEED, features.SEED + STUDENTS)
    return torch.stack([classified_correctly(samples, classes, steps=STEPS, seed=seed) for seed in seeds]).mean(dim=0)
