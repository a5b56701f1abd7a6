"""Every benchmark of the project: `python tests/benchmarks/run.py [--only NAME ...] [--quick] [--json FILE]`.

Prints a table for each group, ratios first, and writes all rows with the machine in words into one JSON file. What is
compared takes turns, round by round; figures are medians, ratios are medians of the ratios of single rounds.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, cast

if __package__ in (None, ""):
    sys.path[0] = str(Path(__file__).resolve().parents[2])

if TYPE_CHECKING:
    from tests.benchmarks.harness import Group

GROUPS: Final = ("step", "growth", "report_cost", "threads", "peers_objective", "peers_sweep")
"""Modules of this package, in the order in which they run; a new group is a module and its name here."""

OTHERS: Final = """
commands of their own:
  ask.py             time to propose a setting, by sampler
  circle_losses.py   the 2-D example with other losses
  fidelity.py        what each sampler finds with each scheduler, on recorded learning curves
  fidelity_fronts.py early stopping with two objectives, on the same curves
  free_score.py      how well metrics without data rank trials
  free_score_candidates.py  rank correlations of scores without images, in recorded sweeps
  gpu_proof.py       all that has to be measured on a GPU, in under 12 minutes (make gpu-proof)
  importance.py      importance of settings from few of the recorded trials
  internals.py       what private parts of Optuna and torch buy
  record_curves.py   records the learning curves that those three replay
  report.py          size of a report, time to open it
  sample.py          images a second of an exported generator
  share.py           share of a sweep's wall time in which trials compute
  sweep.py           what a sweep costs beside its trials: driver, stores, resume
"""


def parser() -> argparse.ArgumentParser:
    """The command line."""
    cli = argparse.ArgumentParser(
        prog="python tests/benchmarks/run.py",
        description=(__doc__ or "").partition("\n")[0],
        epilog=OTHERS,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    cli.add_argument("--only", nargs="+", action="extend", choices=GROUPS, metavar="NAME", help=f"of {', '.join(GROUPS)}")
    cli.add_argument("--quick", action="store_true", help="fewer rows and rounds: it runs, its figures are rough")
    cli.add_argument("--threads", type=int, default=1, help="torch threads of a trainer (default: 1, as a trial has)")
    cli.add_argument("--device", default="auto", help="auto (a GPU if there is one), cpu or cuda")
    cli.add_argument("--rounds", type=int, help="how often what is compared takes turns")
    cli.add_argument("--trials", type=int, help="of each sweep in peers_sweep")
    cli.add_argument("--steps", type=int, help="of each trial in peers_sweep")
    cli.add_argument("--json", type=Path, metavar="FILE", help="where all rows go (default: mlruns/benchmarks.json)")
    return cli


def main(argv: Sequence[str] | None = None) -> int:
    """Returns the exit code."""
    arguments = parser().parse_args(argv)
    # Libraries read it when they are imported, and processes started from here inherit it.
    os.environ["OMP_NUM_THREADS"] = str(arguments.threads)
    import torch

    from tests.benchmarks import harness

    torch.set_num_threads(arguments.threads)
    options = harness.Options(
        quick=arguments.quick, threads=arguments.threads, device=arguments.device, rounds=arguments.rounds,
        trials=arguments.trials, steps=arguments.steps,
    )  # fmt: skip
    record: dict[str, Any] = {"machine": harness.machine(options), "quick": options.quick, "groups": {}}
    print(", ".join(f"{key} {value}" for key, value in record["machine"].items() if value is not None), flush=True)
    path = arguments.json or Path("mlruns/benchmarks.json")
    path.parent.mkdir(parents=True, exist_ok=True)
    for name in arguments.only or GROUPS:
        group = cast("Group", importlib.import_module(f"tests.benchmarks.{name}"))
        began = time.perf_counter()
        rows = list(group.rows(options))
        seconds = time.perf_counter() - began
        print(f"\n{name}: {group.ABOUT} ({seconds:.0f} s)\n{harness.table(group.COLUMNS, rows)}", flush=True)
        record["groups"][name] = {"about": group.ABOUT, "seconds": seconds, "rows": rows}
        path.write_text(json.dumps(record, indent=2, ensure_ascii=False))  # after each: the rest may be interrupted
    print(f"\nall rows: {path}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
