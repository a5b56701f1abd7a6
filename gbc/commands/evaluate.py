"""`python -m gbc evaluate`: an exported generator against real images."""

from __future__ import annotations

import argparse
import json

from gbc.commands import options
from gbc.commands.options import Commands


def add(commands: Commands) -> None:
    """Declare the command."""
    parser = commands.add_parser("evaluate", help="measure an exported generator against real images")
    options.add_model(parser)
    parser.add_argument("--data-root", metavar="DIR", help="judge against the full data set in this torchvision root")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--full", action="store_true", help="every measure, with an independent feature network (a minute)")
    options.add_cache(parser)
    options.add_json(parser)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> None:
    """Print the scores of a generator between those of its controls."""
    import torch

    from gbc import datasets, evaluation, export, features, tasks
    from gbc.metrics import Judge, Verdict, controls

    generator = export.load(arguments.model)
    settings = generator.settings
    if arguments.data_root:
        settings = settings.rooted(arguments.data_root)
    data = tasks.union([datasets.load(subject.dataset) for subject in settings.subjects()])
    assert isinstance(data, datasets.ImageDataset)
    labels = torch.arange(len(data.class_names)).repeat(settings.eval_per_class)
    images = generator.sample(labels, arguments.seed)
    if arguments.full:
        alone = len({subject.task for subject in settings.subjects()}) == 1
        oracle = features.obtain(settings.dataset if alone else None, data, arguments.cache)
        result = evaluation.evaluate(arguments.model.name, images, labels, data, oracle)
        print(json.dumps(result.plain(), indent=2) if arguments.json else result.text())
        return
    scores = {
        arguments.model.name: Verdict(Judge.of(data, "cpu"), images, labels).scores(),
        **controls(data, settings.eval_per_class),
    }
    if arguments.json:
        print(json.dumps(scores, indent=2))
        return
    names = list(next(iter(scores.values())))
    print(f"{'':26}" + "".join(f"{name:>16}" for name in names))
    for row, values in scores.items():
        print(f"{row:26}" + "".join(f"{values[name]:16.3f}" for name in names))
