"""The default sweep with as many trials as fit, beside Ray Tune's own parts with the same trainer (`peer_ray.py`).

All have the same file, the same time and the same cached classifier, and log to MLflow, where they are counted: trials in
steps of a whole one, so that what early stopping cut short and what the end broke off count as what they trained. Ray Tune
gets a whole GPU for each trial, as its examples do, and then as many trials on a GPU as ours had. On a CPU two small trials
are run, however long they take.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Final

import psutil
import torch

from tests.benchmarks.harness import PRESETS, ROOT, Column, Options, Row, pick

ABOUT: Final = "the default sweep with as many trials as fit, beside Ray Tune with OptunaSearch and its MLflow callback"
LIMIT: Final = 220.0
COLUMNS: Final = (
    Column("by", "by"),
    Column("slots", "at a time"),
    Column("whole_trials_per_hour", "whole trials/h", ".0f"),
    Column("ours_over_this", "ours/this", ".1f"),
    Column("running_per_hour", "while running, /h", ".0f"),
    Column("busy", "busy share", ".0%"),
    Column("ended", "trials ended"),
    Column("wall_s", "wall, s", ".0f"),
    Column("verdict", "targets"),
)
RATIO: Final = 10.0
"""Target: so many times the trials of Ray Tune with a GPU for each trial."""
BUSY: Final = 0.8
"""Target: the share of time in which the GPU computes."""

_SECONDS: Final = 40.0
_CLASSIFIER: Final = 200  # steps of its training: its weights change no time
_EVERY: Final = 0.5  # seconds between samples of the busy share


@dataclass(frozen=True)
class Run:
    """One sweep, as MLflow has it."""

    wall: float
    span: float
    """Seconds from the first trial's start to the last report."""
    steps: int
    """The steps of all trials."""
    ended: int
    busy: float | None
    slots: int

    def row(self, by: str, whole: int, ours: Run | None) -> Row:
        """`whole` are the steps of a whole trial; `ours` is None in our own row."""
        rate = self.steps / whole / self.wall * 3600
        row: Row = {
            "by": by,
            "slots": self.slots,
            "whole_trials_per_hour": rate,
            "ours_over_this": ours.steps / ours.wall / (self.steps / self.wall) if ours and self.steps else None,
            "running_per_hour": self.steps / whole / self.span * 3600 if self.span > 0 else None,
            "busy": self.busy,
            "ended": self.ended,
            "wall_s": self.wall,
            "verdict": "" if self.steps else "no trial came as far as a report",
        }
        return row


def rows(options: Options) -> Iterator[Row]:
    """Ours first, which says how many trials fit."""
    on_gpu = pick(options).type == "cuda"
    gpus = torch.cuda.device_count() if on_gpu else 1
    with tempfile.TemporaryDirectory() as scratch:
        prepared, whole, every = _prepared(Path(scratch), options)
        ray = ["tests/benchmarks/peer_ray.py", "sweep.yaml", *([] if options.quick else ["--seconds", str(_SECONDS)])]

        def run(name: str, arguments: list[str], slots: int | None) -> Run:
            folder = Path(scratch, name)
            shutil.copytree(prepared, folder)
            return _run(arguments, folder, every, slots, on_gpu=on_gpu)

        ours = run("ours", ["search/run.py", "--config", "sweep.yaml", "--no-report"], None)
        reached = "" if ours.busy is None or not on_gpu else f"busy {'reached' if ours.busy >= BUSY else 'MISSED'}"
        own = ours.row("ours", whole, None)
        yield own | {"verdict": own["verdict"] or reached}
        alone = run("alone", [*ray, "--slots", str(gpus)], gpus).row("Ray Tune, a GPU for each trial", whole, ours)
        factor = alone["ours_over_this"]
        if on_gpu and isinstance(factor, float):
            alone["verdict"] = f"ratio {'reached' if factor >= RATIO else 'MISSED'}"
        yield alone
        if not options.quick:
            shared = run("shared", [*ray, "--slots", str(ours.slots)], ours.slots)
            yield shared.row("Ray Tune, as many at a time as ours", whole, ours)


def _prepared(scratch: Path, options: Options) -> tuple[Path, int, int]:
    """A folder with the sweep's file and its trained classifier; steps of a whole trial, and steps between reports."""
    import yaml

    from gbc.training import tasks
    from search.files.paths import CLASSIFIERS
    from search.spec.config import SweepConfig
    from search.spec.resolve import resolve

    dataset, preset = PRESETS["default"]
    default = resolve(dataset=dataset, preset=preset, config=None, flags={}, assignments={}, slots=lambda _: 1)
    written = default.model_dump(mode="json", exclude_none=True)
    written |= {"name": "benchmark", "preset": "custom", "trials": 9999, "time_budget": _SECONDS / 60}
    del written["first_trials"]  # the others have none
    del written["space"]["batch_size"]  # trials of different cost cannot be counted
    written["trial"] |= {"batch_size": 128, "device": pick(options).type}
    written["trial"]["classifier"]["steps"] = _CLASSIFIER
    if options.quick:
        written["trial"] |= {"batch_size": 32, "width": 16, "channels": 8, "steps": 24, "report_every": 6}
        written["trial"]["classifier"] |= {"hidden": 24, "steps": 20}
        written["scheduler"]["grace"] = 6
        written["trials"] = 2  # a busy machine does not start one in any short time
        del written["time_budget"]
    sweep = SweepConfig.parse(written, "sweep.yaml")
    folder = scratch / "prepared"
    tasks.obtain(sweep.trial, folder / CLASSIFIERS)
    (folder / "sweep.yaml").write_text(yaml.safe_dump(written, sort_keys=False))
    return folder, sweep.trial.steps, sweep.trial.report_every


def _run(arguments: list[str], folder: Path, every: int, slots: int | None, *, on_gpu: bool) -> Run:
    """Run a command of the repository in `folder` to its end."""
    script, *rest = arguments
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "RAY_USAGE_STATS_ENABLED": "0", "MLFLOW_DISABLE_TELEMETRY": "true"}
    with (folder / "output").open("w") as output, BusyShare(on_gpu=on_gpu) as busy:
        began = time.perf_counter()
        done = subprocess.run(
            [sys.executable, str(ROOT / script), *rest], cwd=folder, env=environment, stdout=output, stderr=subprocess.STDOUT
        )
        wall = time.perf_counter() - began
    printed = (folder / "output").read_text()
    trials = _trials(folder)
    if done.returncode and not trials:
        raise RuntimeError(f"{printed[-2000:]}\n{script} ended with {done.returncode}")
    begun, last = min((trial[0] for trial in trials), default=0.0), max((trial[1] for trial in trials), default=0.0)
    announced = re.search(r"(\d+) at a time on", printed)
    return Run(
        wall=wall, span=last - begun, steps=every * sum(trial[2] for trial in trials), ended=sum(trial[3] for trial in trials),
        busy=busy.between(begun, last), slots=slots or int(announced[1] if announced else 0),
    )  # fmt: skip


def _trials(folder: Path) -> list[tuple[float, float, int, bool]]:
    """(start, last report, reports, ended) of every trial in the folder's MLflow that has reported."""
    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{folder / 'mlflow.db'}")
    trials = []
    for run in client.search_runs([experiment.experiment_id for experiment in client.search_experiments()], max_results=5000):
        if "time/steps_per_s" not in run.data.metrics or run.data.tags.get("sweep.role") == "sweep":
            continue
        reports: list[Any] = client.get_metric_history(run.info.run_id, "time/steps_per_s")
        last = max(report.timestamp for report in reports) / 1e3
        count = len({report.step for report in reports})
        trials.append((run.info.start_time / 1e3, last, count, run.info.status == "FINISHED"))
    return trials


class BusyShare:
    """Samples the share of time in which the first GPU, or on a CPU all cores, compute."""

    def __init__(self, *, on_gpu: bool) -> None:
        """Prepare the samples; sampling starts on entry."""
        self.samples: list[tuple[float, float]] = []
        """(seconds since 1970, share)."""
        self._on_gpu, self._over = on_gpu, threading.Event()
        self._process: subprocess.Popen[str] | None = None
        self._thread = threading.Thread(target=self._sample, daemon=True)

    def __enter__(self) -> BusyShare:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        if self._process is not None:
            self._process.terminate()
        self._thread.join(5)

    def between(self, begun: float, last: float) -> float | None:
        """The mean share between two times; None if nothing was sampled then, as without nvidia-smi."""
        return mean_between(self.samples, begun, last)

    def _sample(self) -> None:
        if not self._on_gpu:
            psutil.cpu_percent()
            while not self._over.wait(_EVERY):
                self.samples.append((time.time(), psutil.cpu_percent() / 100))
            return
        query = ["nvidia-smi", "--query-gpu=timestamp,utilization.gpu", "--format=csv,noheader,nounits", f"--id={_first_gpu()}"]
        with contextlib.suppress(OSError):
            self._process = subprocess.Popen([*query, f"--loop-ms={_EVERY * 1e3:.0f}"], stdout=subprocess.PIPE, text=True)
            assert self._process.stdout is not None
            for line in self._process.stdout:
                with contextlib.suppress(ValueError):  # "[N/A]"
                    self.samples.append(sample_of(line))


def sample_of(line: str) -> tuple[float, float]:
    """Time and share in a line of nvidia-smi, as `2026/01/31 12:00:00.500, 85`."""
    at, _, percent = line.partition(", ")
    return datetime.strptime(at, "%Y/%m/%d %H:%M:%S.%f").timestamp(), float(percent) / 100


def _first_gpu() -> str:
    """The name that nvidia-smi has for the first GPU that torch sees: the two may count differently."""
    return f"GPU-{torch.cuda.get_device_properties(0).uuid}"


def mean_between(samples: Sequence[tuple[float, float]], begun: float, last: float) -> float | None:
    """The mean of the values whose times lie between two others."""
    values = [value for at, value in samples if begun <= at <= last]
    return statistics.mean(values) if values else None
