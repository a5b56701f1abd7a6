"""A sweep whose trials run out of a GPU's memory as long as they share it: each has to go on by itself and to be complete.

torch's allocator refuses them: a worker with less than a whole GPU allows itself a millionth of the memory. On a CPU the same
error is raised in its place, and Ray is told that there is a GPU.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import yaml

from tests.benchmarks.harness import ROOT, Column, Options, Row, pick
from tests.conftest import TINY

ABOUT: Final = "an out-of-memory forced on each trial of a sweep that shares a GPU, and what became of them"
LIMIT: Final = 60.0
COLUMNS: Final = (
    Column("trials", "trials"),
    Column("ran_out", "ran out of memory"),
    Column("complete", "complete"),
    Column("outcome", "outcome"),
)
TRIALS: Final = 2

_FACTORY: Final = """
import ray
import torch
from torch import nn


def net():
    in_worker = ray.is_initialized() and ray.get_runtime_context().worker.mode == ray.WORKER_MODE
    share = ray.get_runtime_context().get_assigned_resources().get("GPU", 0) if in_worker else 1
    if torch.cuda.is_available():
        torch.cuda.set_per_process_memory_fraction(1.0 if share >= 1 else 1e-6)
    elif share < 1:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
    return nn.Sequential(nn.Flatten(), nn.Linear(784, 12), nn.BatchNorm1d(12), nn.ReLU(), nn.Linear(12, 10))
"""
_DRIVER: Final = """
import sys
from functools import partial
from search.driver.resources import Machine
from search.run import main

if sys.argv.pop(1) == "cpu":
    Machine.local = partial(Machine.local, cpus=2, gpus=1)
sys.exit(main(sys.argv[1:]))
"""


def rows(options: Options) -> Iterator[Row]:
    """One row."""
    device = pick(options).type
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        (folder / "crowded.py").write_text(_FACTORY)
        classifier = {"factory": "crowded:net", "steps": 60, "lr": 0.1}
        sweep = {
            "name": "crowded",
            "preset": "custom",
            "trial": {**TINY, "device": device, "classifier": classifier},
            "space": {"lr": {"log10": [-3.5, -2.0]}},
            "scheduler": {"name": "none"},
            "trials": TRIALS,
            "resources": {"gpus_per_trial": 0.5, "concurrency": TRIALS},
        }
        (folder / "crowded.yaml").write_text(yaml.safe_dump(sweep))
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        done = subprocess.run(
            [sys.executable, "-c", _DRIVER, device, "--config", "crowded.yaml", "--no-report"],
            cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )  # fmt: skip
        asked = subprocess.run(
            [sys.executable, str(ROOT / "search" / "run.py"), "--status", "crowded", "--json"],
            cwd=folder, env=environment, capture_output=True, text=True,
        )  # fmt: skip
        yield outcome(done.returncode, done.stdout, asked.stdout)


def outcome(code: int, output: str, status: str) -> Row:
    """The row of a sweep that ended with this code, printed this, and has this status as JSON."""
    ran_out = len(set(re.findall(r"trial (\d+)\s+.*out of memory[^;\n]*; goes on with", output)))
    complete = int(json.loads(status)["complete"]) if status.startswith("{") else 0
    if code == 0 and complete == ran_out == TRIALS:
        verdict = "survived"
    else:
        verdict = f"FAILED: exit code {code}; {next(reversed(output.strip().splitlines()), '')}"
    return {"trials": TRIALS, "ran_out": ran_out, "complete": complete, "outcome": verdict}
