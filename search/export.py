"""Take the best generator out of a sweep: `python search/export.py --sweep NAME --out DIR`."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

if __package__ in (None, ""):  # run as a file: our folder must not shadow top-level modules
    sys.path[0] = str(Path(__file__).resolve().parents[1])


def parser() -> argparse.ArgumentParser:
    """The command line."""
    cli = argparse.ArgumentParser(prog="python search/export.py", description=__doc__.splitlines()[0])
    cli.add_argument("--sweep", required=True, metavar="NAME")
    cli.add_argument("--out", required=True, type=Path, metavar="DIR", help="a new folder")
    cli.add_argument("--trial", type=int, metavar="N", help="a certain trial instead of the best")
    cli.add_argument("--json", action="store_true", help="print the result as JSON")
    return cli


def main(argv: Sequence[str] | None = None) -> int:
    """Returns the exit code: 0 done, 2 bad input."""
    arguments = parser().parse_args(argv)
    from gbc.errors import BadInput

    try:
        result = export_trial(arguments.sweep, arguments.trial, arguments.out)
    except BadInput as fault:
        print(f"error: {fault}", file=sys.stderr)
        return 2
    if arguments.json:
        print(json.dumps(result, indent=2))
    else:
        scores = "  ".join(
            f"{name} {result['metrics'][name]:.3f}" for name in ("ssim/coverage", "tstr/1nn") if name in result["metrics"]
        )
        print(f"{result['out']}: trial-{result['trial']:04d} of {arguments.sweep}  {scores}")
        print(f"  python -m gbc sample --model {result['out']} --out grid.png")
        print(f"  python -m gbc evaluate --model {result['out']}")
    return 0


def export_trial(name: str, number: int | None, out: Path) -> dict[str, Any]:
    """Write the folder `out` for trial `number`, or for the best full-horizon trial (by the first of two objectives).

    Raises:
        BadInput: no such sweep or trial, no finished trial, or `out` exists.
    """
    from contextlib import ExitStack

    from gbc import checkpoint, export, tasks
    from gbc.config import TrialConfig
    from gbc.errors import BadInput
    from search import shared, storage
    from search.folder import CHECKPOINT, CLASSIFIERS, PICTURE, existing, home_of, recorded, trial_folder
    from search.ranking import best as best_of
    from search.tables import recorded_trials

    folder = existing(name)
    config = recorded(folder)
    entries, _ = recorded_trials(config, folder)
    best, home = best_of(config, entries), home_of(config)
    if number is not None and not 0 <= number < len(entries):
        raise BadInput(f"sweep {name!r} has no trial {number}; it has 0 to {len(entries) - 1}")
    chosen = entries[number] if number is not None else best
    if chosen is None:
        raise BadInput(f"sweep {name!r} has no trial that reached its full horizon yet; continue it, or name one with --trial")
    path = trial_folder(home, chosen.number) / CHECKPOINT
    if chosen.finished and not path.exists():
        kept = ", ".join(str(entry.number) for entry in entries if (trial_folder(home, entry.number) / CHECKPOINT).exists())
        raise BadInput(
            f"the generator of trial {chosen.number} was not kept; there are those of {kept or 'no trial'} (--keep K)"
        )
    state = checkpoint.load(path)
    settings = TrialConfig.parse(state["settings"], f"trial {chosen.number}")
    root = config.places.storage
    world = tasks.obtain(settings, CLASSIFIERS, elsewhere=shared.source(root) if root else None)
    metrics = {key: value for key, value in state["history"][-1].items() if key != "step"}
    picture = trial_folder(home, chosen.number) / PICTURE
    origin = f"Trial {chosen.number} of {len(entries)} in sweep `{name}`, after {chosen.last_step} steps."
    with ExitStack() as stack:
        shown = stack.enter_context(storage.as_local(picture)) if picture.exists() else None
        export.write(out, state["trainer"]["generator"], settings, world, metrics, origin=origin, picture=shown)
    return {"out": str(out), "sweep": name, "trial": chosen.number, "metrics": metrics, "params": chosen.params}


if __name__ == "__main__":
    sys.exit(main())
