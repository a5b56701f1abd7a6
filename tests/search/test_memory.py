"""A GPU that is too small for all its trials at once: real Ray and real workers, which are told that they have no room."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.conftest import TINY
from tests.search.workplace import ROOT, Workplace

pytestmark = pytest.mark.sweep

ASKS_FOR_ROOM = """
in_worker = ray.is_initialized() and ray.get_runtime_context().worker.mode == ray.WORKER_MODE
share = ray.get_runtime_context().get_assigned_resources().get("GPU", 0) if in_worker else 9
if share < {enough}:
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
"""
# What search/run.py does, on a machine that Ray takes for one with a GPU: trials compute on the CPU.
DRIVER = """
import sys
import yaml
from rich.console import Console
from search import sweep
from search.config import SweepConfig
from search.machine import Machine
config = SweepConfig.parse(yaml.safe_load(open(sys.argv[1])), "test")
sys.path.insert(0, ".")
summary = sweep.run_sweep(config, Machine.of(config.resources, cpus=2, gpus=1), Console(), report=False)
print(summary.to_json())
"""


@pytest.mark.parametrize(("name", "enough", "outcome"), [("crowded", 1, "complete"), ("hopeless", 2, "failed")])
def test_a_trial_without_room_goes_on_with_fewer_neighbours(place: Workplace, name: str, enough: int, outcome: str) -> None:
    classifier = place.factory(name, "import ray\nimport torch", ASKS_FOR_ROOM.format(enough=enough))
    trial = {**TINY, "classifier": classifier}
    resources = {"gpus_per_trial": 0.5, "concurrency": 2}
    file = place.file(name, trials=3, trial=trial, scheduler={"name": "none"}, resources=resources)
    environment = {"PYTHONPATH": f"{ROOT}:{place.folder}", "PATH": "/usr/bin:/bin", "HOME": str(place.folder)}
    command = [sys.executable, "-c", DRIVER, file]
    done = subprocess.run(command, cwd=place.folder, env=environment, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stdout + done.stderr
    place.check_records_agree(name, 3)
    assert {run.data.tags["sweep.outcome"] for run in place.trials(name)} == {outcome}
    assert {trial.user_attrs["gpus"] for trial in place.study(name)} == {1.0}
    assert done.stdout.count("CUDA out of memory; goes on with 1 of a GPU") == 3, done.stdout
    if outcome == "failed":
        reasons = {run.data.tags["sweep.reason"] for run in place.trials(name)}
        assert reasons == {"CUDA out of memory, though it had the GPU to itself"}
