"""Scores of the best generator between what worthless and real images get."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from dashboards.evaluation import CEILING, RecordedEvaluation
from dashboards.figures.panel import Json, Panel
from dashboards.sweep import Sweep

IMAGE_METRICS: Final = ("ssim/coverage", "tstr/1nn", "ssim/nearest")
"""Metrics that judge images, the most telling first."""
TABLE_METRICS: Final = (*IMAGE_METRICS, "classifier/accuracy", "kkt/rho")
"""Metrics of a trial that tables show, where they are logged."""
DATA_FREE_METRICS: Final = ("free/score", "free/confidence", "free/bn", *TABLE_METRICS)
"""The same where a sweep had no images."""


def table_metrics(sweeps: Sequence[Sweep]) -> list[str]:
    """The metrics that tables of these sweeps show."""
    return list(DATA_FREE_METRICS if any(sweep.settings.data_free for sweep in sweeps) else TABLE_METRICS)


def between_floor_and_ceiling(evaluation: RecordedEvaluation) -> Panel:
    """Scores of the best generator beside those of worthless and of real images."""
    generator, controls = evaluation.generator, evaluation.controls
    shown = [*controls, *([CEILING] if CEILING in evaluation.scores else []), generator]
    metrics = [metric for metric in IMAGE_METRICS if metric in evaluation.scores[generator]]
    marks = {generator: ("--best", "diamond", 15), CEILING: ("--ceiling", "line-ns-open", 20)}
    symbols = ("circle-open", "square-open", "triangle-up-open", "cross-open", "star-open", "hexagon-open")
    marks |= {name: ("--floor", symbols[index % len(symbols)], 10) for index, name in enumerate(controls)}
    data = [
        {
            "type": "scatter", "mode": "markers", "name": name,
            "x": [evaluation.scores[name].get(metric) for metric in metrics], "y": metrics,
            "marker": {"color": colour, "symbol": symbol, "size": size, "line": {"width": 0 if name == generator else 2}},
            "hovertemplate": f"{name}: %{{x:.3f}}<extra></extra>",
        }
        for name in shown
        for colour, symbol, size in [marks[name]]
    ]  # fmt: skip
    layout = {
        "xaxis": {"rangemode": "tozero", "title": {"text": "score, larger is better"}},
        "yaxis": {"autorange": "reversed", "type": "category"},
        "showlegend": True,
    }
    return Panel(
        "Scores between floor and ceiling",
        f"Filled: the generator. Hollow: worthless sets of images, the floors. Bar: {CEILING}, the ceiling. "
        "A score counts only where it is right of every hollow mark.",
        {"data": data, "layout": layout}, height=300, wide=True,
    )  # fmt: skip


def scores_by_class(evaluation: RecordedEvaluation) -> list[Panel]:
    """A panel a metric: bars of the generator's score in each class, with controls and ceiling as marks."""
    own = next(iter(evaluation.by_class.values()), {})
    return [_class_scores(evaluation, metric) for metric in own]


def _class_scores(evaluation: RecordedEvaluation, metric: str) -> Panel:
    generator, *others = evaluation.by_class
    own = evaluation.by_class[generator][metric]
    data: list[Json] = [
        {
            "type": "bar", "orientation": "h", "name": "generator", "y": list(own), "x": list(own.values()),
            "marker": {"color": "--best"}, "hovertemplate": "%{y}: %{x:.3f}<extra></extra>",
        }
    ]  # fmt: skip
    for name in others:
        values = evaluation.by_class[name].get(metric)
        if values:
            is_ceiling = name == CEILING
            marker = {
                "symbol": "line-ns-open" if is_ceiling else "circle-open", "size": 13 if is_ceiling else 8,
                "color": "--ceiling" if is_ceiling else "--ink", "line": {"width": 2},
            }  # fmt: skip
            data.append({
                "type": "scatter", "mode": "markers", "name": name, "y": list(values), "x": list(values.values()),
                "marker": marker, "hovertemplate": f"{name}, %{{y}}: %{{x:.3f}}<extra></extra>",
            })  # fmt: skip
    layout = {"yaxis": {"autorange": "reversed", "type": "category", "automargin": True}, "xaxis": {"rangemode": "tozero"}}
    return Panel(
        f"{metric} by class", "Bars: the generator. Marks: the same measure of control images.",
        {"data": data, "layout": {**layout, "showlegend": len(data) > 1}}, height=90 + 24 * len(own),
    )  # fmt: skip


def control_lines(evaluation: RecordedEvaluation | None, metric: str) -> Json:
    """The best control and the ceiling as lines across a figure, for its layout; empty where they are not known."""
    floor = evaluation.floor(metric) if evaluation else None
    level = evaluation.level(metric) if evaluation else None
    if floor is None:
        return {}
    lines = [(*floor, "--floor"), *([(CEILING, level, "--ceiling")] if level is not None else [])]
    shapes = [
        {
            "type": "line", "xref": "paper", "x0": 0, "x1": 1, "y0": y, "y1": y,
            "line": {"color": colour, "dash": "dot", "width": 1.5},
        }
        for _, y, colour in lines
    ]  # fmt: skip
    notes = [
        {
            "xref": "paper", "x": 0, "xanchor": "left", "y": y, "yanchor": "bottom", "text": name, "showarrow": False,
            "font": {"color": colour, "size": 11},
        }
        for name, y, colour in lines
    ]  # fmt: skip
    return {"shapes": shapes, "annotations": notes}
