"""Results of each sampler with each scheduler, on recorded learning curves: `python tests/benchmarks/fidelity.py`.

Sweeps are replayed without training, with the samplers and stopping rules of `search/policy`. The curve of a proposed setting
is that of a response surface over the recorded trials (`curves.npz`, made by `record_curves.py`), a quadratic for each report,
plus what a recorded trial drawn at random had beside the surface: its seed's luck, over its whole curve. The nearest recorded
trial would be a worse guess, as the first lines show. Several trials run at a time, each at a speed of its own. A budget is a
number of full trials' steps, and what was found is the best full trial by then: its value, and the surface's at its settings.
"""

from __future__ import annotations

import argparse
import heapq
import json
import math
import sys
import warnings
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from itertools import pairwise
from pathlib import Path
from statistics import mean, stdev
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from optuna.samplers import BaseSampler, TPESampler
from optuna.trial import FrozenTrial, TrialState
from scipy.stats import spearmanr

from records.trial import SECOND_AT, STOPPED
from search.policy import samplers
from search.policy.early_stopping import Decision, stopping_rule
from search.policy.samplers import Prior, Proposer
from search.spec.config import SweepConfig
from search.spec.space import Dimension
from tests.benchmarks.record_curves import METRICS, REPORTS, STEPS, TABLE, sweep

SAMPLERS: Final = ("random", "tpe", "multivariate", "bohb", "cmaes")  # gp takes a hundred times as long
SCHEDULERS: Final = ("none", "asha", "hyperband")
BUDGETS: Final = (10, 20, 40)
DEFAULT: Final = ("tpe", "asha")
WORKERS: Final = 4
INTERVALS: Final = [step - before for before, step in pairwise((0, *REPORTS))]
"""Steps between reports."""
PENALTIES: Final = (1.0, 3.0, 10.0, 30.0, 100.0)

Array = NDArray[np.float64]


class Surface:
    """A quadratic in the settings for each report of one metric, fitted by ridge regression."""

    def __init__(self, points: Array, values: Array) -> None:
        """`points` [trials, dimensions] in the unit cube, `values` [trials, reports]."""
        features, scores = quadratic(points), {}
        for penalty in PENALTIES:
            ridge = np.eye(features.shape[1]) * penalty
            ridge[0, 0] = 0.0
            solve = np.linalg.solve(features.T @ features + ridge, features.T)
            hat = features @ solve
            # What each trial has beside a surface that was fitted without it.
            left = (values - hat @ values) / (1 - np.diag(hat))[:, None]
            scores[penalty] = (1 - float((left[:, -1] ** 2).mean() / values[:, -1].var()), solve @ values, left)
        self.explained, self._coefficients, self.residuals = max(scores.values(), key=lambda score: score[0])

    def at(self, point: Array) -> Array:
        """The value at each report, without luck."""
        curve: Array = quadratic(point[None])[0] @ self._coefficients
        return curve


def quadratic(points: Array) -> Array:
    """1, each setting, and each product of two, of points [·, dimensions] in the unit cube."""
    centred = 2 * points - 1
    first, second = np.triu_indices(points.shape[1])
    return np.hstack([np.ones((len(points), 1)), centred, centred[:, first] * centred[:, second]])


class Curves:
    """Recorded trials: their settings in the unit cube [trials, dimensions], and each metric [trials, reports]."""

    def __init__(self, space: str) -> None:
        self.config = sweep(space)
        with np.load(TABLE) as arrays:
            values = {metric: arrays[f"{space}:{metric}"].astype(float) for metric in METRICS}
            whole = np.all([np.isfinite(each).all(axis=1) for each in values.values()], axis=0)
            self.values = {metric: each[whole] for metric, each in values.items()}
            self.settings = {key: arrays[f"{space}:{key}"][whole] for key in self.config.space}
        self.points = np.array(
            [self.point({key: each[row].item() for key, each in self.settings.items()}) for row in range(whole.sum())]
        )
        self.surfaces = {metric: Surface(self.points, each) for metric, each in self.values.items()}

    def point(self, params: dict[str, Any]) -> Array:
        """Settings in the unit cube."""
        return np.array([share(dimension, params[key]) for key, dimension in self.config.space.items()])

    def nearest_explains(self, metric: str) -> float:
        """The share of the variance of final values that the nearest other trial explains; below 0: worse than their mean."""
        distances = ((self.points[:, None] - self.points[None]) ** 2).sum(axis=2)
        np.fill_diagonal(distances, math.inf)
        final = self.values[metric][:, -1]
        return 1 - float(((final - final[distances.argmin(axis=1)]) ** 2).mean() / final.var())


def share(dimension: Dimension, value: Any) -> float:
    """The position of `value` between the low end (0) and the high end (1) of its dimension."""
    if dimension.choice is not None:
        return dimension.choice.index(value) / max(1, len(dimension.choice) - 1)
    low, high = map(float, dimension.bounds())
    if dimension.log10 is not None:
        return (math.log10(value) - math.log10(low)) / (math.log10(high) - math.log10(low))
    return (value - low) / (high - low)


def multivariate(config: SweepConfig, seed: int, history: Sequence[FrozenTrial]) -> BaseSampler:
    """TPE with one distribution of all settings, Optuna's default since version 5, which the product does not offer."""
    return TPESampler(seed=seed, multivariate=True, constant_liar=True)


@dataclass(frozen=True)
class Full:
    """A trial that came to the full horizon."""

    spent: int
    """Steps of all trials when it ended."""
    values: tuple[float, ...]
    """Its objectives."""
    expected: tuple[float, ...]
    """The objectives that its settings have without luck."""


@dataclass
class Replay:
    """A sweep over recorded curves."""

    curves: Curves
    config: SweepConfig
    decide: Callable[[int, int, tuple[float, ...]], Decision]
    """True if a trial goes on: a function of its number, its step and its objectives."""
    full: list[Full] = field(default_factory=list)

    def run(self, budget: int) -> list[FrozenTrial]:
        """Run trials until their steps together are `budget`."""
        proposer, rng = Proposer(self.config, Prior()), np.random.default_rng(self.config.seed)
        surfaces = [self.curves.surfaces[objective.metric] for objective in self.config.objectives]
        trials, spent = list[FrozenTrial](), 0
        clock: list[tuple[float, int]] = []  # when a trial reports next
        values, expected, pace = dict[int, Array](), dict[int, Array](), dict[int, float]()

        def start(now: float) -> None:
            trial = proposer.propose(trials)
            number = trial.number = trial._trial_id = len(trials)
            trials.append(trial)
            point, luck = self.curves.point(trial.params), rng.integers(len(self.curves.points))
            expected[number] = np.array([surface.at(point) for surface in surfaces])  # [objectives, reports]
            values[number] = expected[number] + [surface.residuals[luck] for surface in surfaces]
            pace[number] = float(rng.uniform(0.8, 1.2))
            heapq.heappush(clock, (now + pace[number] * INTERVALS[0], number))

        for _ in range(WORKERS):
            start(0.0)
        while spent < budget:
            now, number = heapq.heappop(clock)
            trial = trials[number]
            report = len(trial.intermediate_values)
            step, spent, mine = REPORTS[report], spent + INTERVALS[report], tuple(values[number][:, report].tolist())
            decision = self.decide(number, step, mine)
            trial.intermediate_values[step] = mine[0]
            if step == STEPS:
                end(trial, TrialState.COMPLETE, mine)
                self.full.append(Full(spent, mine, tuple(expected[number][:, -1].tolist())))
            elif decision is Decision.STOP:
                end(trial, TrialState.PRUNED, mine if len(mine) == 1 else ())
                trial.user_attrs |= {STOPPED: step, SECOND_AT: {str(step): mine[-1]}}
            else:
                heapq.heappush(clock, (now + pace[number] * INTERVALS[report + 1], number))
            if trial.state.is_finished():
                start(now)
        return trials


def end(trial: FrozenTrial, state: TrialState, values: Sequence[float]) -> None:
    """Close a trial as `Ledger.tell` does."""
    trial.state, trial.values, trial.datetime_complete = state, list(values) or None, datetime.now()


def settings(curves: Curves, sampler: str, scheduler: dict[str, Any], seed: int, metric: str) -> SweepConfig:
    """The settings of a replayed sweep."""
    data = curves.config.record()
    data |= {"scheduler": scheduler, "seed": seed, "objective": {"metric": metric, "direction": "max"}, "trials": 10_000}
    return SweepConfig.parse(data, "fidelity").model_copy(update={"sampler": sampler})


def best_by_budget(
    curves: Curves, sampler: str, scheduler: dict[str, Any], seed: int, metric: str
) -> list[tuple[float, float]]:
    """At each budget the best full trial's value, and what its settings are worth without luck."""
    config = settings(curves, sampler, scheduler, seed, metric)
    rule = stopping_rule(config, [])
    replay = Replay(curves, config, lambda number, step, values: rule.decide(number, step, values[0]))
    replay.run(BUDGETS[-1] * STEPS)
    worst = float(curves.values[metric][:, -1].min())
    by_then = [[(full.values[0], full.expected[0]) for full in replay.full if full.spent <= each * STEPS] for each in BUDGETS]
    return [max(pairs, default=(worst, worst)) for pairs in by_then]


def results_file(folder: Path, *parts: str) -> Path:
    """The file of results of that name, which are those of the table as it is now."""
    name = "-".join([*parts, f"{zlib.crc32(TABLE.read_bytes()):08x}"])
    return folder / f"{name.replace('/', '-')}.results"


def resumable(file: Path, keys: Sequence[str], compute: Callable[[str], Any]) -> dict[str, Any]:
    """Results by key, those in `file` as they are there; each new one is written at once."""
    file.parent.mkdir(parents=True, exist_ok=True)
    known = dict(json.loads(line) for line in file.read_text().splitlines()) if file.exists() else {}
    for key in keys:
        if key not in known:
            known[key] = compute(key)
            with file.open("a") as lines:
                lines.write(json.dumps([key, known[key]]) + "\n")
    return known


def spread(values: Sequence[float]) -> str:
    """Mean ± standard error."""
    return f"{mean(values):.4f} ± {stdev(values) / len(values) ** 0.5:.4f}"


def verdict(ahead: dict[tuple[str, str], Array]) -> str:
    """The default beside the best other pair: `ahead` is what each pair found beyond the default [repetitions], by pair."""
    rivals = [pair for pair in ahead if pair != DEFAULT]
    if DEFAULT not in ahead or not rivals:
        return "the default is not compared"
    best = max(rivals, key=lambda pair: float(ahead[pair].mean()))
    difference = ahead[best]
    distance = float(difference.mean() / difference.std(ddof=1)) * len(difference) ** 0.5
    side = "behind" if distance < 0 else "ahead of"
    return f"{' with '.join(best)}, the best other pair: {abs(distance):.1f} standard errors {side} {' with '.join(DEFAULT)}"


def parser() -> argparse.ArgumentParser:
    """The command line."""
    cli = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    cli.add_argument("--space", choices=["tuned", "wide"], default="wide")
    cli.add_argument("--metric", choices=METRICS, default=METRICS[0])
    cli.add_argument("--repetitions", type=int, default=50)
    cli.add_argument("--grace", type=int, default=24, help="steps before a trial may be stopped")
    cli.add_argument("--samplers", nargs="+", default=SAMPLERS)
    cli.add_argument("--schedulers", nargs="+", default=SCHEDULERS)
    cli.add_argument("--out", type=Path, default=Path("mlruns/curves"), help="results so far, which are not computed again")
    return cli


def main() -> None:
    arguments = parser().parse_args()
    warnings.simplefilter("ignore")
    samplers.SAMPLERS["multivariate"] = multivariate
    samplers.LEARNING |= {"multivariate"}
    curves, metric = Curves(arguments.space), arguments.metric
    final = curves.values[metric][:, -1]
    quantiles = np.quantile(final, [0.5, 0.9, 1]).round(4)
    by_surface, by_nearest = curves.surfaces[metric].explained, curves.nearest_explains(metric)
    print(f"{len(final)} recorded trials, {metric}: median, 90% quantile and best {quantiles}")
    print(f"share of its variance explained by the surface {by_surface:.2f}, by the nearest trial {by_nearest:.2f}")
    ranked = [float(spearmanr(column, final).statistic) for column in curves.values[metric].T]
    agreement = ", ".join(f"{rank:.2f} at {step}" for step, rank in zip(REPORTS, ranked, strict=True))
    print(f"rank correlation of the value at a step with the final one: {agreement}")
    pairs = [(sampler, scheduler) for scheduler in arguments.schedulers for sampler in arguments.samplers]

    def compute(key: str) -> list[tuple[float, float]]:
        sampler, scheduler, seed = key.split()
        return best_by_budget(curves, sampler, {"name": scheduler, "grace": arguments.grace}, int(seed), metric)

    seeds = range(arguments.repetitions)
    keys = [f"{sampler} {scheduler} {seed}" for seed in seeds for sampler, scheduler in pairs]
    file = results_file(arguments.out, arguments.space, metric, str(arguments.grace))
    known = resumable(file, keys, compute)
    titles = [*[f"after {budget}" for budget in BUDGETS], "minus default", "without luck", "minus default"]
    print(f"{'scheduler':11}{'sampler':13}" + "".join(f"{title:>18}" for title in titles))
    default = np.array([known.get(f"{' '.join(DEFAULT)} {seed}", [[math.nan] * 2] * len(BUDGETS)) for seed in seeds])
    ahead = dict[tuple[str, str], Array]()
    for sampler, scheduler in pairs:
        rows = np.array([known[f"{sampler} {scheduler} {seed}"] for seed in seeds])  # [repetitions, budgets, (value, expected)]
        last, less = rows[:, -1], rows[:, -1] - default[:, -1]
        columns = [*rows[:, :, 0].T, less[:, 0], last[:, 1], less[:, 1]]
        print(f"{scheduler:11}{sampler:13}" + "".join(f"{spread(list(column)):>18}" for column in columns))
        ahead[sampler, scheduler] = less[:, 0]
    print(verdict(ahead))


if __name__ == "__main__":
    main()
