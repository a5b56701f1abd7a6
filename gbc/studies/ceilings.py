"""Ceilings of a comparison whose rows differ in their training images: students of these images instead of generated ones."""

from __future__ import annotations

import json
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final

from pydantic import TypeAdapter

from gbc import pictures
from gbc.checkpoint import write_atomic
from gbc.classifier_config import DatasetConfig
from gbc.errors import CorruptFile
from gbc.studies.comparison import Comparison

if TYPE_CHECKING:
    from gbc.studies.runs import Record

FILE: Final = "ceilings.json"
MEASURES: Final = {"tstr/cnn": "CNN TSTR", "tstr/1nn": "1-NN TSTR"}
_IMAGES: Final = "images"
_FLOOR: Final = "class means"
_TEACHER: Final = "distil/teacher"

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
    write_atomic(folder / comparison.name / FILE, json.dumps(of_rows, indent=1).encode())
    return of_rows


def logged(comparison: Comparison, folder: Path) -> Ceilings:
    """The ceilings in the log; empty if they are not there yet, or not of these rows.

    Raises:
        CorruptFile: they cannot be read.
    """
    path = folder / comparison.name / FILE
    if not path.exists():
        return {}
    try:
        of_rows = TypeAdapter(dict[str, dict[str, float]]).validate_json(path.read_bytes())
    except (OSError, ValueError) as fault:
        raise CorruptFile(f"{path}: damaged ({str(fault).splitlines()[0]}); remove it to measure them again") from None
    return of_rows if set(of_rows) == set(comparison.rows) else {}


def _students_of(dataset: DatasetConfig, judged_on: DatasetConfig) -> dict[str, float]:
    """Scores of the training images of `dataset` on the test images of `judged_on`."""
    from gbc.data import datasets
    from gbc.metrics import scores, student

    real, judge = datasets.load(dataset), datasets.load(judged_on)
    samples = scores.ScoredSamples(scores.ReferenceSet.of(judge, "cpu"), *real.train())
    return {
        _IMAGES: len(real.train_labels),
        "tstr/cnn": student.mean_of_students(samples, len(real.class_names)).mean().item(),
        "tstr/1nn": scores.tstr_1nn(samples).item(),
    }


def table(comparison: Comparison, records: Mapping[str, Sequence[Record]], ceilings: Ceilings) -> list[str]:
    """Markdown: each row of `records`, by its mean over seeds, beside its ceiling."""
    heads = [f"{title} | of the training images | share" for title in MEASURES.values()]
    lines = [
        "Beside their ceilings: the same students of the classifier's own training images. The share is that of the ceiling.",
        "",
        f"| row | what it is | training images | accuracy of the classifier | {' | '.join(heads)} |",
        f"|---|---|---|---|{'---|' * 3 * len(heads)}",
    ]
    for name in _ordered(comparison, records, ceilings):
        cells = [comparison.rows[name].about, f"{ceilings[name][_IMAGES]:,.0f}", f"{_mean(records[name], _TEACHER):.3f}"]
        for measure in MEASURES:
            reached, ceiling = _mean(records[name], measure), ceilings[name][measure]
            cells += [f"{reached:.3f}", f"{ceiling:.3f}", f"{reached / ceiling:.0%}"]
        lines.append(f"| `{name}` | {' | '.join(cells)} |")
    return [*lines, ""]


def png(
    comparison: Comparison,
    records: Mapping[str, Sequence[Record]],
    ceilings: Ceilings,
    controls: Mapping[str, Mapping[str, float]],
) -> bytes:
    """A panel for each measure against the number of training images; rows that differ in their data alone are one line."""
    from matplotlib.figure import Figure

    names = _ordered(comparison, records, ceilings)
    lines: dict[str, list[str]] = {}
    for name in names:
        network = comparison.settings(name, 0).classifier.digest()
        lines.setdefault(network, []).append(name)
    figure = Figure(figsize=(10.5, 4.4), layout="constrained")
    axes = figure.subplots(1, len(MEASURES), sharey=True)
    real = {ceilings[name][_IMAGES]: name for name in names}
    longest = max(lines.values(), key=len)
    for axis, (measure, title) in zip(axes, MEASURES.items(), strict=True):
        axis.plot(
            list(real), [ceilings[name][measure] for name in real.values()], color="black", label="real: the training images"
        )
        axis.plot(
            [ceilings[name][_IMAGES] for name in longest], [_mean(records[name], _TEACHER) for name in longest],
            color="black", linestyle=(0, (1, 2)), label="the classifier itself",
        )  # fmt: skip
        if _FLOOR in controls:
            axis.axhline(controls[_FLOOR][measure], color="grey", linestyle="--", linewidth=1, label="class means")
        for colour, members in zip(pictures.COLOURS, lines.values(), strict=False):
            axis.plot(
                [ceilings[name][_IMAGES] for name in members], [_mean(records[name], measure) for name in members],
                color=colour, marker="o", label=f"generated: {comparison.rows[members[0]].about}",
            )  # fmt: skip
        axis.set(xscale="log", xlabel="training images of the classifier", title=title)
        axis.spines[["top", "right"]].set_visible(False)
    ticks = sorted(real)
    for axis in axes:
        axis.set_xticks(ticks, [f"{count:,.0f}" for count in ticks])
        axis.minorticks_off()
    axes[0].set_ylabel("accuracy on test images")
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=3, frameon=False)
    return pictures.figure_png(figure, dpi=100)


def _ordered(comparison: Comparison, records: Mapping[str, Sequence[Record]], ceilings: Ceilings) -> list[str]:
    """The rows that have a record, those with few training images first."""
    return sorted((name for name in comparison.rows if records.get(name)), key=lambda name: ceilings[name][_IMAGES])


def _mean(records: Sequence[Record], measure: str) -> float:
    return statistics.mean(record.scores[measure] for record in records)
