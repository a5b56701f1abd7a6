"""The same sweep by our command, by Optuna alone and by Ray Tune's own parts: trials an hour, overhead of a trial.

    python tests/benchmarks/peers_sweep.py [--quick] [--trials N] [--steps N] [--threads N] [--json FILE]

All three run `gbc.training.trainer.Trainer` on the same cached classifier with the same space, as many trials, steps and
threads, and as many at a time as there are cores; no trial is stopped early; each logs every report to MLflow in sqlite. The
figures are read from there, in one way for all. Overhead of a trial = wall × slots / trials − seconds of its training steps,
which the trainer measures. It holds imports, the start of Ray, the making of databases, judging (the same in all) and
waiting; "running" counts only from the first trial's start to the last one's end, and is what a long sweep pays. The sweeps
take turns, round by round, but each is minutes long: compare `training s/trial`, which must be equal, before anything else.

What only ours does meanwhile: a checkpoint and two pictures at each report, every record written so that any process may be
killed, pictures and system metrics in MLflow, exact resume. Optuna alone (`peer_optuna.py`) keeps numbers, and forgets what
runs; Ray's parts (`peer_ray.py`) keep no checkpoint of a function that saves none, and their resume repeats MLflow runs.
`--no-report` leaves out what ours does after the last trial: no peer has it.
"""

from __future__ import annotations

import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

if __package__ in (None, ""):
    sys.path[0] = str(Path(__file__).resolve().parents[2])

from tests.benchmarks.harness import PRESETS, ROOT, Column, Options, Row, cores, ratio, settings_of

NAME: Final = "peers_sweep"
ABOUT: Final = "the same sweep by search/run.py, by Optuna with MLflow by hand, by Ray Tune's own parts"
COLUMNS: Final = (
    Column("peer", "by"),
    Column("rate_over_ours", "trials/h, ratio to ours", ".2f"),
    Column("overhead_over_ours", "overhead, ratio to ours", ".2f"),
    Column("running_over_ours", "running, ratio to ours", ".2f"),
    Column("trials_per_hour", "trials/h", ".0f"),
    Column("overhead_s", "overhead s/trial", ".2f"),
    Column("running_s", "running s/trial", ".2f"),
    Column("training_s", "training s/trial", ".2f"),
    Column("outside_s", "before and after s", ".1f"),
    Column("wall_s", "wall s", ".1f"),
    Column("trials", "trials"),
    Column("slots", "slots"),
)
_ROUNDS: Final = 2
_CLASSIFIER: Final = 200  # steps of its training: its weights change no time


def rows(options: Options) -> Iterator[Row]:
    """A row for each peer, ours first."""
    trials, steps = options.trials or (2 if options.quick else 8), options.steps or (24 if options.quick else 240)
    slots = max(1, min(cores() // options.threads, trials))
    threads = ["--threads", str(options.threads)]
    commands = {
        "ours": ["search/run.py", "--config", "sweep.yaml", "--no-report"],
        "Optuna": ["tests/benchmarks/peer_optuna.py", "sweep.yaml", *threads],
        "Ray Tune": ["tests/benchmarks/peer_ray.py", "sweep.yaml", *threads],
    }
    sweeps: dict[str, list[Sweep]] = {name: [] for name in commands}
    with tempfile.TemporaryDirectory() as scratch:
        file = _prepared(Path(scratch), options, trials, steps, slots)
        for number in range(options.rounds or (1 if options.quick else _ROUNDS)):
            names = list(commands)
            for name in names[number % 3 :] + names[: number % 3]:
                folder = Path(scratch, f"{name}-{number}".replace(" ", "-"))
                shutil.copytree(file.parent, folder)
                sweeps[name].append(_run(commands[name], folder, trials, steps))

    def each(name: str, key: str) -> list[float]:
        return [sweep.figures(slots)[key] for sweep in sweeps[name]]

    for name in commands:
        yield {
            "peer": name,
            "rate_over_ours": ratio(each(name, "trials_per_hour"), each("ours", "trials_per_hour")),
            "overhead_over_ours": ratio(each(name, "overhead_s"), each("ours", "overhead_s")),
            "running_over_ours": ratio(each(name, "running_s"), each("ours", "running_s")),
            **{key: statistics.median(each(name, key)) for key in sweeps[name][0].figures(slots)},
            "trials": trials,
            "slots": slots,
        }


@dataclass(frozen=True)
class Sweep:
    """The time of one sweep, in seconds."""

    wall: float
    span: float
    """The time from the first trial's start to the last one's end."""
    training: list[float]
    """The time of each trial's steps alone."""

    def figures(self, slots: int) -> dict[str, float]:
        """By the names of the columns."""
        trials, training = len(self.training), statistics.mean(self.training)
        return {
            "trials_per_hour": 3600 * trials / self.wall,
            "overhead_s": self.wall * slots / trials - training,
            "running_s": self.span * slots / trials - training,
            "training_s": training,
            "outside_s": self.wall - self.span,
            "wall_s": self.wall,
        }


def _prepared(scratch: Path, options: Options, trials: int, steps: int, slots: int) -> Path:
    """The sweep's file, in a folder with the trained classifier."""
    import yaml

    from gbc.training import tasks
    from search.files.paths import CLASSIFIERS
    from search.spec.resolve import resolve

    changes = {"batch_size": 128, "report_every": _every(steps), "steps": steps, "classifier.steps": _CLASSIFIER}
    trial = settings_of("default", options, **changes)
    dataset, preset = PRESETS["default"]
    space = resolve(dataset=dataset, preset=preset, config=None, flags={}, assignments={}, slots=lambda _: 1).space
    sweep = {
        "name": "benchmark",
        "preset": "custom",
        "trial": trial.model_dump(mode="json", exclude_none=True),
        # Not the batch size: trials of different cost cannot be counted.
        "space": {
            name: dimension.model_dump(mode="json", exclude_none=True)
            for name, dimension in space.items()
            if name != "batch_size"
        },
        "objective": {"metric": "ssim/coverage", "direction": "max"},
        "sampler": "tpe",
        "scheduler": {"name": "asha", "grace": steps},
        "trials": trials,
        "resources": {"concurrency": slots, "cpus_per_trial": float(options.threads)},
    }
    folder = scratch / "prepared"
    tasks.obtain(trial, folder / CLASSIFIERS)
    (folder / "sweep.yaml").write_text(yaml.safe_dump(sweep, sort_keys=False))
    return folder / "sweep.yaml"


def _every(steps: int) -> int:
    """Steps between reports: about eight reports a trial, as the preset has."""
    return next(size for size in range(max(1, steps // 8), 0, -1) if steps % size == 0)


def _run(command: list[str], folder: Path, trials: int, steps: int) -> Sweep:
    """Run a command of the repository in `folder`, to its end; what MLflow knows of its trials."""
    script, *arguments = command
    environment = {key: value for key, value in os.environ.items() if key not in ("MLFLOW_TRACKING_URI", "OMP_NUM_THREADS")}
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, [str(ROOT), environment.get("PYTHONPATH")]))
    environment |= {"RAY_USAGE_STATS_ENABLED": "0", "MLFLOW_DISABLE_TELEMETRY": "true"}
    with (folder / "output").open("w") as output:
        began = time.perf_counter()
        done = subprocess.run(
            [sys.executable, str(ROOT / script), *arguments],
            cwd=folder,
            env=environment,
            stdout=output,
            stderr=subprocess.STDOUT,
        )
        wall = time.perf_counter() - began
    if done.returncode:
        raise RuntimeError(f"{script} ended with {done.returncode}:\n{(folder / 'output').read_text()[-3000:]}")
    runs = _runs(folder, steps)
    assert len(runs) == trials, f"{script}: {len(runs)} of {trials} trials are in MLflow with every report"
    starts, ends, training = zip(*runs, strict=True)
    return Sweep(wall, max(ends) - min(starts), list(training))


def _runs(folder: Path, steps: int) -> list[tuple[float, float, float]]:
    """(start, end, seconds of training) of every run in the folder's MLflow whose reports make up the whole trial."""
    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{folder / 'mlflow.db'}")
    trials: list[tuple[float, float, float]] = []
    for run in client.search_runs([experiment.experiment_id for experiment in client.search_experiments()]):
        if "time/steps_per_s" not in run.data.metrics:
            continue  # the sweep's own run
        speeds: list[Any] = client.get_metric_history(run.info.run_id, "time/steps_per_s")
        if len({speed.step for speed in speeds}) == len(speeds) == steps // _every(steps) and run.info.end_time:
            training = sum(_every(steps) / speed.value for speed in speeds)
            trials.append((run.info.start_time / 1e3, run.info.end_time / 1e3, training))
    return trials


if __name__ == "__main__":
    from tests.benchmarks.run import main

    sys.exit(main(["--only", NAME, *sys.argv[1:]]))
