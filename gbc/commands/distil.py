"""`python -m gbc distil`: train another network from a classifier and generated images, without data."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

from gbc.command_line import positive, real, seed
from gbc.commands import options
from gbc.commands.options import Commands

if TYPE_CHECKING:
    from torch import Tensor, nn

    from gbc.config import TrialConfig
    from gbc.data.samples import ImageDataset
    from gbc.metrics.distillation import Lesson
    from gbc.training.tasks import TrialInputs

_MOST_IMAGES: Final = 1_000_000
_SHOWN_EVERY: Final = 100
_SAVED_EVERY: Final = 500


class _Source(NamedTuple):
    """The teachers, and what their student learns from."""

    settings: TrialConfig
    inputs: TrialInputs
    images: Tensor | None
    """Generated images [K, channels, height, width]; None with `--loop`, which makes them as the student learns."""
    weights: Mapping[str, Tensor] | None
    """Those of an exported generator, with which `--loop` starts."""
    data: ImageDataset | None
    """Real images to measure on; None if there are none."""


def add(commands: Commands) -> None:
    """Declare the command."""
    parser = commands.add_parser("distil", help="train another network on generated images alone, and measure it on real ones")
    source = parser.add_mutually_exclusive_group()
    source.add_argument("--model", metavar="DIR", type=Path, help="folder of the exported generator, with its classifiers")
    source.add_argument(
        "--samples", metavar="FILE", type=Path, help=".npz of `sample` or `baseline`; the teacher is that of --config or --set"
    )
    source.add_argument("--blobs", action="store_true", help="random blobs on black; the teacher is that of --config or --set")
    options.add_trial(parser)
    parser.add_argument(
        "--student",
        default="conv",
        metavar="NAME",
        help="conv (default), lenet5, mlp, mlp_bn, resnet, or package.module:factory",
    )
    parser.add_argument("--hidden", type=positive, default=128, help="width of the student's hidden layers (default: 128)")
    parser.add_argument(
        "--count", type=positive, default=10_000, help="images of --model or --blobs, or kept by --loop (default: 10000)"
    )
    parser.add_argument("--steps", type=positive, default=3000, help="training steps of each student (default: 3000)")
    parser.add_argument(
        "--student-lr", type=real, default=1e-3, metavar="LR", help="learning rate of each student at the start (default: 1e-3)"
    )
    parser.add_argument("--temperature", type=real, default=4.0, help="of the teacher's probabilities (default: 4)")
    parser.add_argument(
        "--fresh-targets",
        action="store_true",
        help="ask the teacher about images as they are moved, at every step, not once before (--loop always does)",
    )
    parser.add_argument(
        "--start",
        choices=("random", "teacher"),
        default="random",
        help="of each student: random weights (default), or a narrower copy of the teacher",
    )
    parser.add_argument("--seed", type=seed, default=0)
    parser.add_argument(
        "--device",
        metavar="NAME",
        help="auto (a GPU if there is one), cpu or cuda (default: the trial's setting device, auto)",
    )
    loop = parser.add_argument_group("a generator that learns with the student, from --model or from the start")
    loop.add_argument("--loop", metavar="METHOD", help="gbc, or a baseline of the literature: dafl, dfad")
    loop.add_argument(
        "--student-steps", type=positive, default=5, metavar="N", help="of each step of the generator (default: 5)"
    )
    loop.add_argument(
        "--disagreement", type=real, default=1.0, metavar="W", help="weight of teacher against student (default: 1)"
    )
    parser.add_argument(
        "--out", type=Path, metavar="FILE", help="write the student's weights, safetensors; with --loop run again to continue"
    )
    options.add_real_images(parser)
    options.add_cache(parser)
    options.add_json(parser)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> None:
    """Print the accuracies of teacher and student on real test images; where there are none, only teach and say so."""
    from gbc import cache, checkpoint, export
    from gbc.classifier_config import ClassifierConfig
    from gbc.classifiers import architectures
    from gbc.errors import BadInput
    from gbc.metrics import distillation
    from gbc.runtime import pick_device

    if not arguments.temperature > 0:
        raise BadInput(f"--temperature {arguments.temperature}: must be above 0")
    if not arguments.student_lr > 0:
        raise BadInput(f"--student-lr {arguments.student_lr}: must be above 0")
    if arguments.disagreement < 0:
        raise BadInput(f"--disagreement {arguments.disagreement}: must not be below 0")
    if arguments.count > _MOST_IMAGES:
        raise BadInput(f"--count {arguments.count}: {_MOST_IMAGES} at most, because all are held in memory")
    if arguments.out is not None:
        export.check_new(arguments.out)
    named = {**ClassifierConfig.named(arguments.student), "hidden": arguments.hidden, "seed": arguments.seed}
    student = ClassifierConfig.parse(named, "--student")
    architectures.check_name(student)  # before images are drawn and a teacher is trained
    source = _of_model(arguments) if arguments.model else _of_trial(arguments)
    lesson = distillation.Lesson(
        source.inputs.classifiers, student, arguments.steps, arguments.temperature, arguments.student_lr,
        lambda student, step, steps: print(f"student {student}: step {step}/{steps}", file=sys.stderr),
        arguments.start, arguments.fresh_targets, pick_device(source.settings.device),
    )  # fmt: skip
    network = (
        _in_a_loop(arguments, source, lesson) if source.images is None else lesson.teach(source.images, "on generated images")
    )
    if arguments.out is not None:
        checkpoint.write_atomic(arguments.out, cache.weights_as_bytes(network))
        _unfinished(arguments.out).unlink(missing_ok=True)
    if source.data is None:
        print(
            json.dumps({"out": str(arguments.out)}) if arguments.json else f"{arguments.out}  not tested: there are no images"
        )
        return
    result = distillation.measure(lesson, network, source.data)
    print(json.dumps(result.to_json(), indent=2) if arguments.json else result.text())


def _of_model(arguments: argparse.Namespace) -> _Source:
    """The classifiers of an exported generator, its samples, and real images unless there are none."""
    from gbc import export
    from gbc.errors import BadInput
    from gbc.training import tasks

    generator = export.load(arguments.model)
    settings = generator.settings.updated({"device": "auto"}, "distil")  # that of its training may be another machine's
    if arguments.loop:
        settings = settings.updated(options.assignments(arguments), "--set")
    settings = _on_device(settings, arguments)
    blind = settings.data_free and not (arguments.images or arguments.dataset)
    if blind and arguments.out is None:
        raise BadInput(
            f"{arguments.model}: was trained without images; give --out FILE for the student, or --images PATH to test it"
        )
    # The teachers are those of the generator; other test images make no other teacher.
    data = None if blind else options.real_images(generator, arguments)[0]
    inputs = tasks.obtain(settings, arguments.cache, options.announce)
    if arguments.loop:
        return _Source(settings, inputs, None, generator.module.state_dict(), data)
    classes = len(generator.class_names)
    images = generator.sample([number % classes for number in range(arguments.count)], arguments.seed)
    return _Source(settings, inputs, images, None, data)


def _of_trial(arguments: argparse.Namespace) -> _Source:
    """The classifiers of a trial's settings, the images of a file or none for a loop, and the real images of the settings."""
    from gbc.data import blobs, datasets, own_images
    from gbc.data.samples import tensors
    from gbc.errors import BadInput
    from gbc.training import tasks

    if not (arguments.samples or arguments.blobs or arguments.loop):
        raise BadInput("give --model DIR, or for the teacher of --config or --classifier one of --samples, --blobs and --loop")
    if (arguments.samples or arguments.blobs) and arguments.loop:
        given = f"--samples {arguments.samples}" if arguments.samples else "--blobs"
        raise BadInput(f"{given}: --loop makes its images itself; leave one of the two out")
    if arguments.images or arguments.dataset or arguments.per_class:
        raise BadInput("--images, --dataset and --per-class are for --model; without it set dataset.name and the like")
    settings = _on_device(options.trial(arguments), arguments)
    images = tensors(*own_images.read_set(arguments.samples))[0] if arguments.samples else None
    if settings.data_free and arguments.out is None:
        raise BadInput("dataset none: there are no images to test the student on; give --out FILE for its weights")
    inputs = tasks.obtain(settings, arguments.cache, options.announce)
    if arguments.blobs:
        if len(inputs.classifier.shape) != 3:
            raise BadInput("--blobs is for classifiers of images, not of points")
        images = blobs.blobs(arguments.count, inputs.classifier.shape, arguments.seed)
    if images is not None and images.shape[1:] != inputs.classifier.shape:
        taken = list(inputs.classifier.shape)
        raise BadInput(f"--samples {arguments.samples}: images of {list(images.shape[1:])}, but the classifier takes {taken}")
    if settings.data_free:
        return _Source(settings, inputs, images, None, None)
    # As in `_of_model`, other test images make no other teacher.
    data = datasets.load(settings.rooted(arguments.data_root).dataset) if arguments.data_root else inputs.images
    return _Source(settings, inputs, images, None, data)


def _on_device(settings: TrialConfig, arguments: argparse.Namespace) -> TrialConfig:
    """The settings with the device of `--device`. Raises BadInput if this machine lacks it."""
    from gbc.runtime import pick_device

    if arguments.device:
        settings = settings.updated({"device": arguments.device}, "--device")
    pick_device(settings.device)  # before a teacher is trained
    return settings


def _in_a_loop(arguments: argparse.Namespace, source: _Source, lesson: Lesson) -> nn.Module:
    """The student of a loop. With `--out` the loop is saved at intervals, and a run that was broken off continues.

    Raises:
        BadInput, CorruptFile: what a run with other settings left beside `--out`, or a damaged file; or as `StudentLoop`.
    """
    import torch

    from gbc import checkpoint
    from gbc.errors import BadInput
    from gbc.training.student_loop import LoopSettings, StudentLoop

    settings = LoopSettings(arguments.loop, arguments.student_steps, arguments.count, arguments.disagreement)
    loop = StudentLoop(source.settings, lesson, settings, source.weights)
    identity = {
        **asdict(settings), "trial": source.settings.digest(), "student": lesson.student.digest(), "steps": lesson.steps,
        "temperature": lesson.temperature, "lr": lesson.lr, "start": lesson.start, "model": str(arguments.model),
    }  # fmt: skip
    unfinished = _unfinished(arguments.out) if arguments.out else None
    if unfinished and unfinished.exists():
        state = checkpoint.load(unfinished)
        if state["identity"] != identity:
            raise BadInput(f"{unfinished}: was written with other settings; remove it, or choose another --out")
        loop.load_state_dict(state["loop"])
        print(f"continues at step {loop.step_count}", file=sys.stderr)
    shown = saved = loop.step_count
    for loss in loop.run():
        if loop.step_count >= shown + _SHOWN_EVERY or loop.step_count == lesson.steps:
            shown = loop.step_count
            print(f"student in the loop: step {shown}/{lesson.steps}  loss {loss:.4f}", file=sys.stderr)
        if unfinished and loop.step_count >= saved + _SAVED_EVERY:
            saved = loop.step_count
            checkpoint.save(unfinished, {"identity": identity, "loop": loop.state_dict()})
    return loop.student.eval().to(memory_format=torch.contiguous_format)


def _unfinished(out: Path) -> Path:
    """The checkpoint of a loop whose student goes to `out`."""
    return out.with_name(out.name + ".ckpt")
