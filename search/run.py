"""Search for the settings of a generator: `python search/run.py --dataset fashion_mnist`.

Run the same command again to continue an interrupted sweep.
"""

from __future__ import annotations

import argparse
import os
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if __package__ in (None, ""):  # run as a file: our folder must not shadow top-level modules
    sys.path[0] = str(Path(__file__).resolve().parents[1])
    sys.path.insert(1, str(Path.cwd()))  # where `python -m` would look for a factory of the user's

from gbc.command_line import Parser, guarded, whole
from search.spec import flags

if TYPE_CHECKING:
    from rich.console import Console

    from search.driver.summary import Summary
    from search.spec.config import SweepConfig


def parser() -> argparse.ArgumentParser:
    """The command line."""
    cli = Parser(prog="python search/run.py", description=__doc__.splitlines()[0], clean=flags.without_secrets)
    flags.declare(cli)
    instead = cli.add_argument_group("inspect or control sweeps instead of running one").add_mutually_exclusive_group()
    instead.add_argument("--list", action="store_true", help="every sweep in this folder, and how it stands")
    instead.add_argument("--status", metavar="NAME", help="one sweep, running or not; a running one is not disturbed")
    instead.add_argument(
        "--check", metavar="NAME", help="compare its study, MLflow runs and files; exit code 1 if they disagree"
    )
    instead.add_argument(
        "--stop", metavar="NAME", help="end the driver of a sweep as Ctrl-C does; with --trial end one trial, for good"
    )
    instead.add_argument("--pause", metavar="NAME", help="begin no new trial, and end when those that run have ended")
    instead.add_argument(
        "--enqueue", nargs="+", metavar=("NAME", "KEY=VALUE,…"),
        help="try this setting next, in a sweep that runs or rests; what it leaves open is sampled",
    )  # fmt: skip
    cli.add_argument("--trial", type=whole, metavar="N", help="with --stop: only this trial, as stopped early")
    cli.add_argument("--repair", action="store_true", help="with --check: mend what can be mended, and say what was done")
    cli.add_argument("--dry-run", action="store_true", help="print the resolved sweep, a file for --config, and run nothing")
    cli.add_argument("--json", action="store_true", help="print the result as JSON; progress goes to standard error")
    return cli


def main(argv: Sequence[str] | None = None) -> int:
    """Returns the exit code: 0 done, 1 every trial failed, 2 bad input, 130 interrupted or halted, and resumable."""
    arguments = parser().parse_args(argv)
    arguments.words = sys.argv[1:] if argv is None else argv
    return guarded(lambda: _stoppable(arguments), flags.without_secrets)


def _stoppable(arguments: argparse.Namespace) -> int:
    from records.addresses import redacted
    from search.spec.faults import Halted

    try:
        return _run(arguments)
    except Halted as fault:
        print(redacted(fault.describe()), file=sys.stderr)
        if fault.abandoned:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(130)
        return 130


def _run(arguments: argparse.Namespace) -> int:
    if arguments.stop or arguments.pause or arguments.enqueue or arguments.trial is not None:
        return _order(arguments)
    if arguments.list or arguments.status or arguments.check or arguments.repair:
        return _show_or_check(arguments)
    from rich.console import Console

    from gbc.settings import parse_assignment
    from search import library

    assignments = dict(map(parse_assignment, arguments.set))
    config = library.requested(arguments, assignments, dry_run=arguments.dry_run)
    console = Console(stderr=arguments.json, markup=False)  # what failed may hold brackets
    if arguments.dry_run:
        from search.driver import preflight

        for line in (*preflight.check(config), *config.places.unreachable_servers()):
            print(f"note: {line}", file=sys.stderr)
        _print_resolved(config, as_json=arguments.json)
        print(f"dry run of sweep {config.name}: no fault was found; nothing was trained or written", file=sys.stderr)
        return 0
    retry, report = arguments.retry_failed, not arguments.no_report
    summary = library.run(config, console, retry_failed=retry, report=report, pictures=arguments.pictures)
    exports = config.trial.generator != "pixels"
    _print_summary(summary, arguments, console, config.places.tracking_uri, exports=exports)
    if not summary.finished:
        return 130
    return 0 if summary.complete + summary.stopped else 1


def _show_or_check(arguments: argparse.Namespace) -> int:
    from gbc.errors import BadInput

    if arguments.repair and not arguments.check:
        raise BadInput("--repair needs to know which sweep; write --check NAME --repair")
    if arguments.check:
        from search.consistency import check

        return check.run(arguments.check, repair=arguments.repair, as_json=arguments.json)
    from search import status

    if arguments.status:
        return status.show_status(arguments.status, as_json=arguments.json)
    return status.show_list(as_json=arguments.json)


def _order(arguments: argparse.Namespace) -> int:
    from gbc.errors import BadInput
    from search import control

    as_json = arguments.json
    if arguments.trial is not None:
        if not arguments.stop:
            raise BadInput("--trial names a trial that --stop NAME ends; how many to try: --trials N")
        return control.end_trial(arguments.stop, arguments.trial, as_json=as_json)
    if arguments.stop:
        return control.stop(arguments.stop, as_json=as_json)
    if arguments.pause:
        return control.pause(arguments.pause, as_json=as_json)
    *name, setting = arguments.enqueue
    if arguments.name:
        name.append(arguments.name)
    if len(name) != 1:
        raise BadInput("--enqueue needs one sweep and one setting; write --enqueue NAME lr=5e-3,beta=0.01")
    return control.enqueue(name[0], setting, as_json=as_json)


def _print_resolved(config: SweepConfig, *, as_json: bool) -> None:
    import json

    from gbc import plain_yaml

    data = config.record()
    print(json.dumps(data, indent=2) if as_json else plain_yaml.dump(data), end="\n" if as_json else "")


def _print_summary(
    summary: Summary, arguments: argparse.Namespace, console: Console, tracking_uri: str | None, *, exports: bool
) -> None:
    """`exports`: there is a generator that can be exported."""
    from records.addresses import public, redacted
    from records.paths import REPORT
    from search.status import summary_lines

    server = tracking_uri and public(tracking_uri)

    def say(text: str) -> None:
        console.print(text, highlight=False, soft_wrap=True)

    say("\n" + "\n".join(summary_lines(summary)))
    say("\nnext:")
    if summary.finished and summary.complete > 1 and not summary.front and not summary.finalists:
        say("  repeat    the same command with --finalists 3        (its best settings on fresh seeds; one run may be lucky)")
    if not summary.finished:
        say(f"  continue  {shlex.join(['python', 'search/run.py', *map(redacted, arguments.words)])}")
    if server and server.startswith("http"):
        say(f"  compare   {server}        (open the experiment and select runs)")
    else:
        say(f"  compare   python search/ui.py --sweep {summary.name}        (MLflow's pages, with a link to its trials)")
    if summary.concluded:
        say(f"  look      {Path(summary.folder) / REPORT}        (in a browser; needs no server)")
    if summary.best_trial is not None and exports:
        say(f"  export    python search/export.py --sweep {summary.name} --out exports/{summary.name}")
    if arguments.json:
        print(summary.to_json())


if __name__ == "__main__":
    sys.exit(main())
