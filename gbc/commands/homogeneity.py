"""`python -m gbc homogeneity`: Λ of a classifier, checked and drawn as in Fig. 3."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from gbc.commands import options
from gbc.commands.options import Commands

_INPUTS = 60


def add(commands: Commands) -> None:
    """Declare the command."""
    parser = commands.add_parser("homogeneity", help="Λ by every policy and estimate, checked and drawn: the paper's Fig. 3")
    parser.add_argument("--out", required=True, metavar="DIR", type=Path, help="folder of homogeneity.png and homogeneity.json")
    parser.add_argument("--mode", choices=("train", "eval"), default="eval", help="BatchNorm by the batch or stored (eval)")
    options.add_trial(parser)
    options.add_cache(parser)
    options.add_json(parser)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> None:
    """Draw the figure for the paper's network, or for the classifier of the trial if a flag names one."""
    import torch

    from gbc.studies import lambda_figure
    from gbc.training import tasks

    if any((arguments.config, arguments.set, arguments.classifier, arguments.weights, arguments.card)):
        settings = options.trial(arguments)
        classifier = tasks.obtain(settings, arguments.cache, options.announce).classifier
        inputs = 2 * torch.randn(_INPUTS, *classifier.shape, generator=torch.Generator().manual_seed(0))
        label = settings.classifier.label
        result = lambda_figure.run(arguments.out, classifier.module, inputs, mode=arguments.mode, title=label)
    else:
        result = lambda_figure.run(arguments.out, mode=arguments.mode)
    if arguments.json:
        print(json.dumps(result, indent=2))
        return
    free = ", ".join(f"{count} ({name})" for name, count in result["freedom"].items())
    print(f"{result['parameters']} parameters; directions in which Λ is free: {free}")
    for name, way in result["ways"].items():
        text = f"greatest relative error {way['error']:.1e}" if "error" in way else f"refused: {way['refused']}"
        print(f"  {name:28} {text}")
    print(arguments.out / "homogeneity.png")
