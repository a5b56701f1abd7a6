"""The rows of a comparison beside their ceilings: a table, and a figure against the number of training images."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Final

from gbc import pictures
from gbc.metrics.scores import MEANS
from gbc.studies.ceilings import IMAGES, Ceilings
from gbc.studies.comparison import Comparison

if TYPE_CHECKING:
    from gbc.studies.runs import Record

MEASURES: Final = {"tstr/cnn": "CNN TSTR", "tstr/1nn": "1-NN TSTR"}
_TEACHER: Final = "distil/teacher"


def ceiling_table(comparison: Comparison, records: Mapping[str, Sequence[Record]], ceilings: Ceilings) -> list[str]:
    """Markdown: each row of `records`, by its mean over seeds, beside its ceiling."""
    heads = [f"{title} | of the training images | share" for title in MEASURES.values()]
    lines = [
        "Beside their ceilings: the same students of the classifier's own training images. The share is that of the ceiling.",
        "",
        f"| row | what it is | training images | accuracy of the classifier | {' | '.join(heads)} |",
        f"|---|---|---|---|{'---|' * 3 * len(heads)}",
    ]
    for name in _ordered(comparison, records, ceilings):
        cells = [comparison.rows[name].about, f"{ceilings[name][IMAGES]:,.0f}", f"{_mean(records[name], _TEACHER):.3f}"]
        for measure in MEASURES:
            reached, ceiling = _mean(records[name], measure), ceilings[name][measure]
            cells += [f"{reached:.3f}", f"{ceiling:.3f}", f"{reached / ceiling:.0%}"]
        lines.append(f"| `{name}` | {' | '.join(cells)} |")
    return [*lines, ""]


def ceiling_figure(
    comparison: Comparison,
    records: Mapping[str, Sequence[Record]],
    ceilings: Ceilings,
    controls: Mapping[str, Mapping[str, float]],
) -> bytes:
    """A PNG of the measures against the number of training images; rows that differ in their data alone are one line."""
    from matplotlib.figure import Figure

    names = _ordered(comparison, records, ceilings)
    lines: dict[str, list[str]] = {}
    for name in names:
        network = comparison.settings(name, 0).classifier.digest()
        lines.setdefault(network, []).append(name)
    figure = Figure(figsize=(10.5, 4.4), layout="constrained")
    axes = figure.subplots(1, len(MEASURES), sharey=True)
    real = {ceilings[name][IMAGES]: name for name in names}
    longest = max(lines.values(), key=len)
    for axis, (measure, title) in zip(axes, MEASURES.items(), strict=True):
        axis.plot(
            list(real), [ceilings[name][measure] for name in real.values()], color="black", label="real: the training images"
        )
        axis.plot(
            [ceilings[name][IMAGES] for name in longest], [_mean(records[name], _TEACHER) for name in longest],
            color="black", linestyle=(0, (1, 2)), label="the classifier itself",
        )  # fmt: skip
        if MEANS in controls:
            axis.axhline(controls[MEANS][measure], color="grey", linestyle="--", linewidth=1, label=MEANS)
        for colour, members in zip(pictures.COLOURS, lines.values(), strict=False):
            axis.plot(
                [ceilings[name][IMAGES] for name in members], [_mean(records[name], measure) for name in members],
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
    return sorted((name for name in comparison.rows if records.get(name)), key=lambda name: ceilings[name][IMAGES])


def _mean(records: Sequence[Record], measure: str) -> float:
    return statistics.mean(record.scores[measure] for record in records)
