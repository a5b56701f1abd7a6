"""Ceilings of a comparison whose rows differ in their training images: students of these images instead of generated ones."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Final

from gbc.classifier_config import DatasetConfig
from gbc.studies import score_log
from gbc.studies.comparison import Comparison
from gbc.studies.score_log import MeasuredOn, ScoreLog

FILE: Final = "ceilings.json"
IMAGES: Final = "images"
"""The number of training images, beside the scores of a row."""

Ceilings = Mapping[str, Mapping[str, float]]
"""For each row the number of its training `images`, and by measure the score of a student of them."""


def obtain(comparison: Comparison, folder: Path, data_root: str | None = None) -> Ceilings:
    """The ceilings of all rows; those that the log lacks are measured and logged. None unless the comparison asks for them.

    Raises:
        BadInput, CorruptFile: as data sets do, or the log is damaged.
    """
    if not comparison.ceilings:
        return {}
    if known := logged(comparison, folder):
        return known
    wanted, before = _measured_on(comparison), score_log.read(folder / comparison.name / FILE)
    measured = {on: before.scores[row] for row, on in before.measured_on.items() if row in before.scores}
    for on in wanted.values():
        if on not in measured:
            measured[on] = _students_of(on.dataset.rooted(data_root), (on.judged_on or on.dataset).rooted(data_root))
    log = ScoreLog(scores={row: measured[on] for row, on in wanted.items()}, measured_on=wanted)
    score_log.write(folder / comparison.name / FILE, log)
    return log.scores


def logged(comparison: Comparison, folder: Path) -> Ceilings:
    """The ceilings in the log; empty if they are not there yet, or not of these rows and their images.

    Raises:
        CorruptFile: they cannot be read.
    """
    log = score_log.read(folder / comparison.name / FILE)
    return log.scores if log.are_of(_measured_on(comparison)) else {}


def _measured_on(comparison: Comparison) -> dict[str, MeasuredOn]:
    """The images of each row's classifier, and those that all rows are judged on."""
    judged_on = comparison.judged_on
    return {row: MeasuredOn(dataset=comparison.settings(row, 0).dataset, judged_on=judged_on) for row in comparison.rows}


def _students_of(dataset: DatasetConfig, judged_on: DatasetConfig) -> dict[str, float]:
    """Scores of the training images of `dataset` on the test images of `judged_on`."""
    from gbc.data import datasets
    from gbc.metrics import scores, student

    real, judge = datasets.load(dataset), datasets.load(judged_on)
    samples = scores.ScoredSamples(scores.ReferenceSet.of(judge, "cpu"), *real.train())
    return {
        IMAGES: len(real.train_labels),
        "tstr/cnn": student.mean_of_students(samples, len(real.class_names)).mean().item(),
        "tstr/1nn": scores.tstr_1nn(samples).item(),
    }
