"""Sweeps small enough to check their reports by hand."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from dashboards.evaluation import RecordedEvaluation
from dashboards.mlflow_runs import RecordedRun
from dashboards.settings import SweepSettings
from dashboards.sweep import Sweep, Trial

EVALUATION = RecordedEvaluation(
    1,
    {
        "generator": {"ssim/coverage": 0.5},
        "black": {"ssim/coverage": 0.1},
        "class means": {"ssim/coverage": 0.4},
        "other real images": {"ssim/coverage": 0.6},
    },
    {},
)


def sweep(*trials: Trial, direction: str = "max", scheduler: dict[str, Any] | None = None) -> Sweep:
    data = {
        "objective": {"metric": "ssim/coverage", "direction": direction},
        "trial": {"steps": 90, "report_every": 10},
        "space": {"lr": {"log10": [-3, -2]}, "batch_size": {"choice": [16, 32]}},
        "scheduler": scheduler or {"name": "asha", "reduction_factor": 3},
    }
    settings = SweepSettings("hand", data, "")
    runs: Any = SimpleNamespace(tags={}, status="FINISHED", front=[])
    return Sweep(settings, list(trials), 100.0, runs, EVALUATION)


def full(number: int, value: float, **more: Any) -> Trial:
    return Trial(number, {"lr": 0.001 * (number + 1), "batch_size": 16}, "complete", {90: value}, **more)


def stopped(number: int, step: int, speed: float = 2.0) -> Trial:
    run = RecordedRun("run", curves={"time/steps_per_s": {step: speed}})
    return Trial(number, {"lr": 0.005, "batch_size": 32}, "stopped", {step: 0.2}, run=run)
