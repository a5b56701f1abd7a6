"""The number of trials at a time, and their share of a GPU."""

from __future__ import annotations

import pytest

from gbc.errors import BadInput
from search.driver.preflight import largest_trial, variants
from search.driver.resources import Machine
from search.spec.config import Resources, SweepConfig


@pytest.mark.parametrize(
    ("resources", "cpus", "gpus", "concurrency", "share"),
    [
        ({}, 2, 0, 2, 0.0),
        ({"cpus_per_trial": 2.0}, 8, 0, 4, 0.0),
        ({"cpus_per_trial": 0.5}, 2, 0, 4, 0.0),
        ({}, 16, 1, 16, 1 / 16),
        ({}, 16, 3, 16, 1 / 6),
        ({}, 2, 8, 2, 1.0),
        ({"gpus_per_trial": 0.25}, 16, 1, 4, 0.25),
        ({"gpus_per_trial": 0.0}, 16, 1, 16, 0.0),
        ({"gpus_per_trial": 2.0}, 16, 8, 4, 2.0),
        ({"concurrency": 1}, 2, 0, 1, 0.0),
    ],
)
def test_as_many_trials_run_at_once_as_fit(
    resources: dict[str, float], cpus: int, gpus: int, concurrency: int, share: float
) -> None:
    machine = Machine.local(Resources.parse(resources, "test"), cpus=cpus, gpus=gpus)
    assert (machine.concurrency, machine.gpus_per_trial) == (concurrency, share)
    assert machine.threads == max(1, int(machine.cpus_per_trial))


@pytest.mark.parametrize(
    ("resources", "gpus", "gigabytes", "concurrency", "share"),
    [
        ({}, 1, 3, 16, 1 / 16),
        ({}, 1, 10, 8, 1 / 8),
        ({}, 4, 50, 4, 1.0),
        ({"concurrency": 6}, 1, 10, 6, 1 / 6),
        ({"concurrency": 6}, 2, 35, 4, 1 / 2),
        ({"gpus_per_trial": 0.5}, 1, 70, 2, 0.5),
    ],
)
def test_a_gpu_takes_as_many_trials_as_its_memory_holds(
    resources: dict[str, float], gpus: int, gigabytes: int, concurrency: int, share: float
) -> None:
    asked = Resources.parse(resources, "test")
    machine = Machine.local(asked, cpus=16, gpus=gpus).fitted(asked, gigabytes * 10**9, 80 * 10**9)
    assert (machine.concurrency, machine.gpus_per_trial) == (concurrency, share)


def test_a_trial_that_no_gpu_can_hold_is_refused() -> None:
    with pytest.raises(BadInput, match=r"90\.0 GB .*80\.0 GB .*batch_size"):
        Machine.local(Resources(), cpus=16, gpus=1).fitted(Resources(), 90 * 10**9, 80 * 10**9)


def test_the_largest_trial_is_measured(config: SweepConfig) -> None:
    largest = largest_trial(config, variants(config)[0])
    assert (largest.batch_size, largest.width) == (32, config.trial.width)


def test_asking_for_more_than_the_machine_has_is_refused() -> None:
    for key, asked in (("gpus_per_trial", 2.0), ("cpus_per_trial", 3.0), ("concurrency", 3)):
        with pytest.raises(BadInput, match=f"--{key.replace('_', '-')} {asked:g}: "):
            Machine.local(Resources.parse({key: asked}, "test"), cpus=2, gpus=1)


@pytest.mark.parametrize(
    ("gpus", "asked", "slowest"), [(0, "auto", 160), (1, "auto", 10), (1, 0.5, 80), (2, 2.0, 160), (1, 0.0, 160)]
)
def test_a_trial_with_neighbours_on_a_gpu_is_not_taken_for_hung(gpus: int, asked: float | str, slowest: float) -> None:
    """One alone makes 160 steps a second. On CPUs each trial has its own."""
    resources = Resources.parse({"gpus_per_trial": asked}, "test")
    assert Machine.local(resources, cpus=16, gpus=gpus).slowest(160) == slowest
