"""The runs of a comparison, each logged as a file.

What is logged is not run again, so an interrupted comparison continues, and the page (`gbc.studies.results`) can be made anew
from the log alone.
"""

from __future__ import annotations

import functools
import json
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from pydantic import TypeAdapter

from gbc.checkpoint import write_atomic
from gbc.config import DatasetConfig, TrialConfig
from gbc.errors import BadInput, CorruptFile
from gbc.settings import Config
from gbc.studies.comparison import Comparison

if TYPE_CHECKING:
    from gbc.metrics.evaluation import Evaluator

CONTROLS: Final = "controls.json"
_SHEET_ROWS: Final = 4


class Record(Config):
    """A finished run, as it is logged."""

    row: str
    seed: int
    settings: dict[str, Any]
    judged_by: str
    """Which real images the scores were measured on."""
    scores: dict[str, float]
    """By measure of `gbc.metrics.evaluation`."""
    by_class: dict[str, dict[str, float]]
    report: dict[str, float]
    """The trainer's last report."""
    cost: dict[str, float]
    students: int = 1
    """Whose mean `tstr/cnn` is."""
    threads: int
    residuals: list[dict[str, float]]
    """Relative stationarity residuals of each classifier, by tensor (`gbc.classifiers.convergence`)."""


@dataclass(frozen=True)
class Run:
    """One cell of a comparison, with all a worker process needs to fill it."""

    name: str
    row: str
    seed: int
    settings: TrialConfig
    folder: Path
    cache: Path
    data_root: str | None
    pictured: bool
    """Whether it leaves a sheet of samples: one seed is enough to look at."""

    @property
    def path(self) -> Path:
        """Where it is logged."""
        return self.folder / self.name / self.row / f"{self.seed}.json"

    @property
    def picture(self) -> Path:
        """A sheet of its samples; a column a class."""
        return self.path.with_suffix(".png")

    def logged(self) -> Record | None:
        """The record; None where there is none, or one of other settings.

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
        return record if settings == self.settings else None


def of(comparison: Comparison, folder: Path, cache: Path, data_root: str | None = None) -> list[Run]:
    """Every cell, the first seed of all rows before the second: an interrupted comparison has all rows early."""
    return [
        Run(comparison.name, row, seed, comparison.settings(row, seed), folder, cache, data_root, seed == comparison.seeds[0])
        for seed in comparison.seeds
        for row in comparison.rows
    ]


def complete(wanted: list[Run], jobs: int, say: Callable[[str], None]) -> None:
    """Make and log every run that is not logged yet, `jobs` at a time.

    Raises:
        BadInput, Diverged: as a run raises; what was logged before stays.
    """
    missing = [run for run in wanted if run.logged() is None]
    for number, run in enumerate(_finished(missing, jobs), start=1):
        record = run.logged()
        assert record is not None
        shown = "  ".join(f"{name} {record.scores[name]:.3f}" for name in ("ssim/coverage", "prdc/coverage", "tstr/cnn"))
        say(f"{number}/{len(missing)}  {run.row} seed {run.seed}  {shown}  {record.cost['cost/seconds']:.0f} s")


def controls(comparison: Comparison, folder: Path, cache: Path, data_root: str | None = None) -> dict[str, dict[str, float]]:
    """Scores of sets whose worth is known, by name; from the log if they are there.

    Raises:
        BadInput, CorruptFile: as data sets and the cache do.
    """
    from gbc.metrics import evaluation

    if found := logged_controls(comparison, folder):
        return found
    settings = comparison.settings(next(iter(comparison.rows)), 0)
    evaluator, _ = _evaluator(settings, data_root, cache)
    rows = {name: each.scores() for name, each in evaluation.control_sets(evaluator, settings.eval_per_class).items()}
    write_atomic(folder / comparison.name / CONTROLS, json.dumps(rows, indent=1).encode())
    return rows


def logged_controls(comparison: Comparison, folder: Path) -> dict[str, dict[str, float]]:
    """The controls in the log; none where they are not there yet.

    Raises:
        CorruptFile: they cannot be read.
    """
    path = folder / comparison.name / CONTROLS
    if not path.exists():
        return {}
    try:
        return TypeAdapter(dict[str, dict[str, float]]).validate_json(path.read_bytes())
    except (OSError, ValueError) as fault:
        raise CorruptFile(f"{path}: damaged ({str(fault).splitlines()[0]}); remove it to measure them again") from None


def _finished(missing: list[Run], jobs: int) -> Iterator[Run]:
    if jobs == 1:
        for run in missing:
            _make(run, None)
            yield run
        return
    threads = max(1, (os.cpu_count() or 1) // jobs)
    # Spawned: a forked copy of torch's thread pool may hang.
    with ProcessPoolExecutor(jobs, mp_context=get_context("spawn")) as pool:
        futures = {pool.submit(_make, run, threads): run for run in missing}
        try:
            for future in as_completed(futures):
                future.result()
                yield futures[future]
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _make(run: Run, threads: int | None) -> None:
    import torch

    from gbc import pictures
    from gbc.metrics import evaluation, student
    from gbc.training import experiment, tasks

    if run.logged():  # by another process, since the list was made
        return
    if threads:
        torch.set_num_threads(threads)
    inputs = tasks.obtain(run.settings, run.cache)
    outcome = experiment.run(run.settings, inputs)
    evaluator, judged_by = _evaluator(run.settings, run.data_root, run.cache)
    found = evaluation.Evaluation(evaluator, outcome.images, outcome.labels)
    record = Record(
        row=run.row, seed=run.seed, settings=run.settings.model_dump(mode="json"), judged_by=judged_by,
        scores=found.scores(), by_class=found.by_class(), report=dict(outcome.report.metrics), cost=outcome.cost(),
        students=student.STUDENTS,
        threads=torch.get_num_threads(), residuals=[dict(regime["residuals"]) for regime in inputs.regimes],
    )  # fmt: skip
    if run.pictured:
        columns = pictures.columns_of(len(evaluator.class_names))
        write_atomic(run.picture, pictures.png(pictures.tile(outcome.images[: _SHEET_ROWS * columns], columns), zoom=1))
    write_atomic(run.path, record.model_dump_json(indent=1).encode())


def _evaluator(settings: TrialConfig, data_root: str | None, cache: Path) -> tuple[Evaluator, str]:
    return _evaluator_of((settings.rooted(data_root) if data_root else settings).dataset, cache)


@functools.cache
def _evaluator_of(dataset: DatasetConfig, cache: Path) -> tuple[Evaluator, str]:
    """(evaluator, the images it judges by in words); once a process."""
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
