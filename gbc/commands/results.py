"""`python -m gbc results`: run comparisons of settings, and make the page of results from their log."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from gbc.command_line import positive
from gbc.commands import options
from gbc.commands.options import Commands


def add(commands: Commands) -> None:
    """Declare the command."""
    parser = commands.add_parser("results", help="run comparisons over seeds, and make docs/results.md from their log")
    parser.add_argument("comparison", nargs="+", metavar="FILE", type=Path, help="YAML files, e.g. configs/results/*.yaml")
    parser.add_argument("--out", default=Path("docs/results.md"), metavar="FILE", type=Path, help="the page (docs/results.md)")
    parser.add_argument("--log", metavar="DIR", type=Path, help="folder of logged runs (default: as the page, without .md)")
    parser.add_argument("--jobs", type=positive, default=1, metavar="N", help="runs at a time; they share the CPU's threads")
    parser.add_argument("--data-root", metavar="DIR", help="judge against the full data set in this torchvision root")
    parser.add_argument("--row", action="append", metavar="NAME", help="run only this row; repeat for several")
    parser.add_argument("--dry-run", action="store_true", help="say which runs are missing, run nothing, write nothing")
    parser.add_argument("--page-only", action="store_true", help="run nothing: make the page of what is logged")
    options.add_cache(parser)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> None:
    """Run what is not logged, then write the page."""
    from gbc.checkpoint import write_atomic
    from gbc.errors import BadInput
    from gbc.settings import suggest
    from gbc.studies import results, runs
    from gbc.studies.comparison import load

    folder = arguments.log or arguments.out.with_suffix("")
    comparisons = [load(path) for path in arguments.comparison]
    known = [row for each in comparisons for row in each.rows]
    for name in arguments.row or ():
        if name not in known:
            raise BadInput(f"--row {name}: no such row; {suggest(name, known)}")
    logs = []
    for each in comparisons:
        cells = runs.of(each, folder, arguments.cache, arguments.data_root)
        wanted = [one for one in cells if not arguments.row or one.row in arguments.row]
        if arguments.dry_run:
            for one in wanted:
                print(f"{'logged ' if one.logged() else 'missing'}  {one.path}")
            continue
        if not arguments.page_only:
            print(
                f"{each.name}: {sum(one.logged() is not None for one in wanted)} of {len(wanted)} runs are logged",
                file=sys.stderr,
            )
            runs.complete(wanted, arguments.jobs, lambda line: print(line, file=sys.stderr))
            runs.controls(each, folder, arguments.cache, arguments.data_root)
        logs.append(results.Log.read(each, cells, runs.logged_controls(each, folder)))
    if logs:
        write_atomic(arguments.out, (results.page(logs, arguments.out).rstrip() + "\n").encode())
        print(arguments.out)
