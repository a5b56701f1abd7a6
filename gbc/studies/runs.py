"""The runs of a comparison, each logged in a file.

Logged runs are not repeated, so an interrupted comparison can continue, and the page (`gbc.studies.results`) needs the log
alone.
"""

from __future__ import annotations

import functools
import json
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, replace
from multiprocessing import active_children, get_context
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from gbc.checkpoint import write_atomic
from gbc.classifier_config import DatasetConfig
from gbc.config import TrialConfig
from gbc.errors import BadInput, CorruptFile
from gbc.settings import Config
from gbc.studies import score_log
from gbc.studies.comparison import Comparison
from gbc.studies.score_log import MeasuredOn, ScoreLog

if TYPE_CHECKING:
    from gbc.metrics.evaluation import Evaluator

CONTROLS: Final = "controls.json"
_SHEET_ROWS: Final = 4


class Record(Config):
    """The log of a finished run."""

    row: str
    seed: int
    settings: dict[str, Any]
    judged_by: str
    """Description of the real images and the feature network behind the scores."""
    judged_on: DatasetConfig | None = None
    """These images; None: those of the classifier."""
    scores: dict[str, float]
    """Scores by measure of `gbc.metrics.evaluation`."""
    by_class: dict[str, dict[str, float]]
    report: dict[str, float]
    """Metrics of the trainer's last report."""
    cost: dict[str, float]
    students: int = 1
    """Number of students whose mean is `tstr/cnn`."""
    threads: int
    residuals: list[dict[str, float]]
    """Relative stationarity residuals of each classifier, by tensor (`gbc.classifiers.convergence`)."""


@dataclass(frozen=True)
class Run:
    """One run of a comparison, a row with a seed, and all that a worker process needs for it."""

    name: str
    row: str
    seed: int
    settings: TrialConfig
    folder: Path
    cache: Path
    data_root: str | None
    judged_on: DatasetConfig
    """Images that its scores are measured against. If these are not the classifier's, the latter come from `data_root` too."""
    pictured: bool
    """True if it writes a picture of samples, which one seed of each row does."""

    @property
    def path(self) -> Path:
        """Path of its log file."""
        return self.folder / self.name / self.row / f"{self.seed}.json"

    @property
    def picture(self) -> Path:
        """Path of the picture of its samples, with one column for each class."""
        return self.path.with_suffix(".png")

    def logged(self) -> Record | None:
        """The record; None if there is none, or if it has other settings or was judged on other images.

        Raises:
            CorruptFile: it cannot be read.
        """
        if not self.path.exists():
            return None
        try:
            record = Record.parse(json.loads(self.path.read_text()), str(self.path))
            settings = TrialConfig.parse(record.settings, str(self.path))
        except (OSError, ValueError, RecursionError, BadInput) as fault:
            raise CorruptFile(f"{self.path}: damaged ({str(fault).splitlines()[0]}); remove it to run it again") from None
        # Parsed, so that a setting that is new and has its default does not make old records stale.
        judged_on = record.judged_on or settings.dataset
        return record if (settings, judged_on) == (self.settings, self.judged_on) else None


def all_runs(comparison: Comparison, folder: Path, cache: Path, data_root: str | None = None) -> list[Run]:
    """Every run, the first seed of all rows before the second, so that an interrupted comparison has all rows."""
    runs = []
    for seed in comparison.seeds:
        for row in comparison.rows:
            settings = comparison.settings(row, seed)
            judged_on, pictured = comparison.judged_on or settings.dataset, seed == comparison.seeds[0]
            runs.append(Run(comparison.name, row, seed, settings, folder, cache, data_root, judged_on, pictured))
    return runs


def complete(runs: list[Run], jobs: int, say: Callable[[str], None]) -> None:
    """Execute and log every run that is not logged yet, `jobs` at a time.

    Raises:
        BadInput, Diverged: as a run raises; the log keeps earlier runs.
    """
    missing = [run for run in runs if run.logged() is None]
    for number, run in enumerate(_finished(missing, jobs), start=1):
        record = run.logged()
        assert record is not None
        shown = "  ".join(f"{name} {record.scores[name]:.3f}" for name in ("ssim/coverage", "prdc/coverage", "tstr/cnn"))
        say(f"{number}/{len(missing)}  {run.row} seed {run.seed}  {shown}  {record.cost['cost/seconds']:.0f} s")


def controls(comparison: Comparison, folder: Path, cache: Path, data_root: str | None = None) -> dict[str, dict[str, float]]:
    """Scores of the control sets by set and measure; those in the log if they are of the same images, else measured and logged.

    Raises:
        BadInput, CorruptFile: as data sets and the cache do.
    """
    from gbc.metrics import evaluation

    if logged := logged_controls(comparison, folder):
        return logged
    measured_on = _controls_are_of(comparison)
    evaluator, _ = _evaluator(measured_on.dataset, data_root, cache)
    rows = {name: each.scores() for name, each in evaluation.control_sets(evaluator, measured_on.per_class).items()}
    log = ScoreLog(scores=rows, measured_on=dict.fromkeys(rows, measured_on))
    score_log.write(folder / comparison.name / CONTROLS, log)
    return rows


def logged_controls(comparison: Comparison, folder: Path) -> dict[str, dict[str, float]]:
    """The scores of the control sets in the log; empty if they are not there yet, or of other images.

    Raises:
        CorruptFile: they cannot be read.
    """
    log = score_log.read(folder / comparison.name / CONTROLS)
    return log.scores if log.are_of(dict.fromkeys(log.scores, _controls_are_of(comparison))) else {}


def _controls_are_of(comparison: Comparison) -> MeasuredOn:
    """The images that all rows are judged on, as many of each class as in the first row's generated set."""
    settings = comparison.settings(next(iter(comparison.rows)), 0)
    return MeasuredOn(dataset=comparison.judged_on or settings.dataset, per_class=settings.eval_per_class)


def _finished(missing: list[Run], jobs: int) -> Iterator[Run]:
    if jobs == 1:
        for run in missing:
            _execute(run, None)
            yield run
        return
    threads = max(1, (os.cpu_count() or 1) // jobs)
    others = set(active_children())
    # Spawned: a forked copy of torch's thread pool may hang.
    with ProcessPoolExecutor(jobs, mp_context=get_context("spawn")) as pool:
        futures = {pool.submit(_execute, run, threads): run for run in missing}
        try:
            for future in as_completed(futures):
                future.result()
                yield futures[future]
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            # A signal reaches this process alone. A run that is cut off leaves no record and is made again.
            for process in set(active_children()) - others:
                process.terminate()
            raise


def _execute(run: Run, threads: int | None) -> None:
    import torch

    from gbc import pictures
    from gbc.data import datasets
    from gbc.metrics import evaluation, student
    from gbc.training import experiment, tasks

    if run.logged():  # by another process in the meantime
        return
    if threads:
        torch.set_num_threads(threads)
    if run.judged_on == run.settings.dataset:
        inputs = tasks.obtain(run.settings, run.cache)
    else:  # the classifier's images may be too many to be compared with
        inputs = tasks.obtain(run.settings.rooted(run.data_root) if run.data_root else run.settings, run.cache)
        inputs = replace(inputs, data=datasets.load(run.judged_on))
    evaluator, judged_by = _evaluator(run.judged_on, run.data_root, run.cache)  # before the training: there may be no images
    outcome = experiment.run(run.settings, inputs)
    evaluated = evaluation.Evaluation(evaluator, outcome.images, outcome.labels, inputs.classifiers)
    record = Record(
        row=run.row, seed=run.seed, settings=run.settings.model_dump(mode="json"), judged_by=judged_by,
        judged_on=None if run.judged_on == run.settings.dataset else run.judged_on,
        scores=evaluated.scores(), by_class=evaluated.by_class(), report=dict(outcome.report.metrics), cost=outcome.cost(),
        students=student.STUDENTS,
        threads=torch.get_num_threads(), residuals=[dict(regime["residuals"]) for regime in inputs.regimes],
    )  # fmt: skip
    if run.pictured:
        columns = pictures.columns_for(len(evaluator.class_names))
        write_atomic(run.picture, pictures.png(pictures.grid(outcome.images[: _SHEET_ROWS * columns], columns), zoom=1))
    write_atomic(run.path, record.model_dump_json(indent=1).encode())


def _evaluator(dataset: DatasetConfig, data_root: str | None, cache: Path) -> tuple[Evaluator, str]:
    return _evaluator_of(dataset.rooted(data_root), cache)


@functools.cache
def _evaluator_of(dataset: DatasetConfig, cache: Path) -> tuple[Evaluator, str]:
    """(evaluator, description of its images and network); made once in a process."""
    from gbc.data import datasets
    from gbc.metrics import evaluation, features

    data = datasets.load(dataset)
    if not isinstance(data, datasets.ImageDataset):
        raise BadInput(f"{dataset.name} holds points, not images: draw it with `python -m gbc circle`")
    oracle = features.obtain(dataset, data, cache)
    about = (
        f"{len(oracle.judged)} test images; feature network of accuracy {oracle.accuracy:.3f}, trained on {oracle.trained_on}"
    )
    return evaluation.Evaluator.of(data, oracle), about
