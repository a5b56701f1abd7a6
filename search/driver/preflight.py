"""Preparation before any trial starts: data, classifier and a step with them, so that faults show early."""

from __future__ import annotations

import json
import platform
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

import torch
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from gbc.classifier_config import ClassifierConfig
from gbc.classifiers.fit import ProgressCallback
from gbc.config import TrialConfig
from gbc.errors import BadInput
from gbc.runtime import is_out_of_memory, pick_device, release_memory
from gbc.training import tasks
from gbc.training.cuda_graph import STEPS_BEFORE_REPLAY
from gbc.training.tasks import TrialInputs
from gbc.training.trainer import Trainer
from search.driver.resources import Machine
from search.files import shared_classifiers, storage
from search.files.paths import CLASSIFIERS
from search.spec.config import SweepConfig
from search.study import warm_start
from search.tracking import sinks

_PROBE_STEPS: Final = 6
_SIZES: Final = ("batch_size", "width", "channels", "noise_dim", "multiplier_width", "eval_per_class")
_METRICS_OF: Final = {
    "stationarity_weight": ("kkt/rho", "free/rho", "loss/stationarity"), "beta": ("loss/duality",),
    "bn_weight": ("loss/bn", "free/bn"),
}  # fmt: skip
"""The metrics that are reported only with the loss of a setting."""
_CONTEXT: Final = 600 * 2**20  # bytes of a process on a GPU before its first tensor: CUDA's context, cuBLAS, cuDNN
_MARGIN: Final = 1.15  # fragments, and evaluations that meet


@dataclass(frozen=True)
class Variant:
    """A classifier that trials of a sweep may have, or the only one, with the settings of a trial that has it."""

    settings: TrialConfig
    """Those that are not searched, beside the choices that make the classifier."""
    row_space: TrialConfig
    """The same with the largest weight on the row space that such a trial may have."""
    searched: frozenset[str]
    """The settings that such a trial may search."""

    def remarks(self, inputs: TrialInputs, findings: Sequence[Mapping[str, Any]], *, several: bool) -> list[str]:
        """Lines about losses that are off, and about Λ; each names the classifier where there are `several`."""
        name = f"{self.settings.classifier.label}: " if several else ""
        return [f"{name}{line}" for line in tasks.remarks(findings, self.settings, self.searched)]


def variants(config: SweepConfig) -> list[Variant]:
    """The variants of a trial, one for each classifier of the space."""
    space = config.search_space
    by_classifier: dict[str, Variant] = {}
    for params in space.classifiers():
        settings = config.trial.updated(params, "space") if params else config.trial
        searched = space.possible(params)
        weight = max(config.space["row_space_weight"].bounds()) if "row_space_weight" in searched else settings.row_space_weight
        row_space = settings.updated({"row_space_weight": weight}, "space")
        digest = settings.classifier.digest()
        if digest not in by_classifier or by_classifier[digest].row_space.row_space_weight < row_space.row_space_weight:
            by_classifier[digest] = Variant(settings, row_space, frozenset(searched))
    return list(by_classifier.values())


@dataclass(frozen=True)
class PreparedVariant:
    """A variant with its classifiers and data."""

    variant: Variant
    inputs: TrialInputs
    findings: tuple[dict[str, Any], ...]
    """Λ of each classifier, and the losses that it cannot have."""

    @property
    def settings(self) -> TrialConfig:
        """Settings of a trial: those that are not searched."""
        return self.variant.settings

    def steps_per_second(self) -> float:
        """Measure the speed of one trial alone; nothing else should be going on."""
        trainer = Trainer(self.settings, self.inputs.classifiers)
        on_gpu = trainer.device.type == "cuda"
        for _ in range(STEPS_BEFORE_REPLAY if on_gpu else 1):  # the first one allocates
            trainer.step()
        if on_gpu:
            torch.cuda.synchronize(trainer.device)
        began = time.perf_counter()
        for _ in range(_PROBE_STEPS):
            trainer.step()
        if on_gpu:
            torch.cuda.synchronize(trainer.device)
        speed = _PROBE_STEPS / (time.perf_counter() - began)
        del trainer
        release_memory()  # this process lives beside the trials
        return speed


@dataclass(frozen=True)
class Preparation:
    """The things that the trials of a sweep share."""

    variants: tuple[PreparedVariant, ...]
    """One for each classifier that trials may have."""
    memory: tuple[int, int] | None = None
    """Bytes of a GPU's memory: what one trial takes at most, and what is free. None where trials compute on CPUs."""

    @property
    def inputs(self) -> TrialInputs:
        """The inputs with the first classifier; the data are the same with each."""
        return self.variants[0].inputs

    def steps_per_second(self) -> float:
        """Measure the speed of one trial alone, with the slowest classifier."""
        return min(variant.steps_per_second() for variant in self.variants)

    def origin(self) -> dict[str, str]:
        """Provenance as MLflow tags: versions, commit, digests."""
        tags = {f"version.{package}": version(package) for package in ("torch", "ray", "optuna", "mlflow", "numpy")}
        tags["version.python"] = platform.python_version()
        tags["data.digest"] = self.inputs.data.digest()
        tags["classifier.digest"] = " ".join(name.rpartition("-")[2] for name in self._by_folder())
        root = Path(__file__).resolve().parents[2]
        commit = subprocess.run(["git", "-C", str(root), "rev-parse", "HEAD"], capture_output=True, text=True, check=False)
        if commit.returncode == 0:  # else: not a checkout
            tags["mlflow.source.git.commit"] = commit.stdout.strip()
        return tags

    def regimes(self) -> str:
        """The regime that the training of each classifier reached, its findings and class names, by folder name, as JSON."""
        return json.dumps(self._by_folder(), indent=2)

    def _by_folder(self) -> dict[str, dict[str, Any]]:
        by_folder = {}
        for variant in self.variants:
            inputs = variant.inputs
            of_each = zip(inputs.folders, inputs.regimes, variant.findings, inputs.classifiers, strict=True)
            for folder, regime, findings, classifier in of_each:
                by_folder[folder.name] = {**regime, **findings, "class_names": list(classifier.class_names)}
        return by_folder


def prepare(config: SweepConfig, machine: Machine, console: Console) -> Preparation:
    """Load the data, train every classifier that trials may have or find it in the cache, and take a step with it.

    A classifier that `--storage` holds is not trained again, and one that it lacks is put there for the nodes.

    Raises:
        BadInput: whatever would make every trial, or every one with some classifier, fail.
    """
    shared_at, printed_lines = config.places.storage, set[str]()

    def say(line: str) -> None:
        if line not in printed_lines:  # further classifiers (`experts`) are in every variant
            console.print(line, highlight=False, soft_wrap=True)
        printed_lines.add(line)

    prepared = []
    choices = variants(config)
    for variant in choices:
        with _TrainingBar(console) as bar:
            other_cache = shared_classifiers.storage_source(shared_at) if shared_at else None
            inputs = tasks.obtain(variant.row_space, CLASSIFIERS, bar.announce, other_cache)
        if shared_at:
            for folder in inputs.folders:
                shared_classifiers.upload(storage.open_storage(shared_at), folder)
        for folder, regime in zip(inputs.folders, inputs.regimes, strict=True):
            for line in _training_lines(folder.name, regime):
                say(line)
        findings = tuple(tasks.findings(variant.settings, inputs))
        _check_objectives(config, findings)
        for line in (
            *tasks.accuracy_remarks(inputs),
            *variant.remarks(inputs, findings, several=len(choices) > 1),
            *tasks.row_space_remarks(variant.row_space, inputs),
        ):
            say(line)
        prepared.append(PreparedVariant(variant, inputs, findings))
    # For good: from here on the driver's own threads would only compete with the trials.
    torch.set_num_threads(machine.threads)
    try:
        for ready in prepared:
            Trainer(ready.settings, ready.inputs.classifiers).step()
        if config.resources.gpus_per_trial == "auto" and pick_device(config.trial.device).type == "cuda":
            return Preparation(tuple(prepared), measure_memory(config, prepared))
    except RuntimeError as fault:
        if not is_out_of_memory(fault):
            raise
        raise BadInput("one trial alone takes more memory than the GPU has left; lower batch_size or width") from None
    return Preparation(tuple(prepared))


def _training_lines(name: str, regime: Mapping[str, Any]) -> list[str]:
    """The training that a classifier has had, and each change to the network that was loaded."""
    reached = (
        f"{regime['steps']} steps, loss {regime['loss']:.4f}, training accuracy {regime['accuracy']:.3f}, "
        f"smallest margin {regime['margins']['min']:.2f}"
        if "loss" in regime
        else "weights as given; how far their training came cannot be measured without images"
    )
    return [f"classifier {name}: {reached}", *(f"  {change}" for change in regime.get("changes", ()))]


def _check_objectives(config: SweepConfig, findings: Sequence[Mapping[str, Any]]) -> None:
    """Check that the losses of the objectives are not off for all classifiers.

    Raises:
        BadInput: a metric that no trial would report.
    """
    wanted = [metric for objective in config.objectives for metric in (objective.metric, *(objective.require or {}))]
    off = [finding.get("off", {}) for finding in findings]
    for setting, metrics in _METRICS_OF.items():
        if all(setting in finding for finding in off) and (unreported := [metric for metric in wanted if metric in metrics]):
            raise BadInput(f"objective {unreported[0]} is not reported, because {off[0][setting]}; choose another --objective")


def check(config: SweepConfig) -> list[str]:
    """Refuse what can be refused without training a classifier, starting Ray or writing a file: a trial takes a step.

    Returns lines about losses that are off, and about Λ.

    Data that would have to be downloaded first are not looked at. No server is asked, and no folder of a cluster is looked
    for: its sweep may be checked far from it.

    Raises:
        BadInput: what `prepare`, or a start of the sweep, would refuse.
    """
    if config.places.address is None:
        Machine.local(config.resources)
        if config.places.storage is not None and isinstance(at := storage.open_storage(config.places.storage), Path):
            storage.check_folder(at)
    sinks.check(config)
    warm_start.load(config)
    lines: dict[str, None] = {}
    choices = variants(config)
    for variant in choices:
        if (inputs := untrained_inputs(variant.row_space)) is None:
            continue
        findings = tasks.findings(variant.row_space, inputs)
        _check_objectives(config, findings)
        lines |= dict.fromkeys(variant.remarks(inputs, findings, several=len(choices) > 1))
        # `alpha: last_layer` asks for a classifier that has converged.
        settings = variant.row_space.model_copy(update={"alpha": "learned"})
        Trainer(settings, inputs.classifiers, inputs.reference("cpu")).step()
    return list(lines)


def untrained_inputs(settings: TrialConfig) -> TrialInputs | None:
    """The data, and classifiers before their training; None where data may have to be downloaded first.

    Takes milliseconds, so that a wrong name or a missing file is said before Ray starts.

    Raises:
        BadInput: data, a network or weights that cannot be had.
    """
    if any(spec.dataset.download for spec in settings.classifiers()):
        return None
    return tasks.untrained(settings)


def measure_memory(config: SweepConfig, prepared: Sequence[PreparedVariant]) -> tuple[int, int]:
    """Measure the GPU memory that the largest trial of the space takes up to its first report, and what is free now.

    Of several classifiers it is that of the one that takes most, of several GPUs the least that is free on one.
    """
    device, needs = pick_device(config.trial.device), []
    for ready in prepared:
        release_memory()
        torch.cuda.reset_peak_memory_stats(device)
        for _ in Trainer(probe_settings(config, ready.variant), ready.inputs.classifiers, ready.inputs.reference(device)).run():
            pass
        needs.append(int((torch.cuda.max_memory_reserved(device) + _CONTEXT) * _MARGIN))
    release_memory()
    return max(needs), min(torch.cuda.mem_get_info(number)[0] for number in range(torch.cuda.device_count()))


def probe_settings(config: SweepConfig, variant: Variant) -> TrialConfig:
    """The largest trial of a variant, as short as it can be with all that takes memory: every loss, a CUDA graph, a report."""
    # Losses that start late would begin a new graph, which so few steps do not reach.
    short = {"steps": _PROBE_STEPS, "report_every": _PROBE_STEPS, "kkt_from": 0.0}
    return largest_trial(config, variant).model_copy(update=short)


def largest_trial(config: SweepConfig, variant: Variant) -> TrialConfig:
    """The trial of a variant that takes the most memory: the upper end of every searched size, constraints aside."""
    return variant.settings.updated(
        {key: max(config.space[key].bounds()) for key in _SIZES if key in variant.searched},
        "space",
    )


class _TrainingBar(Progress):
    """Progress of classifiers' training: a bar on a terminal, ten plain lines elsewhere; nothing for a cached one."""

    def __init__(self, console: Console) -> None:
        columns = (
            TextColumn("classifier {task.description}"),
            BarColumn(),
            TextColumn("step {task.completed}/{task.total}  loss {task.fields[loss]:.4f}"),
            TimeRemainingColumn(),
        )
        super().__init__(*columns, console=console, transient=True, disable=not console.is_terminal)

    def announce(self, config: ClassifierConfig) -> ProgressCallback:
        shown: list[TaskID] = []

        def show(step: int, steps: int, loss: float) -> None:
            if not shown:
                shown.append(self.add_task(config.label, total=steps, loss=loss))
            self.update(shown[0], completed=step, loss=loss)
            if not self.console.is_terminal and step % max(1000, steps // 10) == 0:
                self.console.print(f"classifier {config.label}  step {step}/{steps}  loss {loss:.4f}", highlight=False)

        return show
