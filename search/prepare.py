"""Before anything is started: the data, the classifier, and a few steps with them, so that faults show early."""

from __future__ import annotations

import platform
import subprocess
import time
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

import torch
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from gbc import datasets, pretrain
from gbc.classifiers import Classifier
from gbc.config import ClassifierConfig, TrialConfig
from gbc.datasets import ImageDataset
from gbc.trainer import Trainer
from search.engine import Machine

CLASSIFIERS: Final = Path("mlruns") / "classifiers"
_PROBE_STEPS: Final = 6


@dataclass(frozen=True)
class Prepared:
    """What every trial of a sweep shares."""

    data: ImageDataset
    classifier_folder: Path
    steps_per_second: float
    """Of one trial alone, measured with the settings that are not searched."""

    def origin(self) -> dict[str, str]:
        """Where numbers come from, as MLflow tags: versions, commit, digests."""
        tags = {f"version.{package}": version(package) for package in ("torch", "ray", "optuna", "mlflow", "numpy")}
        tags["version.python"] = platform.python_version()
        tags["data.digest"] = self.data.digest()
        tags["classifier.digest"] = self.classifier_folder.name.rpartition("-")[2]
        root = Path(__file__).resolve().parents[1]
        found = subprocess.run(["git", "-C", str(root), "rev-parse", "HEAD"], capture_output=True, text=True, check=False)
        if found.returncode == 0:  # else: not a checkout
            tags["mlflow.source.git.commit"] = found.stdout.strip()
        return tags


def prepare(settings: TrialConfig, machine: Machine, console: Console) -> Prepared:
    """Load the data, train the classifier or find it in the cache, and take a few steps.

    Raises:
        BadInput: whatever would make every trial fail.
    """
    data = datasets.load(settings.dataset)
    with _Bar(settings.classifier, console) as bar:
        classifier, regime, folder = pretrain.obtain(settings.classifier, data, CLASSIFIERS, bar.show)
    console.print(
        f"classifier {settings.classifier.label}: {regime['steps']} steps, loss {regime['loss']:.4f}, "
        f"training accuracy {regime['accuracy']:.3f}, smallest margin {regime['margins']['min']:.2f}  ({folder})",
        highlight=False, soft_wrap=True,
    )  # fmt: skip
    # For good: from here on the driver's own threads would only compete with the trials.
    torch.set_num_threads(machine.threads)
    return Prepared(data, folder, _steps_per_second(settings, classifier))


def _steps_per_second(settings: TrialConfig, classifier: Classifier) -> float:
    trainer = Trainer(settings, classifier)
    trainer.step()  # the first one allocates
    began = time.perf_counter()
    for _ in range(_PROBE_STEPS):
        trainer.step()
    if trainer.device.type == "cuda":
        torch.cuda.synchronize()
    return _PROBE_STEPS / (time.perf_counter() - began)


class _Bar(Progress):
    """Progress of the classifier's training: a bar on a terminal, ten plain lines elsewhere; nothing when it is cached."""

    def __init__(self, config: ClassifierConfig, console: Console) -> None:
        columns = (
            TextColumn(f"classifier {config.label}"),
            BarColumn(),
            TextColumn("step {task.completed}/{task.total}  loss {task.fields[loss]:.4f}"),
            TimeRemainingColumn(),
        )
        super().__init__(*columns, console=console, transient=True, disable=not console.is_terminal)
        self._name = config.label
        self._task: Any = None

    def show(self, step: int, steps: int, loss: float) -> None:
        if self._task is None:
            self._task = self.add_task("", total=steps, loss=loss)
        self.update(self._task, completed=step, loss=loss)
        if not self.console.is_terminal and step % max(1000, steps // 10) == 0:
            self.console.print(f"classifier {self._name}  step {step}/{steps}  loss {loss:.4f}", highlight=False)
