"""Time to propose one setting of the quick preset, by sampler, late in a sweep: `python tests/benchmarks/ask.py`.

Every third trial is full, the others were stopped at their first rung. With `--open 3` the last three are always open, as in
a sweep of four trials at a time; with `--condition` one setting is searched beside one value of another alone. CPU time with
one thread, so that it counts little what else the machine does.
"""

from __future__ import annotations

import argparse
import os
import random
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
os.environ["OMP_NUM_THREADS"] = "1"  # before numpy and torch are imported

from search.policy.samplers import SAMPLERS
from search.spec.config import SweepConfig
from search.spec.resolve import resolve
from search.study.ledger import Ledger

LAST = 10


def sweep(sampler: str, trials: int, condition: bool) -> SweepConfig:
    """The quick preset with that sampler; under a condition `bn_weight` is searched beside the first batch size alone."""
    flags = {"sampler": sampler, "trials": trials}
    config = resolve(dataset="fashion_mnist", preset=None, config=None, flags=flags, assignments={}, slots=lambda _: 1)
    if not condition:
        return config
    data = config.record()
    data["space"]["bn_weight"]["when"] = {"batch_size": data["space"]["batch_size"]["choice"][0]}
    return SweepConfig.parse(data | {"first_trials": ()}, "ask")


def seconds(config: SweepConfig, still_open: int) -> list[float]:
    """CPU seconds that each proposal of a sweep takes, with the last `still_open` trials open."""
    scores, times = random.Random(0), list[float]()
    with tempfile.TemporaryDirectory() as folder:
        ledger = Ledger(config, Path(folder))
        for asked in range(config.trials or 0):
            began = time.process_time()
            ledger.ask()
            times.append(time.process_time() - began)
            number = asked - still_open
            if number < 0:
                continue
            full = number % 3 == 0
            ledger.record(number, config.first_rung, scores.random(), stop=not full)
            if full:
                ledger.record(number, config.trial.steps, scores.random(), stop=False)
            ledger.tell(number, "complete" if full else "stopped")
        ledger.close()
    return times


def main() -> None:
    cli = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    cli.add_argument("--samplers", nargs="+", choices=list(SAMPLERS), default=list(SAMPLERS))
    cli.add_argument("--trials", type=int, default=120)
    cli.add_argument("--open", type=int, default=0, help="trials that are open beside the one that is proposed")
    cli.add_argument("--condition", action="store_true", help="search one setting beside one value of another alone")
    arguments = cli.parse_args()
    print(f"{'sampler':<10}{'ms a trial':>12}   (median of the last {LAST} of {arguments.trials} trials)")
    for sampler in arguments.samplers:
        times = seconds(sweep(sampler, arguments.trials, arguments.condition), arguments.open)
        print(f"{sampler:<10}{1000 * median(times[-LAST:]):>12.0f}", flush=True)


if __name__ == "__main__":
    main()
