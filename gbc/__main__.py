"""`python -m gbc`: the method without a sweep."""

from __future__ import annotations

import argparse
import signal
import sys
from collections.abc import Sequence
from typing import Final

from gbc.commands import audit, baseline, circle, data, evaluate, homogeneity, pretrain, results, sample, stationarity, train

COMMANDS: Final = (pretrain, audit, homogeneity, train, sample, evaluate, baseline, circle, stationarity, results, data)


def parser() -> argparse.ArgumentParser:
    """The command line."""
    cli = argparse.ArgumentParser(
        prog="python -m gbc", description="Generator Born from Classifier: the method without a sweep."
    )
    commands = cli.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for command in COMMANDS:
        command.add(commands)
    return cli


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command and return the exit code: 0 done, 1 diverged or not as logged, 2 bad input, 130 interrupted, resumable."""
    arguments = parser().parse_args(argv)
    from gbc.errors import BadInput, Disagreement, Diverged

    signal.signal(signal.SIGTERM, _interrupt)
    try:
        arguments.run(arguments)
    except BadInput as fault:
        print(f"error: {fault}", file=sys.stderr)
        return 2
    except Diverged as fault:
        print(f"failed: {fault}; lower lr or the loss weights", file=sys.stderr)
        return 1
    except Disagreement as fault:
        print(f"failed: {fault}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted; the same command continues", file=sys.stderr)
        return 130
    return 0


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main())
