"""`python -m gbc stationarity`: whether meeting the condition finds the training images."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from gbc.commands import options
from gbc.commands.options import Commands


def add(commands: Commands) -> None:
    """Declare the command."""
    parser = commands.add_parser("stationarity", help="the condition reached against the likeness of the samples, as a figure")
    parser.add_argument(
        "--out", required=True, metavar="DIR", type=Path, help="folder of stationarity.png and stationarity.json"
    )
    parser.add_argument("--steps", type=int, metavar="N", help="optimiser steps of each generator")
    parser.add_argument("--seed", type=int, default=0, help="of the generators")
    options.add_cache(parser)
    options.add_json(parser)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> None:
    """Train everything, draw it and print where each curve ends."""
    from gbc import stationarity_figure
    from gbc.errors import BadInput

    steps = stationarity_figure.STEPS if arguments.steps is None else arguments.steps
    if steps < 1:
        raise BadInput(f"--steps {steps}: must be at least 1")
    found = stationarity_figure.run(
        arguments.out, arguments.cache, steps, arguments.seed, lambda line: print(line, file=sys.stderr)
    )
    if arguments.json:
        print(json.dumps(found, indent=2))
        return
    for name, curve in found.items():
        print(f"{name:28}" + "  ".join(f"{key} {values[-1]:.3f}" for key, values in curve["points"].items() if key != "step"))
    for name, values in next(iter(found.values()))["controls"].items():
        print(f"{name:28}" + "  ".join(f"{key} {value:.3f}" for key, value in values.items()))
    print(arguments.out / "stationarity.png")
