"""Size of a report and time to open it, of 200 trials with 24 reports each: `python tests/benchmarks/report.py`.

The records are written by the sweep's own ledger and tracker; values and pictures are random, and noise is what compresses
worst. With a folder as its argument the records stay there.
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import numpy as np
import yaml
from mlflow import MlflowClient

from dashboards import report
from gbc.pictures import pair_grid, png
from gbc.report import METRIC_DIRECTIONS
from records.mlflow_store import runs_of
from search.files.paths import sweep_folder
from search.spec.config import SweepConfig
from search.spec.resolve import resolve
from search.study.ledger import Ledger
from search.tracking.tracker import Tracker
from search.worker.messages import Progress
from tests.dashboards.artifacts import CLASSES, evaluation, log_step_images
from tests.support.browser import browse, chromium

TRIALS, REPORTS = 200, 24
PICTURED = 8  # trials from either end that have pictures of each step: more than the gallery shows

_MOST_BYTES, _LONGEST = 8_000_000, 2.0  # what a report may take on disk, and in seconds to open


def record(config: SweepConfig, random: np.random.Generator) -> None:
    """Every other trial is full, the others were stopped at the first rung."""
    import torch

    folder = sweep_folder(config.name)
    folder.mkdir(parents=True)
    (folder / "sweep.yaml").write_text(yaml.safe_dump(config.record(), sort_keys=False))
    ledger, tracker = Ledger(config, folder), Tracker(config, {"version.benchmark": "1"})
    tracker.begin({}, {})
    picture = folder / "samples.png"
    steps = range(config.trial.report_every, config.trial.steps + 1, config.trial.report_every)
    now = time.time()
    for number in range(TRIALS):
        trial = ledger.ask()
        tracker.open_trial(number, {**config.trial.model_dump(mode="json"), **trial.params})
        full, level, reports = number % 2 == 0, random.uniform(0.2, 0.5), []
        for step in steps:
            now += 0.5
            value = level * (1 - np.exp(-3 * step / config.trial.steps)) + random.normal(0, 0.005)
            metrics = {name: float(abs(random.normal(value, 0.05))) for name in METRIC_DIRECTIONS}
            metrics[config.objective.metric] = float(value)
            reports.append(Progress(step, metrics, now))
            stop = not full and step >= config.first_rung
            ledger.record(number, step, float(value), stop=stop)
            if stop:
                break
        tracker.log(number, reports)
        images = torch.from_numpy(random.random((2, 80, 1, 28, 28), dtype=np.float32))
        picture.write_bytes(png(pair_grid(*images, columns=10)))
        ledger.tell(number, "complete" if full else "stopped")
        tracker.close_trial(number, "complete" if full else "stopped", None, picture)
    ledger.set_seconds(TRIALS * REPORTS / 2)
    best = ledger.best()
    assert best is not None
    tracker.end("FINISHED", tracker.metrics(best.number), best.number, picture)
    _artifacts(config, sorted(ledger.entries(), key=lambda trial: trial.value or 0), best.number, list(steps)[2::3])
    ledger.close()


def _artifacts(config: SweepConfig, ranked: list, best: int, steps: list[int]) -> None:
    client = MlflowClient(f"sqlite:///{Path('mlflow.db').resolve()}")
    (parent,), trials = runs_of(client, config.dataset, config.name)
    children = {int(run.data.tags["sweep.trial"]): run for run in trials}
    full = [trial for trial in ranked if trial.state == "complete"]
    for trial in {trial.number: trial for trial in [*ranked[:PICTURED], *full[-PICTURED:]]}.values():
        log_step_images(client, children[trial.number], [step for step in steps if step <= trial.last_step])
    client.log_dict(parent.info.run_id, evaluation(children[best], best), "evaluation.json")


def main() -> None:
    os.environ["MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR"] = "false"
    assignments = {"report_every": 50, "steps": 50 * REPORTS}
    flags = {"sampler": "random", "trials": TRIALS, "name": "large", "trial.steps": 50 * REPORTS}
    config = resolve(dataset="fashion_mnist", preset=None, config=None, flags=flags, assignments=assignments, slots=lambda _: 1)
    assert len(CLASSES) == 10
    with tempfile.TemporaryDirectory() as scratch:
        os.chdir(sys.argv[1] if len(sys.argv) > 1 else scratch)
        if not sweep_folder(config.name).exists():
            began = time.perf_counter()
            record(config, np.random.default_rng(0))
            print(f"recorded {TRIALS} trials in {time.perf_counter() - began:.0f} s", flush=True)
        began = time.perf_counter()
        path, size = report.write([config.name])
        print(f"report: {size:,} bytes, made in {time.perf_counter() - began:.1f} s", flush=True)
        assert size < _MOST_BYTES, "too large"
        if chromium() is None:
            print("no Chromium here, so nothing opens it")
            return
        for width, screen in ((1280, "desktop"), (390, "phone")):
            with browse() as tab:
                loaded = tab.open(path.resolve().as_uri(), width=width, phone=width == 390)
                tab.run("document.querySelector('.chart').scrollIntoView()")
                tab.wait("document.querySelector('.chart[data-drawn]') !== null")
                first = float(tab.run("performance.now()")) / 1000
                print(f"{screen}: load event after {loaded:.2f} s, first figure within {first:.2f} s, errors: {tab.errors}")
                assert loaded < _LONGEST and not tab.errors, "too slow, or with errors"


if __name__ == "__main__":
    main()
