"""`python -m gbc circle`: the 2-D example of section 5.1."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from gbc.commands import options
from gbc.commands.options import Commands


def add(commands: Commands) -> None:
    """Declare the command."""
    parser = commands.add_parser("circle", help="the 2-D example of the paper, Figs. 4 and 5, with numbers")
    parser.add_argument("--out", required=True, metavar="DIR", type=Path, help="folder of circle.png and circle.json")
    parser.add_argument("--steps", type=int, metavar="N", help="optimiser steps of each generator")
    parser.add_argument("--seed", type=int, default=0, help="of classifiers, generators and samples")
    options.add_cache(parser)
    options.add_json(parser)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> None:
    """Train everything, draw it and print the numbers."""
    from gbc import circle
    from gbc.errors import BadInput

    if arguments.steps is not None and arguments.steps < 1:
        raise BadInput(f"--steps {arguments.steps}: must be at least 1")
    scores = circle.run(
        arguments.out, arguments.cache, arguments.steps, lambda line: print(line, file=sys.stderr), arguments.seed
    )
    if arguments.json:
        print(json.dumps(scores, indent=2))
        return
    for name, found in scores.items():
        print(f"{name:36}" + "  ".join(f"{key} {value:.3f}" for key, value in found.items()))
    print(arguments.out / "circle.png")
