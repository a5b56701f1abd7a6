"""The gain by private parts of libraries: `python tests/benchmarks/internals.py` times each beside the documented way."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from statistics import median

if __package__ in (None, ""):
    sys.path[0] = str(Path(__file__).resolve().parents[2])

TRIALS, REPORTS, ROUNDS = 200, 24, 3
ADAM = """
import resource, time, torch, {module} as source
before = time.perf_counter()
weight = torch.ones(3, requires_grad=True)
optimiser = source.Adam([weight])
weight.sum().backward()
optimiser.step()
print(time.perf_counter() - before, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
"""


def main() -> None:
    import optuna

    from search.study.ledger import Ledger
    from search.study.store import study_of
    from search.study.transaction import End, InterfaceWriter, TableWriter, Value, Writer
    from tests.search.conftest import SweepConfig, tiny_sweep

    for module in ("gbc.optimisers", "torch.optim") * ROUNDS:
        command = [sys.executable, "-c", ADAM.format(module=module)]
        seconds, memory = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
        print(f"Adam of {module}: {float(seconds):.2f} s to the end of the first step, {float(memory):.0f} MB")

    config = SweepConfig.parse(tiny_sweep(sampler="random"), "benchmark")
    with tempfile.TemporaryDirectory() as folder:
        ledger = Ledger(config, Path(folder))
        storage, study = ledger._storage, ledger._storage.get_study_id_from_name(config.name)
        writers: tuple[Writer, ...] = TableWriter(storage.engine, study), InterfaceWriter(storage, study)
        spent: dict[tuple[str, str], list[float]] = {}

        def timed(task: str, writer_name: str, work: Callable[[], object]) -> object:
            before = time.perf_counter()
            result = work()
            spent.setdefault((task, writer_name), []).append(time.perf_counter() - before)
            return result

        for number in range(TRIALS):
            writer = writers[number % 2]
            writer_name, trial = type(writer).__name__, ledger._proposer.propose([])
            trial.number = number
            identity = timed("a new trial", writer_name, lambda w=writer, t=trial: w.create(t))
            values = [Value(identity, step, 0.5) for step in range(REPORTS)]
            timed(f"{REPORTS} reports", writer_name, lambda w=writer, v=values: w.write(v, {}))
            end = End(identity, optuna.trial.TrialState.COMPLETE, (0.5,), datetime.now())
            timed("the end of a trial", writer_name, lambda w=writer, e=end: w.write([], {}, e))
        ledger.close()
        for _ in range(ROUNDS):
            ledger = Ledger(config, Path(folder))
            timed(f"reading {TRIALS} trials", "frozen_trials", study_of(config, Path(folder)).frozen_trials)
            timed(f"reading {TRIALS} trials", "Optuna", ledger.study.get_trials)
            ledger.close()
    for (task, writer_name), seconds in sorted(spent.items()):
        print(f"{task}, {writer_name}: {1000 * median(seconds):.1f} ms")


if __name__ == "__main__":
    main()
