"""Flags that several commands share, the settings that result from them, and progress on stderr.

Heavy imports are inside functions, so that `--help` is fast.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from gbc.command_line import positive, seed

if TYPE_CHECKING:
    from gbc.classifiers.fit import ProgressCallback
    from gbc.config import ClassifierConfig, TrialConfig

Commands: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"


def add_trial(parser: argparse.ArgumentParser) -> None:
    """Declare the flags of a trial's settings: `--config`, `--set`, and the user's own classifier."""
    parser.add_argument("--config", type=Path, metavar="FILE", help="YAML with a trial's settings")
    add_set(parser)
    parser.add_argument(
        "--classifier", metavar="NAME", help="conv, lenet5, mlp, mlp_bn, resnet, or package.module:factory of your own"
    )
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


def trial(arguments: argparse.Namespace) -> TrialConfig:
    """The settings that result from the flags of `add_trial`.

    Raises:
        BadInput: a file, key or value that cannot be used.
    """
    from gbc.config import TrialConfig, classifier_flags
    from gbc.settings import load_yaml

    base = TrialConfig.parse(load_yaml(arguments.config) if arguments.config else {}, str(arguments.config))
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
