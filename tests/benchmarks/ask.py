"""Time to propose one setting of the quick preset, by sampler, late in a sweep: `python tests/benchmarks/ask.py`.

Every third trial is full, the others were stopped at their first rung. CPU time with one thread, so that it counts
little what else the machine does.
"""

from __future__ import annotations

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
from search.spec.resolve import resolve
from search.study.ledger import Ledger

TRIALS, LAST = 120, 10


def main() -> None:
    print(f"{'sampler':<10}{'ms a trial':>12}   (median of the last {LAST} of {TRIALS} trials)")
    for sampler in SAMPLERS:
        flags = {"sampler": sampler, "trials": TRIALS}
        config = resolve(
            dataset="fashion_mnist", preset=None, config=None, flags=flags, assignments={}, slots=lambda _: 1
        )  # fmt: skip
        scores, times = random.Random(0), []
        with tempfile.TemporaryDirectory() as folder:
            ledger = Ledger(config, Path(folder))
            for _ in range(TRIALS):
                began = time.process_time()
                number = ledger.ask().number
                times.append(time.process_time() - began)
                full = number % 3 == 0
                ledger.record(number, config.first_rung, scores.random(), stop=not full)
                if full:
                    ledger.record(number, config.trial.steps, scores.random(), stop=False)
                ledger.tell(number, "complete" if full else "stopped")
            ledger.close()
        print(f"{sampler:<10}{1000 * median(times[-LAST:]):>12.0f}", flush=True)


if __name__ == "__main__":
    main()
