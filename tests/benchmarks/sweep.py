"""The cost of a sweep beside its trials: `python tests/benchmarks/sweep.py --trials 100`.

Real Ray, a real study and a real MLflow store, with a trainable that reports every metric 20 times and does nothing else.
Prints the driver's time for each trial (`--bare`: the same trials with Ray alone, to compare with), its memory, the size of
the stores, what `--check` and `--status` take without the start of their process, and, with `--resume`, how long the command
takes to go on after all these trials.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import os
import random
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

REPORTS = 20
SWEEP: dict[str, Any] = {
    "name": "benchmark",
    "preset": "custom",
    "trial": {
        "steps": REPORTS, "report_every": 1, "width": 16, "channels": 8, "batch_size": 32, "device": "cpu",
        "dataset": {"per_class": 10}, "classifier": {"hidden": 24, "steps": 60},
    },
    "space": {
        "lr": {"log10": [-4, -2]}, "weight_decay": {"log10": [-6, -2]}, "beta": {"log10": [-3, 0]},
        "tv_weight": {"log10": [-4, 0]}, "batch_size": {"choice": [16, 32, 64]},
    },
}  # fmt: skip


def nothing(config: dict[str, Any]) -> None:
    """A trial that only reports, scores at random."""
    from ray import tune

    from gbc.report import METRIC_DIRECTIONS
    from search.worker.messages import MESSAGE, Progress

    scores = random.Random(config["number"])
    for step in range(config["acknowledged"] + 1, REPORTS + 1):
        tune.report({MESSAGE: Progress(step, {name: scores.random() for name in METRIC_DIRECTIONS})})


def main() -> None:
    cli = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    cli.add_argument("--trials", type=int, default=100)
    cli.add_argument("--scheduler", default="none", help="none (every trial reports 20 times), asha or median")
    cli.add_argument("--sampler", default="tpe")
    cli.add_argument("--bare", action="store_true", help="Ray alone: no study, no MLflow, settings at random")
    cli.add_argument("--resume", action="store_true", help="then continue the sweep from the command line")
    cli.add_argument("--folder", help="an empty folder to run in and leave the sweep in")
    arguments = cli.parse_args()
    os.environ.pop("MLFLOW_TRACKING_URI", None)
    with contextlib.nullcontext(arguments.folder) if arguments.folder else tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        if arguments.bare:
            ray_alone(arguments.trials)
        else:
            ours(arguments)
            time_check_and_status()
            if arguments.resume:
                resume(arguments.trials)


def ours(arguments: argparse.Namespace) -> None:
    import yaml
    from rich.console import Console

    from records.paths import RECORD
    from search.driver.engine import run_ray
    from search.driver.progress import ProgressDisplay
    from search.driver.recorder import Recorder
    from search.driver.resources import Machine
    from search.files.paths import CLASSIFIERS, sweep_folder
    from search.spec.config import SweepConfig
    from search.spec.faults import HaltMonitor
    from search.study.ledger import Ledger
    from search.tracking.tracker import Tracker
    from search.worker.trial import assignment_of

    settings = {"trials": arguments.trials, "sampler": arguments.sampler, "scheduler": {"name": arguments.scheduler}}
    config = SweepConfig.parse(SWEEP | settings, "benchmark")
    machine, folder = Machine.local(config.resources), sweep_folder(config.name)
    folder.mkdir(parents=True)
    Path("sweep.yaml").write_text(yaml.safe_dump(SWEEP | settings))
    (folder / RECORD).write_text(yaml.safe_dump(config.model_dump(mode="json", exclude_none=True)))
    ledger, tracker = Ledger(config, folder), Tracker(config, {})
    recorder = Recorder(ledger, tracker, ProgressDisplay(config, Console(file=io.StringIO())), folder)
    tracker.begin({}, {})
    recorder.reconcile()

    def assign(trial: Any) -> Any:
        return assignment_of(config, trial, CLASSIFIERS, machine.threads, gpus=machine.gpus_per_trial)

    with Clock("the sweep", arguments.trials):
        run_ray(config, machine, ledger, recorder, assign, folder, HaltMonitor(folder), nothing)
    with Clock("the rest of what MLflow has to hear", arguments.trials):
        recorder.finish()
    reports = sum(len(trial.values) for trial in ledger.entries())
    ledger.close()
    tracker.end("FINISHED", None, None, None)
    print(f"{reports} reports; driver: {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3:.0f} MB at most")
    for store in (folder / "study.db", Path("mlflow.db")):
        print(f"{store.name}: {store.stat().st_size / 1e6:.1f} MB")


def ray_alone(trials: int) -> None:
    from search.driver.ray_runtime import quiet_environment
    from search.driver.resources import Machine

    quiet_environment()
    import logging

    import ray
    from ray import tune

    from search.spec.config import Resources

    logging.getLogger("ray.tune").setLevel(logging.CRITICAL)

    class Numbers(tune.search.Searcher):  # type: ignore[misc]
        number = 0

        def suggest(self, trial_id: str) -> dict[str, Any]:
            self.number += 1
            return {"number": self.number, "acknowledged": 0}

        def on_trial_complete(self, trial_id: str, result: Any = None, error: bool = False) -> None:
            pass

    slots = Machine.local(Resources()).concurrency
    with Clock("Ray alone", trials):
        ray.init(address="local", num_cpus=slots, include_dashboard=False, log_to_driver=False, object_store_memory=100 * 2**20)
        tune.Tuner(
            tune.with_resources(nothing, {"cpu": 1}),
            tune_config=tune.TuneConfig(
                num_samples=trials, max_concurrent_trials=slots, reuse_actors=True,
                search_alg=Numbers(metric="loss/total", mode="min"),
            ),
            run_config=tune.RunConfig(name="run", storage_path=str(Path.cwd() / "ray"), verbose=0),
        ).fit()  # fmt: skip
        ray.shutdown()


def time_check_and_status() -> None:
    """Print the time to compare all records, and the time to read the state of the sweep."""
    from search import status
    from search.consistency import audit
    from search.files.paths import sweep_folder

    began = time.perf_counter()
    audit(sweep_folder(SWEEP["name"]))
    audited = time.perf_counter()
    status.read_overview(SWEEP["name"])
    ended = time.perf_counter()
    print(f"--check: {audited - began:.2f} s; --status: {ended - audited:.2f} s")


def resume(trials: int) -> None:
    """Time from the command to the next trial."""
    command = [sys.executable, str(ROOT / "search" / "run.py"), "--config", "sweep.yaml", "--trials", str(trials + 1)]
    for attempt in ("first", "second"):  # the first one trains the classifier
        began, lines = time.perf_counter(), []
        process = subprocess.Popen(command, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        assert process.stdout is not None
        for line in process.stdout:
            lines.append((time.perf_counter() - began, line.rstrip()))
            if f"trial {trials + int(attempt == 'second'):04d}  starts" in line:
                print(f"{attempt} time: goes on after {time.perf_counter() - began:.1f} s")
        process.wait()
        assert process.returncode == 0, "\n".join(line for _, line in lines)
        command[-1] = str(trials + 2)


class Clock:
    """Wall time, CPU time of the thread that serves the trials, and of the whole process, for each trial."""

    def __init__(self, task: str, trials: int) -> None:
        self.what, self.trials = task, trials

    def __enter__(self) -> None:
        self.began = time.perf_counter(), time.thread_time(), time.process_time()

    def __exit__(self, *_: object) -> None:
        ended = time.perf_counter(), time.thread_time(), time.process_time()
        wall, serving, all_threads = (1000 * (end - begin) / self.trials for begin, end in zip(self.began, ended, strict=True))
        print(
            f"{self.what}, ms for each of {self.trials} trials: {wall:.0f} on the wall, "
            f"{serving:.0f} of CPU in the thread that serves them, {all_threads:.0f} of CPU in all"
        )


if __name__ == "__main__":
    main()
