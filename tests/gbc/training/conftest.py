"""A trainer with changed settings, for the tests of training."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from gbc.classifiers.architectures import Classifier
from gbc.config import TrialConfig
from gbc.metrics.scores import ReferenceSet
from gbc.training.trainer import Trainer

FREE = {"generator": "pixels", "multipliers": "free", "lambda_min": 0.1, "multiplier_rate": 0.5, "weight_decay": 0.0}


@pytest.fixture
def fresh(classifier: Classifier, settings: TrialConfig, reference: ReferenceSet) -> Callable[..., Trainer]:
    def make(**changes: Any) -> Trainer:
        return Trainer(settings.updated(changes, "test"), [classifier], reference)

    return make
