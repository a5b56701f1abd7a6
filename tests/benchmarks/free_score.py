"""The ranks that metrics without data give to trials, beside scores that look at real images.

    python tests/benchmarks/free_score.py [--trials N]

Short trials with random settings over wide ranges, good and bad; about ten seconds each on one CPU core. Prints the trials
and Spearman's rank correlations.
"""

from __future__ import annotations

import argparse
import random
import tempfile
from pathlib import Path

import pandas as pd
import torch

from gbc.classifiers import pretrain
from gbc.config import TrialConfig
from gbc.data import datasets
from gbc.metrics.scores import ReferenceSet
from gbc.report import METRIC_DIRECTIONS, rank_correlation
from gbc.training.trainer import Trainer

BASE = TrialConfig.parse(
    {
        "classifier": {"hidden": 128, "steps": 1500, "lr": 0.05},
        "width": 128, "channels": 16, "noise_dim": 32, "multiplier_width": 64, "batch_size": 128,
        "steps": 150, "report_every": 150, "lr_schedule": "cosine", "device": "cpu",
    },
    "base",
)  # fmt: skip
LOG10 = {
    "lr": (-3.2, -1.7), "tv_weight": (-2, 0), "stationarity_weight": (-1, 1.5),
    "bn_weight": (-1, 1.3), "ce_weight": (-2, -0.5), "beta": (-4, -1),
}  # fmt: skip
FREE = ("free/score", "free/confidence", "free/rho", "free/bn")
TARGETS = ("tstr/1nn", "ssim/coverage")


def trial(seed: int, settings: dict[str, float], cache: Path) -> dict[str, float]:
    """The last report of one trial."""
    config = BASE.updated({"seed": seed, **settings}, "draw")
    data = datasets.load(config.dataset)
    # Loaded anew for each trial: a trainer leaves hooks on its classifier.
    classifier, _, _ = pretrain.obtain(config.classifier, data, cache)
    *_, last = Trainer(config, [classifier], ReferenceSet.of(data, "cpu")).run()
    return dict(last.metrics)


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else None)
    arguments.add_argument("--trials", type=int, default=12)
    count = arguments.parse_args().trials
    torch.set_num_threads(1)
    draws = random.Random(0)
    with tempfile.TemporaryDirectory() as folder:
        rows = [
            trial(seed, {name: 10 ** draws.uniform(*bounds) for name, bounds in LOG10.items()}, Path(folder))
            for seed in range(count)
        ]
    frame = pd.DataFrame(rows)
    print(frame[[*FREE, *TARGETS]].round(3).to_string())
    print(f"\n{'Spearman':18}" + "".join(f"{target:>16}" for target in TARGETS))
    for metric in FREE:
        values = "".join(f"{rank_correlation(frame, metric, target):16.2f}" for target in TARGETS)
        print(f"{metric:18}{values}  ({METRIC_DIRECTIONS[metric]} is better)")


if __name__ == "__main__":
    main()
