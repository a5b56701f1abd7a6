"""Train on synthetic, test on real: what a small network knows of real images that has seen generated ones alone.

Two lengths of one measure. The full one, at the end, is the mean of several students. The short one is for a sweep to improve:
at each report of a trial one student learns for `student_steps`, long enough to rank generators.
"""

from __future__ import annotations

from typing import Final

import torch
from torch import Tensor

from gbc.metrics import features
from gbc.metrics.scores import ScoredSamples

STEPS: Final = 400
STUDENTS: Final = 3
"""They differ in their seed. One alone moves by more than generators differ in (docs/log.md)."""


def classified_correctly(samples: ScoredSamples, classes: int, *, steps: int, seed: int = features.SEED) -> Tensor:
    """Whether a student of these generated images names the class of each test image, [test images] of 0 and 1.

    Generated images are not augmented: the set itself is on trial.
    """
    student = features.fit(samples.images.cpu(), samples.labels.cpu(), classes, steps=steps, augment=False, seed=seed)
    return (student.predict(samples.reference.test_images.cpu()) == samples.reference.test_labels.cpu()).float()


def mean_of_several(samples: ScoredSamples, classes: int) -> Tensor:
    """The share of `STUDENTS` students that name the class of each test image, [test images] in [0, 1]."""
    seeds = range(features.SEED, features.SEED + STUDENTS)
    return torch.stack([classified_correctly(samples, classes, steps=STEPS, seed=seed) for seed in seeds]).mean(dim=0)
