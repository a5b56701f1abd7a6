"""`python -m gbc results`: run comparisons of settings, and write the page of results from their log."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from gbc.command_line import check_can_write, positive
from gbc.commands import options
from gbc.commands.options import Commands


def add(commands: Commands) -> None:
    """Declare the command."""
    parser = commands.add_parser("results", help="run comparisons over seeds, and write docs/results.md from their log")
    parser.add_argument("comparison", nargs="+", metavar="FILE", type=Path, help="YAML files, e.g. configs/results/*.yaml")
    parser.add_argument("--out", default=Path("docs/results.md"), metavar="FILE", type=Path, help="the page (docs/results.md)")
    parser.add_argument("--log", metavar="DIR", type=Path, help="folder of logged runs (default: path of the page without .md)")
    parser.add_argument("--jobs", type=positive, default=1, metavar="N", help="parallel runs, which share the CPU's threads")
    parser.add_argument("--data-root", metavar="DIR", help="torchvision root with the full data set for the comparison")
    parser.add_argument("--row", action="append", metavar="NAME", help="run only this row; repeat for several")
    parser.add_argument("--dry-run", action="store_true", help="print which runs are missing, run nothing, write nothing")
    parser.add_argument("--page-only", action="store_true", help="run nothing: write the page from the log as it is")
    options.add_cache(parser)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> None:
    """Run what is not logged, then write the page."""
    from gbc.checkpoint import write_atomic
    from gbc.errors import BadInput
    from gbc.settings import suggest
    from gbc.studies import ceilings, results, runs
    from gbc.studies.comparison import load

    if arguments.out.is_dir():
        raise BadInput(f"--out {arguments.out}: is a folder; name a file in it")
    folder = arguments.log or arguments.out.with_suffix("")
    comparisons = [load(path) for path in arguments.comparison]
    rows = [row for comparison in comparisons for row in comparison.rows]
    for name in arguments.row or ():
        if name not in rows:
            raise BadInput(f"--row {name}: no such row; {suggest(name, rows)}")
    if not (arguments.dry_run or arguments.page_only):
        for comparison in comparisons:
            check_can_write(folder / comparison.name, "--log")
    logs = []
    for comparison in comparisons:
        all_runs = runs.all_runs(comparison, folder, arguments.cache, arguments.data_root)
        chosen = [each for each in all_runs if not arguments.row or each.row in arguments.row]
        if arguments.dry_run:
            for each in chosen:
                print(f"{'logged ' if each.logged() else 'missing'}  {each.path}")
            continue
        if not arguments.page_only:
            logged = sum(each.logged() is not None for each in chosen)
            print(f"{comparison.name}: {logged} of {len(chosen)} runs are logged", file=sys.stderr)
            runs.complete(chosen, arguments.jobs, lambda line: print(line, file=sys.stderr))
            runs.controls(comparison, folder, arguments.cache, arguments.data_root)
            ceilings.obtain(comparison, folder, arguments.data_root)
        of_rows = ceilings.logged(comparison, folder) if comparison.ceilings else {}
        logs.append(results.Log.read(comparison, all_runs, runs.logged_controls(comparison, folder), of_rows))
    if logs:
        text, kept = results.page(logs, arguments.out)
        write_atomic(arguments.out, (text.rstrip() + "\n").encode())
        for log in logs:
            if figure := log.figure():
                write_atomic(results.figure_path(log.comparison, arguments.out), figure)
        for title in kept:
            print(f"{arguments.out}: as it was: {title}", file=sys.stderr)
        print(arguments.out)
