"""`python -m gbc evaluate`: new measurements of an exported generator, beside logged ones and those of control sets."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from gbc import command_line
from gbc.commands import options
from gbc.commands.options import Commands

if TYPE_CHECKING:
    from gbc.classifier_config import DatasetConfig
    from gbc.classifiers.architectures import Classifier
    from gbc.data.samples import ImageDataset
    from gbc.export.drawing import ExportedGenerator


def add(commands: Commands) -> None:
    """Declare the command."""
    parser = commands.add_parser("evaluate", help="measure an exported generator again, and against real images")
    options.add_model(parser)
    options.add_real_images(parser)
    parser.add_argument(
        "--seed", type=command_line.seed, help="draw other samples for the table with control sets (default: those of training)"
    )
    parser.add_argument("--full", action="store_true", help="every measure, with an independent feature network (minutes)")
    options.add_cache(parser)
    options.add_json(parser)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> None:
    """Print the metrics measured now beside the logged ones, then the scores beside those of control sets."""
    from gbc import export
    from gbc.errors import Disagreement
    from gbc.export.remeasure import remeasure

    generator = export.load(arguments.model)
    data, config = options.real_images(generator, arguments)
    classifiers, absent = _cached_classifiers(generator, arguments)
    again = remeasure(generator, data, classifiers, absent)
    result, text = _between_controls(generator, config, data, classifiers or (), arguments)
    if arguments.json:
        print(json.dumps({"judged": again.to_json(), **result}, indent=2))
    else:
        print(f"{again.text()}\n\n{text}")
    if different := again.disagreeing():
        raise Disagreement(
            f"{', '.join(different)}: not as logged; the generator, its data and its classifiers have the same digests, so "
            "another version of torch or of this package gives other results"
        )


def _cached_classifiers(
    generator: ExportedGenerator, arguments: argparse.Namespace
) -> tuple[Sequence[Classifier] | None, str | None]:
    """(the classifiers that the generator was born from, None), or (None, the reason why they are not there)."""
    from gbc.errors import BadInput
    from gbc.training import tasks

    try:
        if tasks.cached(generator.settings, arguments.cache):
            return tasks.obtain(generator.settings, arguments.cache).classifiers, None
        return None, f"the classifier is not in {arguments.cache}; name the folder that holds it with --cache"
    except BadInput as fault:  # its weights or its data are not on this machine
        return None, str(fault)


def _between_controls(
    generator: ExportedGenerator,
    config: DatasetConfig | None,
    data: ImageDataset,
    classifiers: Sequence[Classifier],
    arguments: argparse.Namespace,
) -> tuple[dict[str, Any], str]:
    """Scores of the generator and of control sets, as plain data with `scores` by row and as text.

    `config` are the settings of `data`, None for those of several tasks.
    """
    import torch

    from gbc.metrics import evaluation, features
    from gbc.metrics.scores import ReferenceSet, ScoredSamples, controls

    labels, name = torch.tensor(generator.judging.labels), arguments.model.resolve().name
    images = generator.judged() if arguments.seed is None else generator.sample(labels, arguments.seed)
    if arguments.full:
        oracle = features.obtain(config, data, arguments.cache)
        result = evaluation.evaluate(name, images, labels, data, oracle, classifiers)
        return result.to_json(), result.text()
    scores = {
        name: ScoredSamples(ReferenceSet.of(data, "cpu"), images, labels).scores(),
        **controls(data, generator.settings.eval_per_class),
    }
    metrics = list(next(iter(scores.values())))
    lines = [f"{'':26}" + "".join(f"{metric:>16}" for metric in metrics)]
    lines += [f"{row:26}" + "".join(f"{values[metric]:16.3f}" for metric in metrics) for row, values in scores.items()]
    return {"scores": scores}, "\n".join(lines)
