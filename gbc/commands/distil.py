"""`python -m gbc distil`: train another network from a classifier and generated images, without data."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Final

from gbc.command_line import positive, real, seed
from gbc.commands import options
from gbc.commands.options import Commands

_MOST_IMAGES: Final = 1_000_000


def add(commands: Commands) -> None:
    """Declare the command."""
    parser = commands.add_parser("distil", help="train another network on generated images alone, and measure it on real ones")
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--model", metavar="DIR", type=Path, help="folder of the exported generator, with its classifiers")
    source.add_argument(
        "--images", metavar="FILE", type=Path, help=".npz of `sample` or `baseline`; the teacher is that of --set or --config"
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
    parser.add_argument("--data-root", metavar="DIR", help="torchvision root with the full data set, for its test images")
    options.add_cache(parser)
    options.add_json(parser)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> None:
    """Print the accuracies of teacher and student on real test images."""
    from gbc import cache, checkpoint, export
    from gbc.config import ClassifierConfig
    from gbc.data import datasets, own_images
    from gbc.data.samples import tensors
    from gbc.errors import BadInput
    from gbc.metrics import distillation
    from gbc.training import tasks

    if not arguments.temperature > 0:
        raise BadInput(f"--temperature {arguments.temperature}: must be above 0")
    if arguments.count > _MOST_IMAGES:
        raise BadInput(f"--count {arguments.count}: {_MOST_IMAGES} at most, because all are held in memory")
    if arguments.out is not None:
        export.check_new(arguments.out)
    generator = export.load(arguments.model) if arguments.model else None
    named = {**ClassifierConfig.named(arguments.student), "hidden": arguments.hidden, "seed": arguments.seed}
    student = ClassifierConfig.parse(named, "--student")
    settings = generator.settings if generator else options.trial(arguments)
    pool = None if generator else tensors(*own_images.read_set(arguments.images))[0]
    inputs = tasks.obtain(settings, arguments.cache, options.announce)
    # The teachers are those of the generator; other test images make no other teacher.
    data = datasets.load(settings.rooted(arguments.data_root).dataset) if arguments.data_root else inputs.images
    if pool is None:
        assert generator is not None
        classes = len(generator.class_names)
        pool = generator.sample([number % classes for number in range(arguments.count)], arguments.seed)
    elif pool.shape[1:] != inputs.classifier.shape:
        taken = list(inputs.classifier.shape)
        raise BadInput(f"--images {arguments.images}: images of {list(pool.shape[1:])}, but the classifier takes {taken}")
    result, network = distillation.distil(
        pool, inputs.classifiers, data, student, steps=arguments.steps, temperature=arguments.temperature,
        progress=lambda who, step, steps: print(f"student {who}: step {step}/{steps}", file=sys.stderr),
    )  # fmt: skip
    if arguments.out is not None:
        checkpoint.write_atomic(arguments.out, cache.weights_as_bytes(network))
    print(json.dumps(result.to_json(), indent=2) if arguments.json else result.text())
