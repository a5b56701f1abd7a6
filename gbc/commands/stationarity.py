"""`python -m gbc stationarity`: a test if better stationarity gives samples nearer to the training images."""

from __future__ import annotations

import argparse
import json
import sys

from gbc.commands import options
from gbc.commands.options import Commands


def add(commands: Commands) -> None:
    """Declare the command."""
    parser = commands.add_parser("stationarity", help="draw the stationarity of samples against their SSIM to training images")
    options.add_figure(parser, "stationarity")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> None:
    """Train all curves, draw the figure and print the end of each curve."""
    from gbc.studies import stationarity_figure

    steps = arguments.steps or stationarity_figure.STEPS
    curves = stationarity_figure.run(
        arguments.out, arguments.cache, steps, arguments.seed, lambda line: print(line, file=sys.stderr)
    )
    if arguments.json:
        print(json.dumps(curves, indent=2))
        return
    for name, curve in curves.items():
        print(f"{name:28}" + "  ".join(f"{key} {values[-1]:.3f}" for key, values in curve["points"].items() if key != "step"))
    for name, values in next(iter(curves.values()))["controls"].items():
        print(f"{name:28}" + "  ".join(f"{key} {value:.3f}" for key, value in values.items()))
    print(arguments.out / "stationarity.png")
