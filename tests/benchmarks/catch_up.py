"""How long a sweep takes to look at its records before it goes on: `python tests/benchmarks/catch_up.py --trials 200`.

Makes a finished sweep in a temporary folder (a real study, a real MLflow store in sqlite), then times `Recorder.catch_up` as
at the start of each run, and what `--check` and `--status` do without the start of the process.
"""

from __future__ import annotations

import argparse
import io
import os
import statistics
import tempfile
import time
from pathlib import Path

import yaml
from rich.console import Console

from gbc.report import METRIC_DIRECTIONS
from search.audit import audit
from search.config import SweepConfig
from search.folder import RECORD
from search.ledger import Ledger
from search.overview import look
from search.progress import Progress
from search.recorder import Recorder
from search.tracking import Report, Tracker

REPORTS = 3


def main() -> None:
    cli = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    cli.add_argument("--trials", type=int, default=200)
    cli.add_argument("--rounds", type=int, default=3)
    arguments = cli.parse_args()
    os.environ.pop("MLFLOW_TRACKING_URI", None)
    config = SweepConfig.parse({"name": "benchmark", "space": {"lr": {"log10": [-3, -2]}}}, "benchmark")
    with tempfile.TemporaryDirectory() as place:
        os.chdir(place)
        folder = Path("mlruns") / "sweeps" / "benchmark"
        folder.mkdir(parents=True)
        began = time.perf_counter()
        (folder / RECORD).write_text(yaml.safe_dump(config.model_dump(mode="json", exclude_none=True)))
        fill(config, folder, arguments.trials)
        print(f"{arguments.trials} trials of {REPORTS} reports made in {time.perf_counter() - began:.1f} s")
        times, cpu = [], []
        for _ in range(arguments.rounds):
            ledger, tracker = Ledger(config, folder), Tracker(config, {})
            recorder = Recorder(ledger, tracker, Progress(config, Console(file=io.StringIO())), folder)
            began, worked = time.perf_counter(), time.process_time()
            recorder.catch_up()
            times.append(time.perf_counter() - began)
            cpu.append(time.process_time() - worked)
            ledger.close()
        shown = ", ".join(f"{value:.2f}" for value in times)
        began = time.perf_counter()
        audit(folder)
        audited = time.perf_counter() - began
        began = time.perf_counter()
        look("benchmark")
        print(f"--check: {audited:.2f} s; --status: {time.perf_counter() - began:.2f} s")
        print(f"catch_up: median {statistics.median(times):.2f} s of {shown}; {statistics.median(cpu):.2f} s of CPU time")


def fill(config: SweepConfig, folder: Path, trials: int) -> None:
    ledger, tracker = Ledger(config, folder), Tracker(config, {})
    settings = config.trial.model_dump(mode="json")
    for number in range(trials):
        ledger.ask()
        tracker.open_trial(number, settings)
        for step in range(1, REPORTS + 1):
            ledger.record(number, step, 0.5, stop=False)
            tracker.log(number, [Report(step, dict.fromkeys(METRIC_DIRECTIONS, 0.5), time.time())])
        ledger.tell(number, "stopped")
        tracker.close_trial(number, "stopped", None, folder / "none.png")
    ledger.close()


if __name__ == "__main__":
    main()
