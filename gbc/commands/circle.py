"""`python -m gbc circle`: the 2-D example of section 5.1."""

from __future__ import annotations

import argparse
import json
import sys

from gbc.commands import options
from gbc.commands.options import Commands


def add(commands: Commands) -> None:
    """Declare the command."""
    parser = commands.add_parser("circle", help="the 2-D example of the paper, Figs. 4 and 5, with numbers")
    options.add_figure(parser, "circle")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> None:
    """Train all classifiers and generators, draw the figure and print the scores."""
    from gbc.studies import circle

    scores = circle.run(
        arguments.out, arguments.cache, arguments.steps, lambda line: print(line, file=sys.stderr), arguments.seed
    )
    if arguments.json:
        print(json.dumps(scores, indent=2))
        return
    for name, values in scores.items():
        print(f"{name:36}" + "  ".join(f"{key} {value:.3f}" for key, value in values.items()))
    print(arguments.out / "circle.png")
