"""`python -m gbc evaluate`: an exported generator, measured again and against real images."""

from __future__ import annotations

import argparse
import json
from typing import TYPE_CHECKING, Any

from gbc import command_line
from gbc.commands import options
from gbc.commands.options import Commands

if TYPE_CHECKING:
    from gbc.config import TrialConfig
    from gbc.data.samples import ImageDataset
    from gbc.export.drawing import ExportedGenerator
    from gbc.export.remeasure import Remeasured


def add(commands: Commands) -> None:
    """Declare the command."""
    parser = commands.add_parser("evaluate", help="measure an exported generator again, and against real images")
    options.add_model(parser)
    parser.add_argument("--data-root", metavar="DIR", help="judge against the full data set in this torchvision root")
    parser.add_argument(
        "--seed", type=command_line.seed, help="of other samples than those that training judged, for the controls' table"
    )
    parser.add_argument("--full", action="store_true", help="every measure, with an independent feature network (a minute)")
    options.add_cache(parser)
    options.add_json(parser)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> None:
    """Print what is measured now beside what was logged, then the scores between those of controls."""
    from gbc import export
    from gbc.data import datasets
    from gbc.errors import Disagreement
    from gbc.training import tasks

    generator = export.load(arguments.model)
    settings = generator.settings
    if arguments.data_root:
        settings = settings.rooted(arguments.data_root)
    data = tasks.union([datasets.load(spec.dataset) for spec in settings.classifiers()])
    assert isinstance(data, datasets.ImageDataset)
    again = _again(generator, data, arguments)
    result, text = _between_controls(generator, settings, data, arguments)
    if arguments.json:
        print(json.dumps({"judged": again.plain(), **result}, indent=2))
    else:
        print(f"{again.text()}\n\n{text}")
    if wrong := again.disagreeing():
        raise Disagreement(
            f"{', '.join(wrong)}: not what was logged; the generator, its data and its classifiers are the same by their "
            "digests, so another version of torch or of this package measures otherwise"
        )


def _again(generator: ExportedGenerator, data: ImageDataset, arguments: argparse.Namespace) -> Remeasured:
    from gbc.errors import BadInput
    from gbc.export.remeasure import remeasure
    from gbc.training import tasks

    try:
        if tasks.cached(generator.settings, arguments.cache):
            return remeasure(generator, data, tasks.obtain(generator.settings, arguments.cache).classifiers)
        absent = f"the classifier is not in {arguments.cache}; name the folder that holds it with --cache"
    except BadInput as fault:  # its weights or its data are not on this machine
        absent = str(fault)
    return remeasure(generator, data, None, absent)


def _between_controls(
    generator: ExportedGenerator, settings: TrialConfig, data: ImageDataset, arguments: argparse.Namespace
) -> tuple[dict[str, Any], str]:
    """Plain data with `scores` by row, and the same as text."""
    import torch

    from gbc.metrics import evaluation, features
    from gbc.metrics.scores import ReferenceSet, ScoredSamples, controls

    labels, name = torch.tensor(generator.judging.labels), arguments.model.resolve().name
    images = generator.judged() if arguments.seed is None else generator.sample(labels, arguments.seed)
    if arguments.full:
        alone = len({spec.task for spec in settings.classifiers()}) == 1
        oracle = features.obtain(settings.dataset if alone else None, data, arguments.cache)
        result = evaluation.evaluate(name, images, labels, data, oracle)
        return result.plain(), result.text()
    scores = {
        name: ScoredSamples(ReferenceSet.of(data, "cpu"), images, labels).scores(),
        **controls(data, settings.eval_per_class),
    }
    metrics = list(next(iter(scores.values())))
    lines = [f"{'':26}" + "".join(f"{metric:>16}" for metric in metrics)]
    lines += [f"{row:26}" + "".join(f"{values[metric]:16.3f}" for metric in metrics) for row, values in scores.items()]
    return {"scores": scores}, "\n".join(lines)
