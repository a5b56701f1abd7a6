"""`python -m gbc distil`: train another network from a classifier and generated images, without data."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Final

from gbc.command_line import positive, real, seed
from gbc.commands import options
from gbc.commands.options import Commands

if TYPE_CHECKING:
    from torch import Tensor

    from gbc.data.samples import ImageDataset
    from gbc.training.tasks import TrialInputs

_MOST_IMAGES: Final = 1_000_000


def add(commands: Commands) -> None:
    """Declare the command."""
    parser = commands.add_parser("distil", help="train another network on generated images alone, and measure it on real ones")
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--model", metavar="DIR", type=Path, help="folder of the exported generator, with its classifiers")
    source.add_argument(
        "--samples", metavar="FILE", type=Path, help=".npz of `sample` or `baseline`; the teacher is that of --config or --set"
    )
    options.add_trial(parser)
    parser.add_argument(
        "--student",
        default="conv",
        metavar="NAME",
        help="conv (default), lenet5, mlp, mlp_bn, resnet, or package.module:factory",
    )
    parser.add_argument("--hidden", type=positive, default=128, help="width of the student's hidden layers (default: 128)")
    parser.add_argument("--count", type=positive, default=10_000, help="generated images of --model (default: 10000)")
    parser.add_argument("--steps", type=positive, default=3000, help="training steps of each student (default: 3000)")
    parser.add_argument("--temperature", type=real, default=4.0, help="of the teacher's probabilities (default: 4)")
    parser.add_argument("--seed", type=seed, default=0)
    parser.add_argument("--out", type=Path, metavar="FILE", help="write the student's weights, safetensors")
    options.add_real_images(parser)
    options.add_cache(parser)
    options.add_json(parser)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> None:
    """Print the accuracies of teacher and student on real test images; where there are none, only teach and say so."""
    from gbc import cache, checkpoint, export
    from gbc.classifier_config import ClassifierConfig
    from gbc.errors import BadInput
    from gbc.metrics import distillation

    if not arguments.temperature > 0:
        raise BadInput(f"--temperature {arguments.temperature}: must be above 0")
    if arguments.count > _MOST_IMAGES:
        raise BadInput(f"--count {arguments.count}: {_MOST_IMAGES} at most, because all are held in memory")
    if arguments.out is not None:
        export.check_new(arguments.out)
    named = {**ClassifierConfig.named(arguments.student), "hidden": arguments.hidden, "seed": arguments.seed}
    student = ClassifierConfig.parse(named, "--student")
    inputs, images, data = _of_samples(arguments) if arguments.samples else _of_model(arguments)
    lesson = distillation.Lesson(
        inputs.classifiers, student, arguments.steps, arguments.temperature,
        lambda who, step, steps: print(f"student {who}: step {step}/{steps}", file=sys.stderr),
    )  # fmt: skip
    network = lesson.teach(images, "on generated images")
    if arguments.out is not None:
        checkpoint.write_atomic(arguments.out, cache.weights_as_bytes(network))
    if data is None:
        print(
            json.dumps({"out": str(arguments.out)}) if arguments.json else f"{arguments.out}  not tested: there are no images"
        )
        return
    result = distillation.measure(lesson, network, data)
    print(json.dumps(result.to_json(), indent=2) if arguments.json else result.text())


def _of_model(arguments: argparse.Namespace) -> tuple[TrialInputs, Tensor, ImageDataset | None]:
    """The classifiers of an exported generator, its samples, and real images unless there are none."""
    from gbc import export
    from gbc.errors import BadInput
    from gbc.training import tasks

    generator = export.load(arguments.model)
    blind = generator.settings.data_free and not (arguments.images or arguments.dataset)
    if blind and arguments.out is None:
        raise BadInput(
            f"{arguments.model}: was trained without images; give --out FILE for the student, or --images PATH to test it"
        )
    # The teachers are those of the generator; other test images make no other teacher.
    data = None if blind else options.real_images(generator, arguments)[0]
    inputs = tasks.obtain(generator.settings, arguments.cache, options.announce)
    classes = len(generator.class_names)
    return inputs, generator.sample([number % classes for number in range(arguments.count)], arguments.seed), data


def _of_samples(arguments: argparse.Namespace) -> tuple[TrialInputs, Tensor, ImageDataset]:
    """The classifiers of a trial's settings, the images of a file, and the real images of the settings."""
    from gbc.data import datasets, own_images
    from gbc.data.samples import tensors
    from gbc.errors import BadInput
    from gbc.training import tasks

    if arguments.images or arguments.dataset or arguments.per_class:
        raise BadInput("--images, --dataset and --per-class are for --model; with --samples set dataset.name and the like")
    settings = options.trial(arguments)
    images, _ = tensors(*own_images.read_set(arguments.samples))
    inputs = tasks.obtain(settings, arguments.cache, options.announce)
    if images.shape[1:] != inputs.classifier.shape:
        taken = list(inputs.classifier.shape)
        raise BadInput(f"--samples {arguments.samples}: images of {list(images.shape[1:])}, but the classifier takes {taken}")
    # As in `_of_model`, other test images make no other teacher.
    return inputs, images, datasets.load(settings.rooted(arguments.data_root).dataset) if arguments.data_root else inputs.images
