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
class Preparation:
    """The things that every trial of a sweep shares."""

    inputs: TrialInputs
    settings: TrialConfig
    """Those that are not searched."""
    findings: tuple[dict[str, Any], ...]
    """Λ of each classifier, and the losses that it cannot have."""
    memory: tuple[int, int] | None = None
    """Bytes of a GPU's memory: what one trial takes at most, and what is free. None where trials compute on CPUs."""

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

    def origin(self) -> dict[str, str]:
        """Provenance as MLflow tags: versions, commit, digests."""
        tags = {f"version.{package}": version(package) for package in ("torch", "ray", "optuna", "mlflow", "numpy")}
        tags["version.python"] = platform.python_version()
        tags["data.digest"] = self.inputs.data.digest()
        tags["classifier.digest"] = " ".join(folder.name.rpartition("-")[2] for folder in self.inputs.folders)
        root = Path(__file__).resolve().parents[2]
        commit = subprocess.run(["git", "-C", str(root), "rev-parse", "HEAD"], capture_output=True, text=True, check=False)
        if commit.returncode == 0:  # else: not a checkout
            tags["mlflow.source.git.commit"] = commit.stdout.strip()
        return tags

    def regimes(self) -> str:
        """The regime that the training of each classifier reached, its findings and class names, by folder name, as JSON."""
        of_each = zip(self.inputs.folders, self.inputs.regimes, self.findings, self.inputs.classifiers, strict=True)
        by_folder = {
            folder.name: {**regime, **findings, "class_names": list(classifier.class_names)}
            for folder, regime, findings, classifier in of_each
        }
        return json.dumps(by_folder, indent=2)


def prepare(config: SweepConfig, machine: Machine, console: Console) -> Preparation:
    """Load the data, train the classifier or find it in the cache, and take a step.

    A classifier that `--storage` holds is not trained again, and one that it lacks is put there for the nodes.

    Raises:
        BadInput: whatever would make every trial fail.
    """
    settings, shared_at = config.trial, config.places.storage
    with _TrainingBar(console) as bar:
        other_cache = shared_classifiers.storage_source(shared_at) if shared_at else None
        inputs = tasks.obtain(with_largest_row_space(config), CLASSIFIERS, bar.announce, other_cache)
    if shared_at:
        for folder in inputs.folders:
            shared_classifiers.upload(storage.open_storage(shared_at), folder)
    for folder, regime in zip(inputs.folders, inputs.regimes, strict=True):
        reached = (
            f"{regime['steps']} steps, loss {regime['loss']:.4f}, training accuracy {regime['accuracy']:.3f}, "
            f"smallest margin {regime['margins']['min']:.2f}"
            if "loss" in regime
            else "weights as given; how far their training came cannot be measured without images"
        )
        console.print(f"classifier {folder.name}: {reached}", highlight=False, soft_wrap=True)
        for change in regime.get("changes", ()):
            console.print(f"  {change}", highlight=False, soft_wrap=True)
    findings = tuple(tasks.findings(settings, inputs))
    _check_objectives(config, findings)
    for line in (
        *tasks.remarks(findings, settings, config.space),
        *tasks.row_space_remarks(with_largest_row_space(config), inputs),
    ):
        console.print(line, highlight=False, soft_wrap=True)
    # For good: from here on the driver's own threads would only compete with the trials.
    torch.set_num_threads(machine.threads)
    try:
        Trainer(settings, inputs.classifiers).step()
        if config.resources.gpus_per_trial == "auto" and pick_device(settings.device).type == "cuda":
            return Preparation(inputs, settings, findings, measure_memory(config, inputs))
    except RuntimeError as fault:
        if not is_out_of_memory(fault):
            raise
        raise BadInput("one trial alone takes more memory than the GPU has left; lower batch_size or width") from None
    return Preparation(inputs, settings, findings)


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
    settings = with_largest_row_space(config)
    if (inputs := untrained_inputs(settings)) is None:
        return []
    findings = tasks.findings(settings, inputs)
    _check_objectives(config, findings)
    remarks = list(tasks.remarks(findings, settings, config.space))
    # `alpha: last_layer` asks for a classifier that has converged.
    Trainer(settings.model_copy(update={"alpha": "learned"}), inputs.classifiers, inputs.reference("cpu")).step()
    return remarks


def untrained_inputs(settings: TrialConfig) -> TrialInputs | None:
    """The data, and classifiers before their training; None where data may have to be downloaded first.

    Takes milliseconds, so that a wrong name or a missing file is said before Ray starts.

    Raises:
        BadInput: data, a network or weights that cannot be had.
    """
    if any(spec.dataset.download for spec in settings.classifiers()):
        return None
    return tasks.untrained(settings)


def measure_memory(config: SweepConfig, inputs: TrialInputs) -> tuple[int, int]:
    """Measure the GPU memory that the largest trial of the space takes up to its first report, and what is free now.

    Of several GPUs it is the least that is free on one.
    """
    settings = probe_settings(config)
    device = pick_device(settings.device)
    release_memory()
    torch.cuda.reset_peak_memory_stats(device)
    for _ in Trainer(settings, inputs.classifiers, inputs.reference(device)).run():
        pass
    need = int((torch.cuda.max_memory_reserved(device) + _CONTEXT) * _MARGIN)
    release_memory()
    return need, min(torch.cuda.mem_get_info(number)[0] for number in range(torch.cuda.device_count()))


def probe_settings(config: SweepConfig) -> TrialConfig:
    """The largest trial of a sweep, as short as it can be with all that takes memory: every loss, a CUDA graph, a report."""
    # Losses that start late would begin a new graph, which so few steps do not reach.
    return largest_trial(config).model_copy(update={"steps": _PROBE_STEPS, "report_every": _PROBE_STEPS, "kkt_from": 0.0})


def largest_trial(config: SweepConfig) -> TrialConfig:
    """The trial of a sweep that takes the most memory: the upper end of every searched size."""
    return config.trial.updated(
        {key: max(config.space[key].bounds()) for key in _SIZES if key in config.space},
        "space",
    )


def with_largest_row_space(config: SweepConfig) -> TrialConfig:
    """The settings of a sweep with the largest weight on the row space that its trials may have."""
    weight = config.space.get("row_space_weight")
    return config.trial.updated({"row_space_weight": max(weight.bounds())} if weight else {}, "space")


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
