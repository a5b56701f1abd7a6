"""Scores of the best generator between what worthless and real images get."""

from __future__ import annotations

from typing import Final

from dashboards.panels import Json, Panel
from dashboards.records import CEILING, Evaluation

SCORES: Final = ("ssim/coverage", "tstr/1nn", "ssim/nearest")
"""Metrics that judge images, the most telling first."""
TABLED: Final = (*SCORES, "classifier/accuracy", "kkt/rho")
"""What tables tell of a trial, where it is logged."""


def between_floor_and_ceiling(found: Evaluation) -> Panel:
    """Scores of the best generator beside those of worthless and of real images."""
    generator, controls = found.generator, found.controls
    shown = [*controls, *([CEILING] if CEILING in found.scores else []), generator]
    metrics = [metric for metric in SCORES if metric in found.scores[generator]]
    looks = {generator: ("--best", "diamond", 15), CEILING: ("--ceiling", "line-ns-open", 20)}
    signs = ("circle-open", "square-open", "triangle-up-open", "cross-open", "star-open", "hexagon-open")
    looks |= {name: ("--floor", signs[index % len(signs)], 10) for index, name in enumerate(controls)}
    data = [
        {
            "type": "scatter", "mode": "markers", "name": name,
            "x": [found.scores[name].get(metric) for metric in metrics], "y": metrics,
            "marker": {"color": colour, "symbol": symbol, "size": size, "line": {"width": 0 if name == generator else 2}},
            "hovertemplate": f"{name}: %{{x:.3f}}<extra></extra>",
        }
        for name in shown
        for colour, symbol, size in [looks[name]]
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


def by_class(found: Evaluation) -> list[Panel]:
    """A panel a metric: bars of the generator's score in each class, with controls and ceiling as marks."""
    own = next(iter(found.by_class.values()), {})
    return [_classes(found, metric) for metric in own]


def _classes(found: Evaluation, metric: str) -> Panel:
    generator, *others = found.by_class
    own = found.by_class[generator][metric]
    data: list[Json] = [
        {
            "type": "bar", "orientation": "h", "name": "generator", "y": list(own), "x": list(own.values()),
            "marker": {"color": "--best"}, "hovertemplate": "%{y}: %{x:.3f}<extra></extra>",
        }
    ]  # fmt: skip
    for name in others:
        values = found.by_class[name].get(metric)
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


def levels(found: Evaluation | None, metric: str) -> Json:
    """The best control and the ceiling as lines across a figure, for its layout; empty where they are not known."""
    floor = found.floor(metric) if found else None
    level = found.level(metric) if found else None
    if floor is None:
        return {}
    lines = [(*floor, "--floor"), *([(CEILING, level, "--ceiling")] if level is not None else [])]
    shapes = [
        {
            "type": "line",
            "xref": "paper",
            "x0": 0,
            "x1": 1,
            "y0": y,
            "y1": y,
            "line": {"color": colour, "dash": "dot", "width": 1.5},
        }
        for _, y, colour in lines
    ]
    notes = [
        {
            "xref": "paper", "x": 0, "xanchor": "left", "y": y, "yanchor": "bottom", "text": name, "showarrow": False,
            "font": {"color": colour, "size": 11},
        }
        for name, y, colour in lines
    ]  # fmt: skip
    return {"shapes": shapes, "annotations": notes}
