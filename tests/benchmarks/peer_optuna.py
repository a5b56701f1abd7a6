"""The sweep as one would write it with Optuna alone: a study in sqlite, a process a slot, MLflow logged by hand.

    python tests/benchmarks/peer_optuna.py SWEEP.yaml [--threads N]

`peers_sweep.py` runs it. Nothing is saved but numbers; what is interrupted begins again.
"""

from __future__ import annotations

import multiprocessing
import sys
from pathlib import Path

if __package__ in (None, ""):
    sys.path[0] = str(Path(__file__).resolve().parents[2])

import mlflow
import optuna

from tests.benchmarks.peer_task import command_line, reports, sweep_of

STUDY, STORAGE, TRACKING = "benchmark", "sqlite:///study.db", "sqlite:///mlflow.db"


def work(file: str, trials: int, threads: int) -> None:
    """A worker's share of the trials."""
    sweep = sweep_of(file)
    mlflow.set_tracking_uri(TRACKING)
    mlflow.set_experiment(STUDY)

    def objective(trial: optuna.Trial) -> float:
        sampled = {}
        for name, dimension in sweep.space.items():
            if dimension.choice is not None:
                sampled[name] = trial.suggest_categorical(name, dimension.choice)
            else:
                low, high = dimension.bounds()
                sampled[name] = trial.suggest_float(name, low, high, log=dimension.log10 is not None)
        value = float("nan")
        with mlflow.start_run(run_name=f"trial-{trial.number}"):
            mlflow.log_params(sampled)
            for report in reports(file, sampled, trial.number, threads):
                value = report.metrics[sweep.objective.metric]
                mlflow.log_metrics(dict(report.metrics), step=report.step)
                trial.report(value, report.step)
        return value

    optuna.load_study(study_name=STUDY, storage=STORAGE).optimize(objective, n_trials=trials)


def main() -> None:
    """Make the study and the experiment, then start the workers."""
    arguments = command_line(__doc__).parse_args()
    sweep = sweep_of(arguments.file)
    optuna.create_study(study_name=STUDY, storage=STORAGE, direction="maximize")
    mlflow.set_tracking_uri(TRACKING)
    mlflow.set_experiment(STUDY)  # two processes that make the database at once collide
    slots = sweep.resources.concurrency or 1
    shares = [sweep.trials // slots + (number < sweep.trials % slots) for number in range(slots)]
    context = multiprocessing.get_context("spawn")
    workers = [context.Process(target=work, args=(arguments.file, share, arguments.threads)) for share in shares]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    sys.exit(any(worker.exitcode for worker in workers))


if __name__ == "__main__":
    main()
