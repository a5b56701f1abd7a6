"""`python -m gbc evaluate`: new measurements of an exported generator, beside logged ones and those of control sets."""

from __future__ import annotations

import argparse
import json
import sys
from typing import TYPE_CHECKING, Any

from gbc import command_line
from gbc.commands import options
from gbc.commands.options import Commands

if TYPE_CHECKING:
    from gbc.config import DatasetConfig
    from gbc.data.samples import ImageDataset
    from gbc.export.drawing import ExportedGenerator
    from gbc.export.remeasure import Remeasured


def add(commands: Commands) -> None:
    """Declare the command."""
    parser = commands.add_parser("evaluate", help="measure an exported generator again, and against real images")
    options.add_model(parser)
    source = parser.add_mutually_exclusive_group()
    source.add_argument("--images", metavar="PATH", help="compare with these: a folder with one folder a class, or an .npz")
    source.add_argument("--dataset", metavar="NAME", help="compare with this data set (default: that of the classifier)")
    parser.add_argument("--data-root", metavar="DIR", help="torchvision root with the full data set for the comparison")
    parser.add_argument(
        "--per-class", type=command_line.positive, metavar="N",
        help="with --images or --dataset: so many images of each class stand for training images (default: 50)",
    )  # fmt: skip
    parser.add_argument(
        "--seed", type=command_line.seed, help="draw other samples for the table with control sets (default: those of training)"
    )
    parser.add_argument("--full", action="store_true", help="every measure, with an independent feature network (a minute)")
    options.add_cache(parser)
    options.add_json(parser)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> None:
    """Print the metrics measured now beside the logged ones, then the scores beside those of control sets."""
    from gbc import export
    from gbc.errors import Disagreement

    generator = export.load(arguments.model)
    data, config = _images(generator, arguments)
    again = _remeasure(generator, data, arguments)
    result, text = _between_controls(generator, config, data, arguments)
    if arguments.json:
        print(json.dumps({"judged": again.to_json(), **result}, indent=2))
    else:
        print(f"{again.text()}\n\n{text}")
    if different := again.disagreeing():
        raise Disagreement(
            f"{', '.join(different)}: not as logged; the generator, its data and its classifiers have the same digests, so "
            "another version of torch or of this package gives other results"
        )


def _images(generator: ExportedGenerator, arguments: argparse.Namespace) -> tuple[ImageDataset, DatasetConfig | None]:
    """The images to compare with, and their settings if they are those of one task."""
    from gbc.config import DatasetConfig
    from gbc.data import datasets
    from gbc.data.matching import matched
    from gbc.errors import BadInput
    from gbc.training import tasks

    if arguments.images or arguments.dataset:
        given = {"name": arguments.dataset or "images", "path": arguments.images, "data_root": arguments.data_root}
        if arguments.per_class:
            given["per_class"] = arguments.per_class
        config = DatasetConfig.parse(given, "--images" if arguments.images else "--dataset")
        data, remark = matched(config, generator.shape, generator.class_names)
        if remark:
            print(f"note: {remark}", file=sys.stderr)
        return data, config
    if arguments.per_class:
        raise BadInput("--per-class is for --images or --dataset; give one of them")
    if generator.settings.data_free:
        raise BadInput(
            f"{arguments.model}: was trained without images; to compare it with some give --images PATH or --dataset NAME"
        )
    settings = generator.settings.rooted(arguments.data_root) if arguments.data_root else generator.settings
    merged = tasks.merged([datasets.load(spec.dataset) for spec in settings.classifiers()])
    assert isinstance(merged, datasets.ImageDataset)
    return merged, settings.dataset if len({spec.task for spec in settings.classifiers()}) == 1 else None


def _remeasure(generator: ExportedGenerator, data: ImageDataset, arguments: argparse.Namespace) -> Remeasured:
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
    generator: ExportedGenerator, config: DatasetConfig | None, data: ImageDataset, arguments: argparse.Namespace
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
        result = evaluation.evaluate(name, images, labels, data, oracle)
        return result.to_json(), result.text()
    scores = {
        name: ScoredSamples(ReferenceSet.of(data, "cpu"), images, labels).scores(),
        **controls(data, generator.settings.eval_per_class),
    }
    metrics = list(next(iter(scores.values())))
    lines = [f"{'':26}" + "".join(f"{metric:>16}" for metric in metrics)]
    lines += [f"{row:26}" + "".join(f"{values[metric]:16.3f}" for metric in metrics) for row, values in scores.items()]
    return {"scores": scores}, "\n".join(lines)
