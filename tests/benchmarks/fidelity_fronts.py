"""Early stopping with two objectives, on recorded learning curves: `python tests/benchmarks/fidelity_fronts.py`.

As `fidelity.py`, with two metrics. What was found is the hypervolume of the front of full trials over that of all recorded
trials, each metric between its worst and its best. `asha` and `hyperband` are those of `search/policy`, `first` is ASHA by the
first metric alone, and `volume` orders each front by the part of the hypervolume that a trial alone has.
"""

from __future__ import annotations

import argparse
import sys
import warnings
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Final

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from search.policy.early_stopping import ASHA, Decision, FrontASHA, stopping_rule
from search.policy.fronts import Point, fronts
from search.spec.config import SweepConfig
from tests.benchmarks.fidelity import BUDGETS, Curves, Replay, results_file, resumable, spread
from tests.benchmarks.record_curves import METRICS, STEPS

SAMPLERS: Final = ("random", "tpe")
RULES: Final = ("none", "first", "asha", "volume", "hyperband")


def hypervolume(points: Sequence[Point], worst: Point = (0.0, 0.0)) -> float:
    """The area between `worst` and the front of `points`."""
    area, height = 0.0, worst[1]
    for first, second in sorted(points, reverse=True):
        if first > worst[0] and second > height:
            area += (first - worst[0]) * (second - height)
            height = second
    return area


def volume(front: Sequence[Point], point: Point) -> float:
    """The part of the front's hypervolume that the point alone has, above the worst of each objective in the front."""
    worst = (min(first for first, _ in front), min(second for _, second in front))
    rest = list(front)
    rest.remove(point)
    return hypervolume(front, worst) - hypervolume(rest, worst)


class VolumeASHA(FrontASHA):
    """`FrontASHA` with another order within a front."""

    def decide(self, number: int, step: int, value: float, second: float | None = None) -> Decision:
        """Decide at rungs that are new to the trial."""
        if second is None or step not in self._rungs or number in self._rungs[step]:
            return Decision.KEEP
        point, others = self._point(value, second), list(self._rungs[step].values())
        self._rungs[step][number] = point
        before = 0
        for front in fronts([point, *others]):
            if point in front:
                mine = volume(front, point)
                before += sum(volume(front, other) > mine for other in front)
                break
            before += sum(other in front for other in others)
        return Decision.STOP if before > len(others) / self._reduction else Decision.KEEP


def volume_shares(curves: Curves, sampler: str, rule: str, grace: int, seed: int, metrics: Sequence[str]) -> list[float]:
    """The share of the hypervolume at each budget."""
    first, second = ({"metric": metric, "direction": "max"} for metric in metrics)
    scheduler = {"name": rule if rule in ("none", "hyperband") else "asha", "grace": grace}
    data = {"scheduler": scheduler, "seed": seed, "trials": 10_000, "sampler": sampler, "objective": first}
    config = SweepConfig.parse(curves.config.record() | data | {"second_objective": second}, "fidelity_fronts")
    own = {"first": ASHA, "volume": VolumeASHA}
    stops = own[rule](config, []) if rule in own else stopping_rule(config, [])

    def decide(number: int, step: int, values: tuple[float, ...]) -> Decision:
        return stops.decide(number, step, *values)

    replay = Replay(curves, config, decide)
    replay.run(BUDGETS[-1] * STEPS)
    finals = np.array([curves.values[metric][:, -1] for metric in metrics])
    low, high = finals.min(axis=1), finals.max(axis=1)

    def scaled(values: Iterable[Sequence[float]]) -> list[Point]:
        return [tuple(((np.array(each) - low) / (high - low)).tolist()) for each in values]

    whole = hypervolume(scaled(finals.T))
    by_then = [[full.values for full in replay.full if full.spent <= budget * STEPS] for budget in BUDGETS]
    return [hypervolume(scaled(values)) / whole for values in by_then]


def parser() -> argparse.ArgumentParser:
    """The command line."""
    cli = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    cli.add_argument("--space", choices=["tuned", "wide"], default="wide")
    cli.add_argument("--metrics", nargs=2, choices=METRICS, default=["ssim/coverage", "tstr/1nn"])
    cli.add_argument("--repetitions", type=int, default=50)
    cli.add_argument("--grace", type=int, default=24)
    cli.add_argument("--out", type=Path, default=Path("mlruns/curves"))
    return cli


def main() -> None:
    arguments = parser().parse_args()
    warnings.simplefilter("ignore")
    curves, seeds = Curves(arguments.space), range(arguments.repetitions)
    pairs = [(sampler, rule) for sampler in SAMPLERS for rule in RULES]

    def compute(key: str) -> list[float]:
        sampler, rule, seed = key.split()
        return volume_shares(curves, sampler, rule, arguments.grace, int(seed), arguments.metrics)

    file = results_file(arguments.out, "fronts", arguments.space, *arguments.metrics, str(arguments.grace))
    known = resumable(file, [f"{sampler} {rule} {seed}" for seed in seeds for sampler, rule in pairs], compute)
    print(f"{'sampler':10}{'rule':10}" + "".join(f"{f'after {budget}':>20}" for budget in BUDGETS) + f"{'minus none':>20}")
    for sampler, rule in pairs:
        rows = np.array([known[f"{sampler} {rule} {seed}"] for seed in seeds])
        without = np.array([known[f"{sampler} none {seed}"][-1] for seed in seeds])
        columns = "".join(f"{spread(list(column)):>20}" for column in rows.T)
        print(f"{sampler:10}{rule:10}{columns}{spread(list(rows[:, -1] - without)):>20}")


if __name__ == "__main__":
    main()
