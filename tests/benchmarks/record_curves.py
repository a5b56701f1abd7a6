"""Record learning curves of real trials, for `fidelity.py`: `python tests/benchmarks/record_curves.py`.

Trials of the Fashion-MNIST quick preset in this process, made small: a classifier of 256 hidden units in place of 1000, a
generator of width 64 and 8 channels in place of 256 and 32, batches of 32 or 64 in place of 128 or 256, 144 steps in place of
600, and 10 samples of each class in place of 50. The metrics are taken at `REPORTS`. Settings are scrambled Sobol points, of
the preset's own space (`tuned`) or of one that nobody has tuned (`wide`). Each trial is a line of the file as soon as it
ends. The same command goes on after the last line; `--pack` makes the table that lies in this folder.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from gbc.config import TrialConfig
from gbc.metrics.scores import ScoredSamples
from gbc.runtime import derive_seed
from gbc.training import tasks
from gbc.training.trainer import Trainer
from search.policy.samplers import sobol_point
from search.spec.config import SweepConfig
from search.spec.resolve import resolve
from search.spec.space import settle

REPORTS: Final = (8, 16, 24, 36, 48, 72, 96, 120, 144)
STEPS: Final = REPORTS[-1]
SMALL: Final = {
    "classifier.hidden": 256, "width": 64, "channels": 8, "multiplier_width": 64, "eval_per_class": 10,
    "steps": STEPS, "report_every": REPORTS[0], "device": "cpu",
}  # fmt: skip
BATCHES: Final = {"batch_size": {"choice": [32, 64]}}
WIDE: Final = {
    "lr": {"log10": [-3.5, -1.5]}, **BATCHES, "weight_decay": {"log10": [-6.0, -2.0]}, "beta": {"log10": [-4.0, 0.0]},
    "tv_weight": {"log10": [-2.0, 0.0]}, "stationarity_weight": {"log10": [-1.5, 1.0]}, "bn_weight": {"log10": [-0.5, 1.5]},
    "ce_weight": {"log10": [-3.0, 0.0]}, "diversity_weight": {"log10": [-3.0, -1.0]},
}  # fmt: skip
METRICS: Final = ("ssim/coverage", "ssim/nearest", "tstr/1nn")
TABLE: Final = Path(__file__).parent / "curves.npz"


def sweep(space: str) -> SweepConfig:
    """The settings of the recorded trials, as a sweep over the space of that name."""
    preset = resolve(dataset="fashion_mnist", preset=None, config=None, flags={}, assignments={}, slots=lambda _: 1)
    data = preset.record()
    data["trial"] = preset.trial.updated(SMALL, "record_curves").model_dump(mode="json")
    data["space"] = {**data["space"], **BATCHES} if space == "tuned" else WIDE
    data["scheduler"], data["first_trials"] = {"name": "asha", "grace": REPORTS[0]}, ()
    return SweepConfig.parse(data, "record_curves")


def record(config: SweepConfig, number: int, cache: Path) -> dict[str, Any]:
    """Train trial `number`: its settings, its seconds and each metric at each report; NaN once it has diverged."""
    settings = sobol_point(config, number)
    trial: TrialConfig = settle(config.trial, settings, derive_seed(config.seed, number))
    inputs = tasks.obtain(trial, cache)  # anew for each trial: a trainer leaves hooks on its classifier
    reference = inputs.reference("cpu")
    assert reference is not None
    began, trainer = time.process_time(), Trainer(trial, inputs.classifiers)
    curves: dict[str, list[float]] = {metric: [] for metric in METRICS}
    for step in range(1, STEPS + 1):
        trainer.step()
        if step in REPORTS:
            images = trainer.sample(trainer.evaluation_noise, trainer.evaluation_labels, trainer.evaluation_tasks)
            scores = ScoredSamples(reference, images, trainer.evaluation_labels).scores() if images.isfinite().all() else {}
            for metric in METRICS:
                curves[metric].append(round(scores.get(metric, float("nan")), 5))
    return {"trial": number, "settings": settings, "seconds": round(time.process_time() - began, 2), "curves": curves}


def pack(files: dict[str, Path]) -> None:
    """Write the tables of the spaces into one compressed file: settings [trials, settings], curves [trials, reports]."""
    arrays: dict[str, Any] = {}
    for space, file in files.items():
        rows = [json.loads(line) for line in file.read_text().splitlines()]
        arrays |= {f"{space}:{key}": np.array([row["settings"][key] for row in rows]) for key in sweep(space).space}
        arrays |= {f"{space}:{metric}": np.array([row["curves"][metric] for row in rows], np.float32) for metric in METRICS}
    np.savez_compressed(TABLE, **arrays)


def main() -> None:
    cli = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    cli.add_argument("--out", type=Path, default=Path("mlruns/curves"), help="a folder: SPACE.jsonl and the classifier")
    cli.add_argument("--space", choices=["tuned", "wide"], default="tuned")
    cli.add_argument("--trials", type=int, default=300)
    cli.add_argument("--minutes", type=float, default=90.0, help="no trial starts later")
    cli.add_argument("--pack", action="store_true", help="write the table of what is recorded, and train nothing")
    arguments = cli.parse_args()
    if arguments.pack:
        pack({file.stem: file for file in sorted(arguments.out.glob("*.jsonl"))})
        return
    torch.set_num_threads(1)
    arguments.out.mkdir(parents=True, exist_ok=True)
    file, config, began = arguments.out / f"{arguments.space}.jsonl", sweep(arguments.space), time.monotonic()
    done = len(file.read_text().splitlines()) if file.exists() else 0
    for number in range(done, arguments.trials):
        if time.monotonic() - began > 60 * arguments.minutes:
            break
        row = record(config, number, arguments.out / "classifiers")
        with file.open("a") as lines:
            lines.write(json.dumps(row) + "\n")


if __name__ == "__main__":
    main()
