"""One HTML file that shows a sweep, or several side by side: `python dashboards/report.py --sweep NAME`.

It needs nothing but a browser: no server, no network. MLflow and the study are read, never written.
"""

from __future__ import annotations

import argparse
import io
import json
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final, NoReturn

if __package__ in (None, ""):  # run as a file: our folder must not shadow top-level modules
    sys.path[0] = str(Path(__file__).resolve().parents[1])


from dashboards.errors import ReportError
from records.addresses import redacted

_LONGEST_MESSAGE: Final = 500


class _Parser(argparse.ArgumentParser):
    """A parser that takes no abbreviations and explains a fault in one line."""

    def error(self, message: str) -> NoReturn:
        """Print the message as an error of the command and exit with code 2."""
        self.exit(2, f"error: {redacted(message)[:_LONGEST_MESSAGE]}\n")


def _seconds(text: str) -> int:
    """A whole number of at least 1."""
    if not re.fullmatch(r"[0-9]{1,9}", text) or not int(text):
        raise argparse.ArgumentTypeError(f"{text[:60]!r}: write a whole number of seconds")
    return int(text)


def parser() -> argparse.ArgumentParser:
    """The command line."""
    cli = _Parser(prog="python dashboards/report.py", allow_abbrev=False, description=__doc__.splitlines()[0])
    pages = cli.add_mutually_exclusive_group(required=True)
    pages.add_argument("--sweep", metavar="NAME", help="the sweep to show")
    pages.add_argument("--compare", nargs="+", metavar="NAME", help="two or more sweeps to put side by side")
    cli.add_argument(
        "--out", type=Path, metavar="FILE",
        help="where to write (default: mlruns/sweeps/NAME/report.html, mlruns/compare-A-B.html)",
    )  # fmt: skip
    cli.add_argument(
        "--refresh", type=_seconds, metavar="SECONDS",
        help="with --sweep: say that the sweep is running, and let the page reload itself so often",
    )  # fmt: skip
    cli.add_argument("--json", action="store_true", help="print the result as JSON")
    return cli


def main(argv: Sequence[str] | None = None) -> int:
    """Returns the exit code: 0 done, 2 bad input, and then nothing was written."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # a name may have characters that the terminal lacks
    arguments = parser().parse_args(argv)
    from records.errors import Unreadable
    from records.format import size

    try:
        names = list(dict.fromkeys(arguments.compare or [arguments.sweep]))
        if arguments.compare and len(names) < 2:
            raise ReportError("--compare takes two sweeps or more; for one write --sweep")
        if arguments.compare and arguments.refresh:
            raise ReportError("--refresh is for the report of one sweep; write --sweep")
        out, count = write(names, arguments.out, arguments.refresh)
    except (ReportError, Unreadable) as fault:
        print(f"error: {redacted(fault)[:_LONGEST_MESSAGE]}", file=sys.stderr)
        return 2
    print(json.dumps({"out": str(out), "bytes": count}) if arguments.json else f"{out}  {size(count)}")
    return 0


def write(names: Sequence[str], out: Path | None = None, refresh: int | None = None) -> tuple[Path, int]:
    """The report of one sweep, or of several side by side; returns where it is and its size in bytes.

    With `refresh` the page of a sweep that is not finished reloads itself after so many seconds.

    Raises:
        ReportError: a sweep cannot be shown, or the file cannot be written.
        Unreadable: a record cannot be read.
    """
    from dashboards.comparison_page import comparison_page
    from dashboards.rendering import check_can_write, write_page
    from dashboards.settings import read_settings
    from dashboards.sweep import read_sweep
    from dashboards.sweep_page import sweep_page
    from records.paths import REPORT, SWEEPS

    for name in names:
        read_settings(name)  # a name that does not exist is said before the others are read
    if out is None:
        out = SWEEPS / names[0] / REPORT if len(names) == 1 else SWEEPS.parent / f"compare-{'-'.join(names)}.html"
    check_can_write(out)
    sweeps = [read_sweep(name) for name in names]
    return write_page(out, sweep_page(sweeps[0], refresh) if len(sweeps) == 1 else comparison_page(sweeps))


if __name__ == "__main__":
    sys.exit(main())
