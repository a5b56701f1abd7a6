"""The page of results: tables, differences and pictures, all made from the log of comparisons."""

from __future__ import annotations

import math
import os
import re
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from gbc.studies.ceiling_figure import ceiling_figure, ceiling_table
from gbc.studies.ceilings import Ceilings
from gbc.studies.comparison import Comparison
from gbc.studies.runs import Record, Run

COLUMNS: Final[dict[str, str]] = {
    "tstr/cnn": "CNN TSTR",
    "tstr/1nn": "1-NN TSTR",
    "ssim/coverage": "SSIM coverage",
    "prdc/coverage": "feature coverage",
    "prdc/recall": "recall",
    "prdc/precision": "precision",
    "kid": "KID",
    "ssim/nearest": "SSIM (paper)",
    "reconstructed/train": "reconstructed",
    "reconstructed/held_out": "of held-out images",
}
"""Measures on the page and their column headings. Measures that a log does not have yet are left out."""
_CONTRASTED: Final = ("tstr/cnn", "ssim/coverage", "prdc/coverage", "prdc/recall", "kid")
_CLASSES: Final = "tstr/cnn"


@dataclass(frozen=True)
class Log:
    """A comparison and its logged runs."""

    comparison: Comparison
    runs: Sequence[Run]
    records: Mapping[tuple[str, int], Record]
    """Records by row and seed."""
    controls: Mapping[str, Mapping[str, float]]
    ceilings: Ceilings = field(default_factory=dict)

    @classmethod
    def read(
        cls,
        comparison: Comparison,
        runs: Sequence[Run],
        controls: Mapping[str, Mapping[str, float]],
        ceilings: Ceilings | None = None,
    ) -> Log:
        """The records of those `runs` that are logged with the settings of the comparison.

        Raises:
            CorruptFile: a record cannot be read.
        """
        records = {(run.row, run.seed): record for run in runs if (record := run.logged())}
        return cls(comparison, runs, records, controls, ceilings or {})

    def of_row(self, row: str) -> list[Record]:
        """The records of a row, by seed."""
        return [self.records[row, seed] for seed in self.comparison.seeds if (row, seed) in self.records]

    def by_row(self) -> dict[str, list[Record]]:
        """The records of all rows that have some."""
        return {row: records for row in self.comparison.rows if (records := self.of_row(row))}

    def figure(self) -> bytes | None:
        """The PNG of rows beside their ceilings; None if there are no ceilings or no records."""
        by_row = self.by_row()
        return ceiling_figure(self.comparison, by_row, self.ceilings, self.controls) if self.ceilings and by_row else None


def figure_path(comparison: Comparison, out: Path) -> Path:
    """The file of a comparison's figure, which the page `out` shows."""
    return out.parent / "images" / f"{comparison.name}.png"


def page(logs: Iterable[Log], out: Path) -> tuple[str, list[str]]:
    """Markdown of all comparisons, and the titles of others that the page `out` already has: their sections stay.

    Pictures are linked from the folder of `out`.
    """
    before = _sections_of(out.read_text()) if out.exists() else {}
    made = {log.comparison.title: "\n".join(_section(log, out)).rstrip() + "\n" for log in logs}
    head = [
        "# Results",
        "",
        "Made by `python -m gbc results` from logged runs: do not edit. Each value is the mean over seeds ± their standard",
        "deviation; a seed changes the classifiers as well as the generator. Every generated set has as many images as the",
        "classifier's training set, from latents that no step was trained on, except where a row optimises pixels. Measures",
        "marked * look at the classifier's training images: they are for validation.",
        "",
    ]
    return "\n".join([*head, *(before | made).values()]), [title for title in before if title not in made]


def _sections_of(text: str) -> dict[str, str]:
    """The sections of a page by title, each with its heading."""
    parts = re.split(r"^(?=## )", text, flags=re.MULTILINE)[1:]
    return {part.partition("\n")[0].removeprefix("## "): part.rstrip() + "\n" for part in parts}


def difference(log: Log, row: str, against: str, measure: str) -> tuple[float, float, int, int]:
    """(mean, standard deviation, seeds in which `row` scores higher, seeds) of the difference, paired by seed.

    The standard deviation is NaN for a single seed; without seeds the mean is NaN too.
    """
    pairs = [
        log.records[row, seed].scores[measure] - log.records[against, seed].scores[measure]
        for seed in log.comparison.seeds
        if (row, seed) in log.records and (against, seed) in log.records
    ]
    return *_spread(pairs), sum(value > 0 for value in pairs), len(pairs)


def _section(log: Log, out: Path) -> list[str]:
    comparison = log.comparison
    lines = [f"## {comparison.title}", "", *_paragraph(comparison.about)]
    judges = sorted({record.judged_by for record in log.records.values()})
    lines += [f"Judged by {text}." for text in judges]
    if len(log.records) < len(log.runs):
        lines += [f"**{len(log.runs) - len(log.records)} of {len(log.runs)} runs are not logged yet.**"]
    lines += [
        "",
        *_beside_ceilings(log),
        *_scores(log),
        "",
        *_contrasts(log),
        *_paragraph(comparison.notes),
        *_costs(log),
        "",
        *_by_class(log),
        "",
    ]
    return lines + _pictures(log, out)


def _beside_ceilings(log: Log) -> list[str]:
    by_row = log.by_row()
    if not log.ceilings or not by_row:
        return []
    return [
        f"![Accuracy against training images](images/{log.comparison.name}.png)",
        "",
        *ceiling_table(log.comparison, by_row, log.ceilings),
    ]


def _scores(log: Log) -> list[str]:
    from gbc.metrics.evaluation import MEASURES

    rows = [*(record.scores for record in log.records.values()), *log.controls.values()]
    columns = [name for name in COLUMNS if all(name in row for row in rows)]
    heads = [f"{COLUMNS[name]}{' *' if MEASURES[name].training_images else ''}" for name in columns]
    lines = [
        f"| row | what it is | seeds | {' | '.join(heads)} |",
        f"|---|---|---|{'---|' * len(heads)}",
        f"| | | | {' | '.join(MEASURES[name].better for name in columns)} |",
    ]
    for name, row in log.comparison.rows.items():
        if records := log.of_row(name):
            cells = [_value([record.scores[measure] for record in records], _digits(measure)) for measure in columns]
            lines.append(f"| `{name}` | {row.about} | {len(records)} | {' | '.join(cells)} |")
    for name, scores in log.controls.items():
        lines.append(
            f"| *{name}* | control | | {' | '.join(f'{scores[measure]:.{_digits(measure)}f}' for measure in columns)} |"
        )
    return lines


def _contrasts(log: Log) -> list[str]:
    if not log.comparison.contrasts:
        return []
    lines = [
        "Differences, paired by seed; in brackets in how many seeds the first row scored higher. KID is better when lower.",
        "",
        f"| question | rows | {' | '.join(COLUMNS[measure] for measure in _CONTRASTED)} |",
        f"|---|---|{'---|' * len(_CONTRASTED)}",
    ]
    for contrast in log.comparison.contrasts:
        cells = []
        for measure in _CONTRASTED:
            mean, deviation, higher, pairs = difference(log, contrast.row, contrast.against, measure)
            spread = "" if math.isnan(deviation) else f" ± {deviation:.3f}"
            cells.append(f"{mean:+.3f}{spread} ({higher} of {pairs})" if pairs else "")
        lines.append(f"| {contrast.question} | `{contrast.row}` − `{contrast.against}` | {' | '.join(cells)} |")
    return [*lines, ""]


def _costs(log: Log) -> list[str]:
    lines = [
        "Cost. Seconds are of training on the CPU threads named, on a machine that may have done other work beside it; an",
        "image of a generator costs what sampling costs, one of pixels its share of the training.",
        "",
        "| row | threads | seconds | ms an image | parameters | residual ρ at the end |",
        "|---|---|---|---|---|---|",
    ]
    for name in log.comparison.rows:
        if records := log.of_row(name):
            seconds = statistics.mean(record.cost["cost/seconds"] for record in records)
            image = 1000 * statistics.mean(record.cost["cost/seconds_per_image"] for record in records)
            rho = [record.report["kkt/rho"] for record in records if "kkt/rho" in record.report]
            threads = "/".join(sorted({str(record.threads) for record in records}))
            parameters = f"{records[0].cost['cost/parameters']:,.0f}"
            lines.append(
                f"| `{name}` | {threads} | {seconds:.0f} | {image:.3g} | {parameters} | {_value(rho) if rho else ''} |"
            )
    return lines


def _by_class(log: Log) -> list[str]:
    """Table of the scores of each class, because the paper names a class bias as its limitation."""
    rows = log.by_row()
    if not rows:
        return []
    names = list(next(iter(rows.values()))[0].by_class[_CLASSES])
    lines = [
        f"{COLUMNS[_CLASSES]} of each class, mean over seeds.",
        "",
        f"| row | {' | '.join(names)} |",
        f"|---|{'---|' * len(names)}",
    ]
    for name, records in rows.items():
        means = [statistics.mean(record.by_class[_CLASSES][label] for record in records) for label in names]
        lines.append(f"| `{name}` | {' | '.join(f'{mean:.2f}' for mean in means)} |")
    return lines


def _pictures(log: Log, out: Path) -> list[str]:
    shown = {run.row: run for run in log.runs if run.pictured and (run.row, run.seed) in log.records}
    if not shown:
        return []
    lines = [f"Samples of seed {log.comparison.seeds[0]}, a column a class.", "", "| row | samples |", "|---|---|"]
    for name, run in shown.items():
        lines.append(f"| `{name}` | ![{name}]({Path(os.path.relpath(run.picture, out.parent)).as_posix()}) |")
    return [*lines, ""]


def _paragraph(text: str) -> list[str]:
    return [text.strip(), ""] if text.strip() else []


def _digits(measure: str) -> int:
    """Number of decimals: 0 for counts of reconstructed images, else 3."""
    return 0 if measure.startswith("reconstructed/") else 3


def _value(values: Sequence[float], digits: int = 3) -> str:
    mean, deviation = _spread(values)
    return f"{mean:.{digits}f}" if math.isnan(deviation) else f"{mean:.{digits}f} ± {deviation:.{digits}f}"


def _spread(values: Sequence[float]) -> tuple[float, float]:
    if not values:
        return math.nan, math.nan
    return statistics.mean(values), statistics.stdev(values) if len(values) > 1 else math.nan
