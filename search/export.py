"""Take the best generator out of a sweep: `python search/export.py --sweep NAME --out DIR`."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if __package__ in (None, ""):  # run as a file: our folder must not shadow top-level modules
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from gbc.command_line import Parser, guarded, whole
from search.spec import flags

if TYPE_CHECKING:
    from records.trial import TrialRecord
    from search.files.lock import Driver
    from search.spec.config import SweepConfig


def parser() -> argparse.ArgumentParser:
    """The command line."""
    cli = Parser(prog="python search/export.py", description=__doc__.splitlines()[0], clean=flags.without_secrets)
    cli.add_argument("--sweep", required=True, metavar="NAME")
    cli.add_argument("--out", required=True, type=Path, metavar="DIR", help="a new folder")
    cli.add_argument("--trial", type=whole, metavar="N", help="a certain trial instead of the best")
    cli.add_argument(
        "--format", default="safetensors", metavar="F,F…",
        help="safetensors (always written), torch (a torch.export program), onnx; default: safetensors",
    )  # fmt: skip
    cli.add_argument("--json", action="store_true", help="print the result as JSON")
    return cli


def main(argv: Sequence[str] | None = None) -> int:
    """Returns the exit code: 0 done, 2 bad input."""
    arguments = parser().parse_args(argv)
    return guarded(lambda: _run(arguments), flags.without_secrets)


def _run(arguments: argparse.Namespace) -> int:
    result = export_trial(arguments.sweep, arguments.trial, arguments.out, arguments.format)
    if arguments.json:
        print(json.dumps(result, indent=2))
    else:
        has_images = "ssim/coverage" in result["metrics"]
        shown = ("ssim/coverage", "tstr/1nn") if has_images else ("free/score",)
        scores = "  ".join(f"{name} {result['metrics'][name]:.3f}" for name in shown if name in result["metrics"])
        print(f"{result['out']}: trial-{result['trial']:04d} of {arguments.sweep}  {scores}")
        print(f"  python -m gbc sample --model {result['out']} --out grid.png")
        print(
            f"  python -m gbc evaluate --model {result['out']}"
            + ("" if has_images else " --images PATH   # when there are images")
        )
    return 0


def export_trial(name: str, number: int | None, out: Path, formats: str = "safetensors") -> dict[str, Any]:
    """Write the folder `out` for trial `number`, or for the best full-horizon trial (by the first of two objectives).

    Whatever can be refused is refused before anything is written.

    Raises:
        BadInput: no such sweep, trial or format, no finished trial, a sweep that is running and whose best may change, a
            package that is missing, or `out` exists.
    """
    from gbc import export
    from gbc.export.formats import parse_formats, require_packages
    from search.driver.trial_export import write_trial
    from search.files.paths import existing_sweep, recorded_config
    from search.study.store import recorded_trials, running_driver

    chosen_formats = parse_formats(formats)
    export.check_new(out)
    folder = existing_sweep(name)
    config = recorded_config(folder)
    require_packages(chosen_formats)
    trials, _ = recorded_trials(config, folder)
    chosen = _chosen(config, trials, number, running_driver(config, folder))
    return write_trial(config, trials, chosen, out, chosen_formats)


def _chosen(config: SweepConfig, trials: Sequence[TrialRecord], number: int | None, driver: Driver | None) -> TrialRecord:
    """The trial `number`, or the best; `driver` runs the sweep at this moment."""
    from gbc.errors import BadInput
    from search.policy.ranking import best_trial

    name = config.name
    if number is not None and not 0 <= number < len(trials):
        known = f"it has 0 to {len(trials) - 1}" if trials else "it has none yet"
        raise BadInput(f"sweep {name!r} has no trial {number}; {known}")
    if driver and number is None:
        raise BadInput(
            f"sweep {name!r} is still running ({driver.describe()}) and its best may change; wait for it, or name a finished "
            "trial with --trial N"
        )
    if driver and number is not None and not trials[number].finished:
        raise BadInput(f"trial {number} of sweep {name!r} is still running ({driver.describe()}); wait for it")
    chosen = trials[number] if number is not None else best_trial(config, trials)
    if chosen is None:
        raise BadInput(f"sweep {name!r} has no trial that reached its full horizon yet; continue it, or name one with --trial")
    return chosen


if __name__ == "__main__":
    sys.exit(main())
