"""Fixtures of tests that look through the independent feature network."""

from __future__ import annotations

from pathlib import Path

import pytest

from gbc.classifier_config import DatasetConfig
from gbc.data.datasets import ImageDataset
from gbc.metrics import features
from gbc.metrics.features import Oracle

QUICK = 150  # steps of the feature network in tests


@pytest.fixture(scope="session")
def feature_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("features")


@pytest.fixture(scope="session")
def oracle(images: ImageDataset, feature_cache: Path) -> Oracle:
    return features.obtain(DatasetConfig(per_class=10), images, feature_cache, steps=QUICK)
