"""A sweep small enough to run for real in a test."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from search.config import SweepConfig
from tests.conftest import TINY


def tiny_sweep(**changes: object) -> dict[str, object]:
    """As a YAML file would hold it."""
    return {
        "name": "tiny",
        "preset": "test",
        "trial": TINY,
        "space": {"lr": {"log10": [-3.5, -2.0]}, "batch_size": {"choice": [16, 32]}, "tv_weight": {"uniform": [0.0, 1.0]}},
        "scheduler": {"reduction_factor": 2, "grace": 3},
        "trials": 4,
        "seed": 1,
        **changes,
    }


@pytest.fixture
def config() -> SweepConfig:
    return SweepConfig.parse(tiny_sweep(), "tests")


@pytest.fixture
def sweep_file(tmp_path: Path) -> Path:
    path = tmp_path / "tiny.yaml"
    path.write_text(yaml.safe_dump(tiny_sweep()))
    return path
