"""Ceilings of a comparison whose rows differ in their training images: students of these images instead of generated ones."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Final

from gbc.classifier_config import DatasetConfig
from gbc.studies import score_log
from gbc.studies.comparison import Comparison

FILE: Final = "ceilings.json"
IMAGES: Final = "images"
"""The number of training images, beside the scores of a row."""

Ceilings = Mapping[str, Mapping[str, float]]
"""For each row the number of its training `images`, and by measure the score of a student of them."""


def obtain(comparison: Comparison, folder: Path, data_root: str | None = None) -> Ceilings:
    """The ceilings of all rows, from the log if they are there, else measured and logged; none unless it asks for them.

    Raises:
        BadInput, CorruptFile: as data sets do, or the log is damaged.
    """
    if not comparison.ceilings:
        return {}
    if known := logged(comparison, folder):
        return known
    judged_on = comparison.judged_on
    measured: dict[DatasetConfig, dict[str, float]] = {}
    of_rows = {}
    for row in comparison.rows:
        dataset = comparison.settings(row, 0).dataset
        if dataset not in measured:
            measured[dataset] = _students_of(dataset.rooted(data_root), (judged_on or dataset).rooted(data_root))
        of_rows[row] = measured[dataset]
    score_log.write(folder / comparison.name / FILE, of_rows)
    return of_rows


def logged(comparison: Comparison, folder: Path) -> Ceilings:
    """The ceilings in the log; empty if they are not there yet, or not of these rows.

    Raises:
        CorruptFile: they cannot be read.
    """
    of_rows = score_log.read(folder / comparison.name / FILE)
    return of_rows if set(of_rows) == set(comparison.rows) else {}


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
