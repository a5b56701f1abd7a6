"""Flags that several commands share, the settings that result from them, and progress on stderr.

Heavy imports are inside functions, so that `--help` is fast.
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from gbc.command_line import positive, seed

if TYPE_CHECKING:
    from gbc.classifier_config import ClassifierConfig, DatasetConfig
    from gbc.classifiers.fit import ProgressCallback
    from gbc.config import TrialConfig
    from gbc.data.samples import ImageDataset
    from gbc.export.drawing import ExportedGenerator

Commands: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"


def add_trial(parser: argparse.ArgumentParser) -> None:
    """Declare the flags of a trial's settings: `--config`, `--set`, and the user's own classifier."""
    parser.add_argument("--config", type=Path, metavar="FILE", help="YAML with a trial's settings")
    add_set(parser)
    parser.add_argument(
        "--classifier", metavar="NAME",
        help="conv, lenet5, mlp, mlp_bn, resnet, torchvision:NAME, timm:NAME, a transformers folder, or package.module:factory",
    )  # fmt: skip
    parser.add_argument("--weights", metavar="FILE", help="weights of that classifier: safetensors or a torch state dict")
    parser.add_argument("--card", metavar="FILE", help="YAML about the weights (default: beside them, with suffix .yaml)")


def add_set(parser: argparse.ArgumentParser) -> None:
    """Declare `--set KEY=VALUE`, which may be repeated."""
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="a trial's setting, e.g. lr=1e-3")


def add_cache(parser: argparse.ArgumentParser) -> None:
    """Declare `--cache DIR`, the folder of trained classifiers."""
    parser.add_argument(
        "--cache", type=Path, default=Path("mlruns/classifiers"), metavar="DIR", help="folder of trained classifiers"
    )


def add_json(parser: argparse.ArgumentParser) -> None:
    """Declare `--json`."""
    parser.add_argument("--json", action="store_true", help="print the result as JSON")


def add_figure(parser: argparse.ArgumentParser, name: str) -> None:
    """Declare the flags of a command that draws the figure `name`: `--out`, `--steps`, `--seed`, `--cache` and `--json`."""
    parser.add_argument("--out", required=True, metavar="DIR", type=Path, help=f"folder of {name}.png and {name}.json")
    parser.add_argument("--steps", type=positive, metavar="N", help="optimiser steps of each generator")
    parser.add_argument("--seed", type=seed, default=0, help="seed of all random numbers")
    add_cache(parser)
    add_json(parser)


def add_model(parser: argparse.ArgumentParser) -> None:
    """Declare `--model DIR`."""
    parser.add_argument("--model", required=True, metavar="DIR", type=Path, help="folder of the exported generator")


def add_real_images(parser: argparse.ArgumentParser) -> None:
    """Declare `--images`, `--dataset`, `--data-root` and `--per-class`: real images for an exported generator."""
    source = parser.add_mutually_exclusive_group()
    source.add_argument("--images", metavar="PATH", help="real images: a folder with one folder a class, or an .npz")
    source.add_argument("--dataset", metavar="NAME", help="real images of this data set (default: the classifier's)")
    parser.add_argument("--data-root", metavar="DIR", help="torchvision root with the full data set")
    parser.add_argument(
        "--per-class", type=positive, metavar="N",
        help="with --images or --dataset: so many images of each class stand for training images (default: 50)",
    )  # fmt: skip


def real_images(generator: ExportedGenerator, arguments: argparse.Namespace) -> tuple[ImageDataset, DatasetConfig | None]:
    """The images that the flags of `add_real_images` name, else the classifier's; and their settings if they are of one task.

    Raises:
        BadInput: images that do not fit the generator, or none are named for a generator that was trained without.
    """
    from gbc.classifier_config import DatasetConfig
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
    if len(merged.class_names) == len(generator.class_names):  # the card of the user's weights may have other names for them
        merged = dataclasses.replace(merged, class_names=generator.class_names)
    return merged, settings.dataset if len({spec.task for spec in settings.classifiers()}) == 1 else None


def trial(arguments: argparse.Namespace) -> TrialConfig:
    """The settings that result from the flags of `add_trial`.

    Raises:
        BadInput: a file, key or value that cannot be used.
    """
    from gbc.classifier_config import classifier_flags
    from gbc.config import TrialConfig
    from gbc.errors import BadInput
    from gbc.settings import load_yaml

    data = load_yaml(arguments.config) if arguments.config else {}
    if "trial" in data or "space" in data:
        raise BadInput(
            f"{arguments.config}: the file of a sweep, and this command takes the settings of one trial, as in configs/trials; "
            f"python search/run.py --config {arguments.config} runs the sweep"
        )
    base = TrialConfig.parse(data, str(arguments.config))
    base = base.updated(assignments(arguments), "--set")
    return base.updated(classifier_flags(arguments.classifier, arguments.weights, arguments.card), "command line")


def assignments(arguments: argparse.Namespace) -> dict[str, Any]:
    """Settings from the `--set` flags, by dotted key. Raises as `parse_assignment`."""
    from gbc.settings import parse_assignment

    return dict(map(parse_assignment, arguments.set))


def announce(config: ClassifierConfig) -> ProgressCallback:
    """A function that prints the progress of a classifier's training on stderr."""

    def show(step: int, steps: int, loss: float) -> None:
        if step % max(1000, steps // 10) == 0:
            print(f"classifier {config.label}  step {step}/{steps}  loss {loss:.4f}", file=sys.stderr)

    return show
