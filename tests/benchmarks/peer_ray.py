"""The sweep as one would write it with Ray Tune's own parts: OptunaSearch, ASHAScheduler, MLflowLoggerCallback.

    python tests/benchmarks/peer_ray.py SWEEP.yaml [--threads N] [--slots N] [--seconds N]

`peers_sweep.py` and `gpu_proof.py` run it. All parts as they come. The first rung is the file's `grace`; where that is the
horizon, no trial is stopped early.
"""

from __future__ import annotations

import math
import sys
from functools import partial
from pathlib import Path
from typing import Any

if __package__ in (None, ""):
    sys.path[0] = str(Path(__file__).resolve().parents[2])

import ray
from ray import tune
from ray.air.integrations.mlflow import MLflowLoggerCallback
from ray.tune.schedulers import ASHAScheduler
from ray.tune.search.optuna import OptunaSearch

from tests.benchmarks.peer_task import command_line, reports, sweep_of


def train(sampled: dict[str, Any], file: str, threads: int) -> None:
    """The trainable."""
    for report in reports(file, sampled, 0, threads):
        tune.report({"step": report.step, **report.metrics})


def main() -> None:
    """Run the sweep."""
    cli = command_line(__doc__)
    cli.add_argument("--slots", type=int, help="trials at a time, which share the GPUs evenly (default: the file's, or 1)")
    cli.add_argument("--seconds", type=float, help="budget of time")
    arguments = cli.parse_args()
    sweep, file = sweep_of(arguments.file), str(Path(arguments.file).resolve())
    objective, steps, rungs = sweep.objective, sweep.trial.steps, sweep.scheduler
    slots = arguments.slots or sweep.resources.concurrency or 1
    space: dict[str, Any] = {}
    for name, dimension in sweep.space.items():
        if dimension.choice is not None:
            space[name] = tune.choice(list(dimension.choice))
        else:
            space[name] = (tune.loguniform if dimension.log10 is not None else tune.uniform)(*dimension.bounds())
    ray.init(address="local", num_cpus=slots * arguments.threads)
    gpus = 0.0 if sweep.trial.device == "cpu" else ray.cluster_resources().get("GPU", 0) / slots
    gpus = math.floor(gpus * 10_000) / 10_000  # as fine as Ray counts: six sixths must fit
    results = tune.Tuner(
        tune.with_resources(partial(train, file=file, threads=arguments.threads), {"cpu": arguments.threads, "gpu": gpus}),
        param_space=space,
        tune_config=tune.TuneConfig(
            num_samples=sweep.trials,
            time_budget_s=arguments.seconds,
            max_concurrent_trials=slots,
            search_alg=OptunaSearch(metric=objective.metric, mode=objective.direction),
            scheduler=ASHAScheduler(
                time_attr="step",
                metric=objective.metric,
                mode=objective.direction,
                max_t=steps,
                grace_period=min(rungs.grace or steps, steps),
                reduction_factor=rungs.reduction_factor,
            ),
        ),
        run_config=tune.RunConfig(
            name="benchmark",
            storage_path=str(Path("ray").resolve()),
            callbacks=[MLflowLoggerCallback(tracking_uri="sqlite:///mlflow.db", experiment_name="benchmark")],
        ),
    ).fit()
    sys.exit(bool(results.errors))


if __name__ == "__main__":
    main()
