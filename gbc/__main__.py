"""`python -m gbc`: the method without a sweep."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from gbc.command_line import Parser, check_can_write, guarded
from gbc.commands import (
    audit,
    baseline,
    circle,
    data,
    distil,
    evaluate,
    homogeneity,
    leak,
    pretrain,
    results,
    sample,
    stationarity,
    train,
)

COMMANDS: Final = (
    pretrain,
    audit,
    homogeneity,
    train,
    sample,
    evaluate,
    leak,
    distil,
    baseline,
    circle,
    stationarity,
    results,
    data,
)


def parser() -> argparse.ArgumentParser:
    """The command line."""
    cli = Parser(prog="python -m gbc", description="Generator Born from Classifier: the method without a sweep.")
    commands = cli.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for command in COMMANDS:
        command.add(commands)
    return cli


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command and return the exit code: 0 done, 1 diverged or not as logged, 2 bad input, 130 interrupted, resumable."""
    arguments = parser().parse_args(argv)
    return guarded(lambda: _run(arguments))


def _run(arguments: argparse.Namespace) -> int:
    from gbc.errors import Disagreement, Diverged

    out = getattr(arguments, "out", None)
    if out is not None and not getattr(arguments, "dry_run", False):
        check_can_write(Path(out))
    try:
        arguments.run(arguments)
    except Diverged as fault:
        print(f"failed: {fault}; lower lr or the loss weights", file=sys.stderr)
        return 1
    except Disagreement as fault:
        print(f"failed: {fault}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
