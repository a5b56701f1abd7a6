"""The flags of `search/run.py` that set something, each beside the key of `SweepConfig` that it sets.

A flag without a key is read by `settings` itself. Nothing here needs pydantic, so that `--help` is there at once.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

from gbc.command_line import real, seed, whole
from gbc.errors import BadInput
from search.spec.presets import preset_help


class Flag(NamedTuple):
    """One flag: its word, the dotted key that it sets, what argparse is told, and its help."""

    word: str
    key: str | None
    help: str | Callable[[], str]
    metavar: str | None = None
    type: Callable[[str], Any] | None = None
    options: Mapping[str, Any] = {}

    @property
    def name(self) -> str:
        """The word as argparse and Python name it: `time_budget`."""
        return self.word.lstrip("-").replace("-", "_")


def minutes(text: str) -> float:
    """`90s`, `45m`, `8h`, or a bare number of minutes, as minutes."""
    units = {"s": 1 / 60, "m": 1.0, "h": 60.0}
    number, unit = (text[:-1], text[-1]) if text[-1:] in units else (text, "m")
    try:
        amount = float(number) * units[unit]
    except ValueError:
        amount = math.nan
    if not math.isfinite(amount):
        raise argparse.ArgumentTypeError(f"{text[:60]!r}: write for example 90s, 45m or 8h")
    return amount


def gpus(text: str) -> float | str:
    """A number, or `auto`."""
    try:
        return text if text == "auto" else real(text)
    except argparse.ArgumentTypeError:
        raise argparse.ArgumentTypeError(f"{text[:60]!r}: write a number, for example 0.25, or auto") from None


def absolute(text: str) -> str:
    """A path from the root on: workers run in other folders."""
    return str(Path(text).resolve())


def sink_names(text: str) -> list[str]:
    """Names with commas between them, each once; `none` for no name."""
    return [] if text == "none" else list(dict.fromkeys(name.strip() for name in text.split(",")))


PICTURES: Final = ("auto", "kitty", "iterm", "sixel", "none")


def pictures(text: str) -> str:
    """A way to show pictures in a terminal."""
    if text not in PICTURES:
        raise argparse.ArgumentTypeError(f"{text[:60]!r}: write one of {', '.join(PICTURES)}")
    return text


_EVERY: Final = {"action": "append", "default": []}

FLAGS: Final[dict[str, tuple[Flag, ...]]] = {
    "what to search": (
        Flag(
            "--dataset", None,
            "name of the data set, or none: a classifier without images (default: fashion_mnist, or images with --images)",
            "NAME",
        ),
        Flag("--preset", None, preset_help),
        Flag("--config", None, "a sweep file of your own instead of a preset", "FILE", Path),
        Flag("--name", "name", "name of the sweep (default: DATASET-PRESET)"),
        Flag(
            "--set", None, "fix a trial's setting, e.g. lr=1e-3 or classifier.hidden=1000", "KEY=VALUE", options=_EVERY
        ),
        Flag(
            "--classifier", None,
            "conv, lenet5, mlp, mlp_bn, resnet, torchvision:NAME, timm:NAME, a transformers folder, or package.module:factory",
            "NAME",
        ),
        Flag("--weights", None, "weights of that classifier: safetensors or a torch state dict", "FILE"),
        Flag("--card", None, "YAML about the weights (default: beside them, with suffix .yaml)", "FILE"),
        Flag("--images", "trial.dataset.path", "your own: a folder with one folder a class, or an .npz", "PATH", absolute),
        Flag(
            "--data-root", "trial.dataset.data_root",
            "a torchvision root with the full data set instead of the shipped subset", "DIR", absolute,
        ),
        Flag(
            "--download", "trial.dataset.download", "let torchvision fetch the data set into --data-root",
            options={"action": "store_true", "default": None},
        ),
    ),
    "how to search": (
        Flag("--trials", "trials", "how many settings to try, earlier runs included", type=whole),
        Flag("--steps", "trial.steps", "optimiser steps of a full trial", type=whole),
        Flag(
            "--time-budget", "time_budget",
            "wall time of all runs together, the start of workers included and the classifier's training not, e.g. 45m or 8h "
            "(a bare number: minutes)", "TIME", minutes,
        ),
        Flag("--max-steps", "max_steps", "optimiser steps of all trials together", "N", whole),
        Flag("--patience", "patience", "end when the best has not improved in K full trials", "K", whole),
        Flag(
            "--sampler", "sampler", "what proposes settings",
            options={"choices": ["tpe", "bohb", "random", "cmaes", "gp", "qmc", "grid"]},
        ),
        Flag(
            "--scheduler", "scheduler.name", "what stops bad trials early",
            options={"choices": ["asha", "hyperband", "median", "none"]},
        ),
        Flag(
            "--objective", None,
            "default: ssim/coverage, or free/score for dataset none; two with a comma give a Pareto front", "METRIC[:min|max]",
        ),
        Flag(
            "--require", None,
            "only a trial that ends with at least so much (at most, of losses and rho) can be the best, e.g. kkt/active=0.05",
            "METRIC=BOUND", options=_EVERY,
        ),
        Flag("--warm-start", "warm_start", "try the best settings of another sweep first, and learn from it", "SWEEP"),
        Flag("--warm-start-trials", "warm_start_trials", "how many settings of that sweep (default: 5)", "K", whole),
        Flag("--seed", "seed", "of the sampler and of every trial", type=seed),
        Flag("--retries", "retries", "new workers for a trial whose worker died (default: 2)", "N", whole),
        Flag(
            "--hang-limit", "hang_limit",
            "replace a worker that is silent for so long, e.g. 30m (default: at least 10m)", "TIME", minutes,
        ),
        Flag("--retry-failed", None, "run failed trials again, under their numbers", options={"action": "store_true"}),
        Flag(
            "--no-report", None, "at the end, do not measure and register the best, and write no report",
            options={"action": "store_true"},
        ),
        Flag(
            "--report-every", "report_every", "write the report while the sweep runs too, e.g. 5m (default: at its end alone)",
            "TIME", minutes,
        ),
        Flag(
            "--pictures", None,
            "how this terminal shows the samples of each new best trial (default: auto, as it can; none: their path alone)",
            "|".join(PICTURES), pictures, {"default": "auto"},
        ),
        Flag("--finalists", "finalists", "run the K best settings again at the end: the best mean wins", "K", whole),
        Flag("--seeds", "seeds", "on how many fresh seeds (default: 3)", "S", whole),
        Flag("--repeat", "repeat", "run every setting to its end, and again on R fresh seeds: small sweeps", "R", whole),
        Flag("--keep", "keep", "generators to keep on disk, the best (default: 5)", "K", whole),
    ),
    "on what": (
        Flag("--concurrency", "resources.concurrency", "trials at a time (default: as many as fit)", type=whole),
        Flag("--cpus-per-trial", "resources.cpus_per_trial", "CPUs, and threads, of a trial (default: 1)", type=real),
        Flag(
            "--gpus-per-trial", "resources.gpus_per_trial",
            "share of a GPU, or several (default: auto, measured: what its memory holds; not yet run on a GPU)", "N|auto", gpus,
        ),
        Flag("--pack", "resources.pack", argparse.SUPPRESS, type=whole),  # refused with a word (`Resources`)
        Flag("--address", "places.address", "a running Ray cluster, which this machine is a node of", "auto|HOST:PORT"),
        Flag(
            "--storage", "places.storage",
            "where trials keep their files: a folder that all nodes share, s3://…, gs://…", "DIR|URL",
        ),
        Flag(
            "--study-url", "places.study_url", "keep the study in PostgreSQL: postgresql://USER@HOST:5432/DATABASE", "URL"
        ),
        Flag(
            "--tracking-uri", "places.tracking_uri", "of an MLflow server (default: MLFLOW_TRACKING_URI, or mlflow.db)", "URI"
        ),
        Flag(
            "--log-to", "log_to", "send metrics and pictures there too, beside MLflow; none: end that",
            "tensorboard,wandb", sink_names, {"action": "extend"},
        ),
    ),
}  # fmt: skip

_ORIGINS: Final = {flag.key: flag.word for flags in FLAGS.values() for flag in flags if flag.key} | {
    "objective": "--objective", "second_objective": "--objective", "objective.require": "--require",
    "trial.classifier.name": "--classifier", "trial.classifier.factory": "--classifier",
    "trial.classifier.weights": "--weights", "trial.classifier.card": "--card",
}  # fmt: skip


def declare(cli: argparse.ArgumentParser) -> None:
    """Give `cli` every flag of the table."""
    for title, flags in FLAGS.items():
        group = cli.add_argument_group(title)
        for flag in flags:
            given = {"metavar": flag.metavar, "type": flag.type}
            options: dict[str, Any] = {name: value for name, value in given.items() if value}
            explanation = flag.help if isinstance(flag.help, str) else flag.help()
            group.add_argument(flag.word, help=explanation, **options, **flag.options)


def settings(arguments: argparse.Namespace) -> dict[str, Any]:
    """Settings that the flags set, by dotted key of `SweepConfig`; flags that were not given are absent.

    Raises:
        BadInput: an objective, a requirement or a classifier that is none.
    """
    from gbc.classifier_config import classifier_flags
    from search.spec.resolve import objective_flags, requirement_flags

    given = {flag.key: getattr(arguments, flag.name) for flags in FLAGS.values() for flag in flags if flag.key}
    chosen = {key: value for key, value in given.items() if value is not None}
    if arguments.objective:
        chosen = objective_flags(arguments.objective) | chosen
    chosen |= requirement_flags(arguments.require)
    classifier = classifier_flags(arguments.classifier, arguments.weights, arguments.card)
    return chosen | {f"trial.{key}": value for key, value in classifier.items()}


def from_options(options: Mapping[str, Any]) -> argparse.Namespace:
    """The arguments that a command line would give, from options of Python: `time_budget="2h"` for `--time-budget 2h`.

    Text is read as the flag reads it, numbers are taken as they are, and None stands for a flag that is not given. A mapping
    will do for `require`, a list of two for `objective`.

    Raises:
        BadInput: a name that no flag has, or a value that cannot be meant.
    """
    from gbc.settings import suggest

    cli = argparse.ArgumentParser()
    declare(cli)
    arguments = cli.parse_args([])
    known = {
        flag.name: flag for flags in FLAGS.values() for flag in flags if flag.word != "--set" and flag.help != argparse.SUPPRESS
    }
    for name, value in options.items():
        if name not in known:
            hint = "write settings={...}" if name == "set" else suggest(name, list(known))
            raise BadInput(f"{name}: is not an option of a sweep; {hint}")
        if value is not None:
            setattr(arguments, name, _read(known[name], value))
    return arguments


def _read(flag: Flag, value: Any) -> Any:
    """The value of a flag, given in Python; raises `BadInput`."""
    from gbc.settings import shown

    if flag.word == "--require" and isinstance(value, Mapping):
        return [f"{metric}={bound}" for metric, bound in value.items()]
    if flag.options is _EVERY or (flag.word == "--objective" and isinstance(value, list | tuple)):
        if not isinstance(value, list | tuple) or not all(isinstance(element, str) for element in value):
            raise BadInput(f"{flag.word}: expected a list of texts, found {shown(value)}")
        return ",".join(value) if flag.word == "--objective" else list(value)
    if flag.options.get("action") == "store_true":
        if not isinstance(value, bool):
            raise BadInput(f"{flag.word}: expected True or False, found {shown(value)}")
        return value or None
    if isinstance(value, str | Path):
        if not str(value).strip():
            raise BadInput(f"{flag.word}: the value is empty")
        try:
            return flag.type(str(value)) if flag.type else str(value)
        except argparse.ArgumentTypeError as fault:
            raise BadInput(f"{flag.word}: {fault}") from None
    if flag.type in (None, absolute, Path, pictures):
        raise BadInput(f"{flag.word}: expected text, found {shown(value)}")
    return value


def origins(flags: Sequence[str], assignments: Sequence[str]) -> dict[str, str]:
    """For each key that flags set, and each key of a trial that `--set` sets, the words that a person gave."""

    def flag_of(key: str) -> str:
        while key not in _ORIGINS and "." in key:
            key = key.rpartition(".")[0]
        return _ORIGINS.get(key, key)

    return {key: flag_of(key) for key in flags} | {f"trial.{key}": f"--set {key}" for key in assignments}


def without_secrets(message: str) -> str:
    """The message without passwords, keys and tokens. What knows them is imported when there is a fault to explain."""
    from records.addresses import redacted

    return redacted(message)
