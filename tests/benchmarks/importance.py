"""Importance of settings by fANOVA and by PED-ANOVA from few full trials: `python tests/benchmarks/importance.py`.

Recorded trials (`curves.npz`) are drawn at random as the full trials of a sweep. What each way says of them is compared, by
Spearman's rank correlation over settings, with what it says of all recorded trials, and with the share of the variance of all
recorded trials that each setting explains by itself (a cubic in it, cross-validated).
"""

from __future__ import annotations

import argparse
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from statistics import mean
from typing import Final

import numpy as np
import optuna
from optuna.importance import (
    BaseImportanceEvaluator,
    FanovaImportanceEvaluator,
    PedAnovaImportanceEvaluator,
    get_param_importances,
)
from optuna.trial import create_trial
from scipy.stats import spearmanr

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from tests.benchmarks.fidelity import Curves, spread
from tests.benchmarks.record_curves import METRICS

WAYS: Final[dict[str, Callable[[], BaseImportanceEvaluator]]] = {
    "fANOVA": lambda: FanovaImportanceEvaluator(seed=0),
    "PED-ANOVA": PedAnovaImportanceEvaluator,
    "PED-ANOVA, best third": lambda: PedAnovaImportanceEvaluator(target_quantile=0.34),
}
COUNTS: Final = (8, 15, 30, 60)


def shares(curves: Curves, rows: list[int], metric: str, way: str) -> list[float]:
    """The importance of each setting, in the order of the space."""
    distributions = {key: dimension.distribution() for key, dimension in curves.config.space.items()}
    study = optuna.create_study(direction="maximize")
    study.add_trials(
        create_trial(
            value=float(curves.values[metric][row, -1]),
            params={key: column[row].item() for key, column in curves.settings.items()},
            distributions=distributions,
        )
        for row in rows
    )
    importances = get_param_importances(study, evaluator=WAYS[way]())
    return [importances.get(key, 0.0) for key in curves.config.space]


def alone(curves: Curves, metric: str) -> list[float]:
    """The share of the variance of final values that each setting explains by itself, over ten folds."""
    values, points = curves.values[metric][:, -1], curves.points
    folds = np.arange(len(values)) % 10
    explained = []
    for column in points.T:
        left = np.empty_like(values)
        for fold in range(10):
            fitted = np.polynomial.Polynomial.fit(column[folds != fold], values[folds != fold], min(3, len(set(column)) - 1))
            left[folds == fold] = values[folds == fold] - fitted(column[folds == fold])
        explained.append(max(0.0, 1 - float(left.var() / values.var())))
    return explained


def main() -> None:
    cli = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    cli.add_argument("--space", choices=["tuned", "wide"], default="wide")
    cli.add_argument("--metric", choices=METRICS, default=METRICS[0])
    cli.add_argument("--repetitions", type=int, default=20)
    arguments = cli.parse_args()
    warnings.simplefilter("ignore")
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    curves = Curves(arguments.space)
    whole = list(range(len(curves.points)))
    variance = alone(curves, arguments.metric)
    of_all = {way: shares(curves, whole, arguments.metric, way) for way in WAYS}
    print(f"{'setting':22}{'alone':>8}" + "".join(f"{way:>24}" for way in WAYS))
    for index, key in enumerate(curves.config.space):
        print(f"{key:22}{variance[index]:>8.2f}" + "".join(f"{of_all[way][index]:>24.2f}" for way in WAYS))
    print(f"\n{'full trials':13}{'way':24}{'with all its own':>20}{'with variance':>20}{'the first is right':>20}{'ms':>8}")
    for count in COUNTS:
        for way in WAYS:
            own, true, first, seconds = [], [], [], []
            for repetition in range(arguments.repetitions):
                drawn = np.random.default_rng(repetition).choice(whole, count, replace=False)
                began = time.process_time()
                importances = shares(curves, [int(row) for row in drawn], arguments.metric, way)
                seconds.append(time.process_time() - began)
                own.append(float(spearmanr(importances, of_all[way]).statistic))
                true.append(float(spearmanr(importances, variance).statistic))
                first.append(float(np.argmax(importances) == np.argmax(variance)))
            columns = f"{spread(own):>20}{spread(true):>20}{mean(first):>20.2f}{1000 * mean(seconds):>8.0f}"
            print(f"{count:<13}{way:24}{columns}", flush=True)


if __name__ == "__main__":
    main()
