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


from gbc.command_line import Parser, guarded
from gbc.errors import BadInput
from records.addresses import redacted


def parser() -> argparse.ArgumentParser:
    """The command line."""
    cli = Parser(prog="python dashboards/report.py", description=__doc__.splitlines()[0], clean=redacted)
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
    return guarded(lambda: _run(arguments), redacted)


def _run(arguments: argparse.Namespace) -> int:
    from records.errors import Unreadable
    from records.format import size

    names = list(dict.fromkeys(arguments.compare or [arguments.sweep]))
    if arguments.compare and len(names) < 2:
        raise BadInput("--compare takes two sweeps or more; for one write --sweep")
    try:
        out, count = write(names, arguments.out)
    except Unreadable as fault:
        raise BadInput(str(fault)) from None
    print(json.dumps({"out": str(out), "bytes": count}) if arguments.json else f"{out}  {size(count)}")
    return 0


def write(names: Sequence[str], out: Path | None = None) -> tuple[Path, int]:
    """The report of one sweep, or of several side by side; returns where it is and its size in bytes.

    Raises:
        BadInput: a sweep cannot be shown, or the file cannot be written.
        Unreadable: a record cannot be read.
    """
    from dashboards.comparison_page import comparison_page
    from dashboards.rendering import write_page
    from dashboards.sweep import read_sweep
    from dashboards.sweep_page import sweep_page
    from records.paths import REPORT, SWEEPS

    sweeps = [read_sweep(name) for name in names]
    if len(sweeps) == 1:
        return write_page(out or SWEEPS / names[0] / REPORT, sweep_page(sweeps[0]))
    return write_page(out or SWEEPS.parent / f"compare-{'-'.join(names)}.html", comparison_page(sweeps))


if __name__ == "__main__":
    sys.exit(main())
