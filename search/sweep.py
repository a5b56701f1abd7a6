"""A sweep's life: open or continue its folder, prepare the classifier, run what is left, sum up."""

from __future__ import annotations

import json
import os
import platform
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import yaml
from rich.console import Console

from gbc import datasets, pretrain
from gbc.checkpoint import write_atomic
from gbc.config import TrialConfig, flatten, load_yaml
from gbc.datasets import ImageDataset
from gbc.errors import BadInput
from gbc.trainer import Trainer, derive
from search import space
from search.config import SweepConfig
from search.engine import Machine, run_ray
from search.ledger import STUDY_FILE, Entry, Ledger
from search.progress import Progress, duration, expected_steps
from search.recorder import Recorder, trial_folder
from search.tracking import Tracker
from search.trial import PICTURE, Assignment

SWEEPS: Final = Path("mlruns") / "sweeps"
CLASSIFIERS: Final = Path("mlruns") / "classifiers"
_PROBE_STEPS: Final = 6


class SweepMismatch(BadInput):
    """A sweep of this name was started with other settings."""

    def __init__(self, name: str, differences: dict[str, tuple[Any, Any]]) -> None:
        """`differences` maps each key to (asked for, on record)."""
        shown = "; ".join(f"{key}: {old} on record, {new} asked for" for key, (new, old) in differences.items())
        super().__init__(f"sweep {name!r} was started with other settings ({shown}); choose another --name or keep them")
        self.differences = differences


@dataclass(frozen=True)
class Summary:
    """How a sweep stands when a run of it ends."""

    name: str
    folder: str
    trials: int
    complete: int
    stopped: int
    failed: int
    open: int
    seconds: float
    finished: bool
    """Whether the budget is used up; otherwise the same command continues."""
    best_trial: int | None
    best_value: float | None
    best_metrics: dict[str, float]
    best_params: dict[str, Any]
    picture: str | None

    def to_json(self) -> str:
        """For `--json`."""
        return json.dumps(asdict(self), indent=2)


def folder_of(name: str) -> Path:
    """Where the sweep of this name lives."""
    return SWEEPS / name


def settle_with_record(config: SweepConfig, explicit: set[str]) -> SweepConfig:
    """What to run: `config`, or on the record's terms when the sweep exists.

    Budgets may grow: those named in `explicit` (`trials`, `time_budget`) are taken from `config`, the others from the record.

    Raises:
        SweepMismatch: any other setting differs.
    """
    path = folder_of(config.name) / "sweep.yaml"
    if not path.exists():
        return config
    record = SweepConfig.parse(load_yaml(path), str(path))
    if differences := config.differences(record):
        raise SweepMismatch(config.name, differences)
    kept = {key: getattr(record, key) for key in ("trials", "time_budget") if key not in explicit}
    return config.model_copy(update=kept)


def finished_summary(config: SweepConfig) -> Summary | None:
    """The summary of a sweep that has nothing left to do, at once and without Ray; None when there is work."""
    folder = folder_of(config.name)
    if not (folder / STUDY_FILE).exists():
        return None
    summary_file = folder / "summary.json"
    ledger = Ledger(config, folder)
    entries, seconds = ledger.entries(), ledger.seconds
    ledger.close()
    if any(not entry.finished for entry in entries) or not _used_up(config, len(entries), seconds):
        return None
    try:
        summary = Summary(**json.loads(summary_file.read_text()))
    except (OSError, ValueError, TypeError):
        return None  # it ended before its last word; a run with nothing to do writes it
    return summary if summary.finished and summary.trials == len(entries) else None


def run_sweep(config: SweepConfig, machine: Machine, console: Console) -> Summary:
    """Run what is left of a sweep, to its budget or to an interruption.

    Raises:
        BadInput: anything the user must mend; nothing was overwritten.
    """
    folder = folder_of(config.name)
    with _only_driver(folder):
        write_atomic(folder / "sweep.yaml", _dump(config).encode())
        data = datasets.load(config.trial.dataset)
        classifier_folder = _prepare_classifier(config, data, console)
        ledger = Ledger(config, folder)
        tracker = Tracker(config, _origin(data, classifier_folder))
        progress = Progress(config, console)
        recorder = Recorder(ledger, tracker, progress, folder)
        tracker.begin(
            {"sweep.yaml": _dump(config), "classifier.json": (classifier_folder / "regime.json").read_text()},
            flatten(config.model_dump(mode="json")),
        )
        recorder.catch_up()

        def assign(entry: Entry) -> Assignment:
            seed = derive(config.seed, entry.number)
            return Assignment(
                number=entry.number,
                acknowledged=entry.last_step,
                settings=space.settle(config.trial, entry.params, seed).model_dump(mode="json"),
                folder=str(trial_folder(folder, entry.number).resolve()),
                classifier=str(classifier_folder.resolve()),
                threads=machine.threads,
            )

        try:
            if _work_left(config, ledger):
                _announce(config, machine, ledger, console)
                for entry in ledger.entries():
                    progress.known(entry.number, entry.state, entry.last_step, tracker.metrics(entry.number), entry.reason)
                with progress:
                    run_ray(config, machine, ledger, recorder, assign, folder)
            if _time_up(config, recorder.elapsed()):
                recorder.close_time_budget()
        finally:
            recorder.finish()
            summary = _sum_up(config, ledger, tracker, folder)
            best = {f"best/{name}": value for name, value in summary.best_metrics.items()}
            tracker.end(
                "FINISHED" if summary.finished else "KILLED",
                best,
                summary.best_trial,
                Path(summary.picture) if summary.picture else None,
            )
            write_atomic(folder / "summary.json", summary.to_json().encode())
            ledger.close()
        return summary


def _used_up(config: SweepConfig, trials: int, seconds: float) -> bool:
    return trials >= config.trials or _time_up(config, seconds)


def _time_up(config: SweepConfig, seconds: float) -> bool:
    # Ray stops a moment before or after the second.
    return config.time_budget is not None and seconds >= config.time_budget * 60 - 2


def _work_left(config: SweepConfig, ledger: Ledger) -> bool:
    entries = ledger.entries()
    still_open = any(not entry.finished for entry in entries)
    return not _time_up(config, ledger.seconds) and (still_open or len(entries) < config.trials)


def _sum_up(config: SweepConfig, ledger: Ledger, tracker: Tracker, folder: Path) -> Summary:
    entries, best = ledger.entries(), ledger.best()
    count = {state: sum(entry.state == state for entry in entries) for state in ("complete", "stopped", "failed", "running")}
    picture = trial_folder(folder, best.number) / PICTURE if best else None
    return Summary(
        name=config.name,
        folder=str(folder),
        trials=len(entries),
        complete=count["complete"],
        stopped=count["stopped"],
        failed=count["failed"],
        open=count["running"],
        seconds=round(ledger.seconds, 1),
        finished=not count["running"] and _used_up(config, len(entries), ledger.seconds),
        best_trial=best.number if best else None,
        best_value=best.value if best else None,
        best_metrics=tracker.metrics(best.number) if best else {},
        best_params=best.params if best else {},
        picture=str(picture) if picture else None,
    )


def _prepare_classifier(config: SweepConfig, data: ImageDataset, console: Console) -> Path:
    """Train the classifier, or find it in the cache, and try a few steps with it before anything is started."""
    from rich.progress import BarColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as Bar

    columns = (
        TextColumn("classifier {task.fields[name]}"),
        BarColumn(),
        TextColumn("step {task.completed}/{task.total}  loss {task.fields[loss]:.4f}"),
        TimeRemainingColumn(),
    )
    with Bar(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task: Any = None

        def show(step: int, steps: int, loss: float) -> None:
            nonlocal task
            if task is None:
                task = bar.add_task("", total=steps, name=config.trial.classifier.name, loss=loss)
            bar.update(task, completed=step, loss=loss)
            if not console.is_terminal and step % max(1000, steps // 10) == 0:
                console.print(
                    f"classifier {config.trial.classifier.name}  step {step}/{steps}  loss {loss:.4f}", highlight=False
                )

        _, regime, folder = pretrain.obtain(config.trial.classifier, data, CLASSIFIERS, show)
    console.print(
        f"classifier {config.trial.classifier.name}: {regime['steps']} steps, loss {regime['loss']:.4f}, "
        f"training accuracy {regime['accuracy']:.3f}, smallest margin {regime['margins']['min']:.2f}  ({folder})",
        highlight=False, soft_wrap=True,
    )  # fmt: skip
    return folder


def _announce(config: SweepConfig, machine: Machine, ledger: Ledger, console: Console) -> None:
    entries = ledger.entries()
    done = sum(entry.finished for entry in entries)
    speed = _probe(config.trial, machine)
    steps = (config.trials - done) * expected_steps(config) - sum(e.last_step for e in entries if not e.finished)
    seconds = max(steps, 0) / (speed * machine.concurrency)
    if config.time_budget is not None:
        seconds = min(seconds, config.time_budget * 60 - ledger.seconds)
    verb = f"continues with {config.trials - done} of {config.trials}" if entries else f"{config.trials}"
    stopping = f"stopped early by {config.scheduler.name}" if config.scheduler.name != "none" else "never stopped early"
    console.print(
        f"sweep {config.name}: {verb} trials of {config.trial.steps} steps, {stopping}, sampled by {config.sampler}, "
        f"{machine.concurrency} at a time on {machine.words()}; "
        f"objective {config.objective.metric} ({config.objective.direction}).\n"
        f"{speed:.0f} steps/s a trial: about {duration(seconds)}. Ctrl-C is safe: the same command continues.",
        highlight=False, soft_wrap=True,
    )  # fmt: skip


def _probe(settings: TrialConfig, machine: Machine) -> float:
    """Steps a second of one trial, measured on the settings that are not searched."""
    import torch

    # For good: from here on the driver's own threads would only compete with the trials.
    torch.set_num_threads(machine.threads)
    data = datasets.load(settings.dataset)
    classifier, _, _ = pretrain.obtain(settings.classifier, data, CLASSIFIERS)
    trainer = Trainer(settings, classifier)
    for step in range(_PROBE_STEPS):
        if step == 1:  # the first one allocates
            began = time.perf_counter()
        trainer.step()
    if trainer.device.type == "cuda":
        torch.cuda.synchronize()
    return (_PROBE_STEPS - 1) / (time.perf_counter() - began)


def _origin(data: ImageDataset, classifier_folder: Path) -> dict[str, str]:
    """Where numbers come from: versions, commit, digests."""
    import subprocess
    from importlib.metadata import version

    tags = {f"version.{package}": version(package) for package in ("torch", "ray", "optuna", "mlflow", "numpy")}
    tags |= {
        "version.python": platform.python_version(),
        "data.digest": data.digest(),
        "classifier.digest": classifier_folder.name.rpartition("-")[2],
    }
    root = Path(__file__).resolve().parents[1]
    try:
        commit = subprocess.run(["git", "-C", str(root), "rev-parse", "HEAD"], capture_output=True, text=True, check=True)
        tags["mlflow.source.git.commit"] = commit.stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        pass  # not a checkout
    return tags


def _dump(config: SweepConfig) -> str:
    return yaml.safe_dump(config.model_dump(mode="json", exclude_none=True), sort_keys=False)


@contextmanager
def _only_driver(folder: Path) -> Iterator[None]:
    """Hold the sweep's lock; a dead driver's lock is free by itself.

    Raises:
        BadInput: another driver holds it, or the folder cannot be written.
    """
    from filelock import FileLock, Timeout

    holder = folder / "driver.json"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder / ".lock", timeout=0)
        lock.acquire()
    except Timeout:
        who = json.loads(holder.read_text()) if holder.exists() else {}
        detail = f" (pid {who['pid']} on {who['host']}, since {who['since']})" if who else ""
        raise BadInput(f"sweep {folder.name!r} is being run already{detail}; wait for it, or choose another --name") from None
    except OSError as fault:
        raise BadInput(f"{folder}: cannot be written: {fault.strerror}") from None
    try:
        since = time.strftime("%Y-%m-%d %H:%M:%S")
        write_atomic(holder, json.dumps({"pid": os.getpid(), "host": socket.gethostname(), "since": since}).encode())
        yield
    finally:
        holder.unlink(missing_ok=True)
        lock.release()
