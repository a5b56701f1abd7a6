"""What a machine gives to trials."""

from __future__ import annotations

import pytest

from search.driver.resources import Machine
from search.spec.config import Resources


@pytest.mark.parametrize(
    ("gpus", "asked", "slowest"), [(0, "auto", 160), (1, "auto", 10), (1, 0.5, 80), (2, 2.0, 160), (1, 0.0, 160)]
)
def test_a_trial_with_neighbours_on_a_gpu_is_not_taken_for_hung(gpus: int, asked: float | str, slowest: float) -> None:
    """One alone makes 160 steps a second. On CPUs each trial has its own."""
    resources = Resources.parse({"gpus_per_trial": asked}, "test")
    assert Machine.local(resources, cpus=16, gpus=gpus).slowest(160) == slowest
