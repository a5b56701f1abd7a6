"""One HTML file that shows a sweep, or several side by side: `python dashboards/report.py --sweep NAME`.

It needs nothing but a browser: no server, no network. MLflow and the study are read, never written.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

if __package__ in (None, ""):  # run as a file: our folder must not shadow top-level modules
    sys.path[0] = str(Path(__file__).resolve().parents[1])


def parser() -> argparse.ArgumentParser:
    """The command line."""
    cli = argparse.ArgumentParser(prog="python dashboards/report.py", allow_abbrev=False, description=__doc__.splitlines()[0])
    what = cli.add_mutually_exclusive_group(required=True)
    what.add_argument("--sweep", metavar="NAME", help="the sweep to show")
    what.add_argument("--compare", nargs="+", metavar="NAME", help="two or more sweeps to put side by side")
    cli.add_argument(
        "--out", type=Path, metavar="FILE",
        help="where to write (default: mlruns/sweeps/NAME/report.html, mlruns/compare-A-B.html)",
    )  # fmt: skip
    cli.add_argument("--json", action="store_true", help="print the result as JSON")
    return cli


def main(argv: Sequence[str] | None = None) -> int:
    """Returns the exit code: 0 done, 2 bad input, and then nothing was written."""
    arguments = parser().parse_args(argv)
    from dashboards.errors import BadInput

    try:
        out, size = (
            write_comparison(arguments.compare, arguments.out) if arguments.compare else write(arguments.sweep, arguments.out)
        )
    except BadInput as fault:
        print(f"error: {fault}", file=sys.stderr)
        return 2
    print(json.dumps({"out": str(out), "bytes": size}) if arguments.json else f"{out}  {size / 1e6:.1f} MB")
    return 0


def write(name: str, out: Path | None = None) -> tuple[Path, int]:
    """The report of one sweep; returns where it is and its size in bytes.

    Raises:
        BadInput: the sweep cannot be shown, or the file cannot be written.
    """
    from dashboards import page, place, records, single

    content = single.build(records.read(name))
    path = out or place.SWEEPS / name / "report.html"
    return path, page.write(path, content)


def write_comparison(names: Sequence[str], out: Path | None = None) -> tuple[Path, int]:
    """Several sweeps side by side; returns where the page is and its size in bytes.

    Raises:
        BadInput: fewer than two sweeps, one that cannot be shown, or the file cannot be written.
    """
    from dashboards import compare, page, place, records
    from dashboards.errors import BadInput

    names = list(dict.fromkeys(names))
    if len(names) < 2:
        raise BadInput("--compare takes two sweeps or more; for one write --sweep")
    content = compare.build([records.read(name) for name in names])
    path = out or place.SWEEPS.parent / f"compare-{'-'.join(names)}.html"
    return path, page.write(path, content)


if __name__ == "__main__":
    sys.exit(main())
