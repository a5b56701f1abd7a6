"""Figures as plain plotly data: records in, panels out.

A colour is the name of a CSS variable, `--best`, which the page resolves when it draws: one figure serves light and dark. What
all figures share (fonts, grid, margins) is set there too.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from typing import Any, Final

import numpy as np
import pandas as pd

from dashboards.place import Dimension
from dashboards.records import OUTCOMES, Evaluation, Sweep, Trial

Json = dict[str, Any]

SCORES: Final = ("ssim/coverage", "tstr/1nn", "ssim/nearest")
_MARKS: Final = {"complete": "circle", "stopped": "circle-open", "failed": "x", "running": "diamond-open"}
_DECADES: Final = 1.5
"""A quantity that spans more powers of ten is drawn on a log axis."""
_FEW: Final = 8
"""Full trials below which importance is not computed: a forest over fewer says nothing."""
_HINT: Final = 30
"""Full trials below which it is called a hint."""
_GRID: Final = 24
"""Points a side of a contour's grid."""
_REACH: Final = 0.12
"""Width of the kernel that a contour averages over, as a share of each axis."""
_MOST_POINTS: Final = 60
"""Reports of a trial that are drawn; of more, these are taken evenly."""


@dataclass(frozen=True)
class Panel:
    """One figure with its title and how to read it."""

    title: str
    caption: str
    figure: Json
    """plotly's `data` and `layout`; or `curve`, the name of a metric whose curves the page draws."""
    height: int = 320
    """In CSS pixels."""
    wide: bool = False
    """Whether it takes the full width."""
    least: int = 0
    """Width in CSS pixels below which it is scrolled in its frame."""


@dataclass(frozen=True)
class Curves:
    """Metrics of all trials, once for all panels."""

    steps: list[int]
    trials: list[Json]
    """`n`, its number, and `o`, its outcome."""
    metrics: dict[str, list[list[float | None]]] = field(default_factory=dict)
    """By metric, for each trial its values at the first so many of `steps`; None where there is none."""


def between_floor_and_ceiling(found: Evaluation) -> Panel:
    """Scores of the best generator beside those of worthless and of real images."""
    generator, *controls, ceiling = found.scores
    metrics = [metric for metric in SCORES if metric in found.scores[generator]]
    looks = {generator: ("--best", "diamond", 15), ceiling: ("--ceiling", "line-ns-open", 20)}
    signs = ("circle-open", "square-open", "triangle-up-open", "cross-open", "star-open", "hexagon-open")
    looks |= {name: ("--floor", signs[index % len(signs)], 10) for index, name in enumerate(controls)}
    data = [
        {
            "type": "scatter", "mode": "markers", "name": name,
            "x": [found.scores[name].get(metric) for metric in metrics], "y": metrics,
            "marker": {"color": colour, "symbol": symbol, "size": size, "line": {"width": 0 if name == generator else 2}},
            "hovertemplate": f"{name}: %{{x:.3f}}<extra></extra>",
        }
        for name in [*controls, ceiling, generator]
        for colour, symbol, size in [looks[name]]
    ]  # fmt: skip
    layout = {
        "xaxis": {"rangemode": "tozero", "title": {"text": "score, larger is better"}},
        "yaxis": {"autorange": "reversed", "type": "category"},
        "showlegend": True,
    }
    return Panel(
        "Scores between floor and ceiling",
        f"Filled: the generator. Hollow: worthless sets of images, the floors. Bar: {ceiling}, the ceiling. "
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
            is_ceiling = name == found.ceiling
            marker = {
                "symbol": "line-ns-open" if is_ceiling else "circle-open", "size": 13 if is_ceiling else 8,
                "color": "--ceiling" if is_ceiling else "--floor", "line": {"width": 2},
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


_EXPLAINED: Final = "1 − ρ"
_CURVES: Final = {
    "kkt/rho": ("ρ, relative stationarity residual", "1: the samples explain nothing of the parameters. Lower is better."),
    _EXPLAINED: ("1 − ρ, what the samples explain", "The same on a log axis, where small gains show. ρ of 1 and more is drawn at the lower edge."),
    "loss/stationarity": ("Stationarity loss", "Falls also when the scaled parameters Λζ shrink: good news only when ρ falls too."),
    "loss/duality": ("Duality loss", "Complementary slackness: multipliers where margins are large."),
    "kkt/alpha": ("α, log of the parameters' scale", "Should level off. A drift without end while ρ stands still is a collapse."),
    "kkt/mu_mean": ("Mean multiplier", "Zeros are drawn at the lower edge."),
    "kkt/mu_active": ("Share of multipliers above 0", "0: there is no multiplier left, and ρ is 1."),
    "margin/q05": ("Margin, 5% quantile", "Of the classifier on the samples; below 0 it takes them for another class."),
    "margin/q50": ("Margin, median", "Half of the samples have more."),
    "margin/q95": ("Margin, 95% quantile", "Far above the training images' margins: over-confident samples."),
}


def curves_of(sweep: Sweep) -> tuple[Curves, list[Panel]]:
    """Curves of all trials and the panels that draw them, for what the trials logged of the KKT conditions."""
    logged = {name for trial in sweep.trials for name in trial.logged.curves}
    several = sorted(name for name in logged if name.startswith(("kkt/alpha_", "kkt/rho_")))
    metrics = [name for name in _CURVES if name in logged or (name == _EXPLAINED and "kkt/rho" in logged)] + several
    if sweep.objective.metric in logged and sweep.objective.metric not in metrics:
        metrics.insert(0, sweep.objective.metric)
    steps = _thinned(sorted({step for t in sweep.trials for m in metrics for step in t.logged.curves.get(m, {})}))
    trials = [trial for trial in sweep.trials if trial.logged.curves]
    values = {metric: [_aligned(trial, metric, steps) for trial in trials] for metric in metrics}
    found = Curves(steps, [{"n": trial.number, "o": trial.outcome} for trial in trials], values)
    return found, [_curve_panel(metric, found.metrics[metric], sweep) for metric in metrics]


def _curve_panel(metric: str, values: list[list[float | None]], sweep: Sweep) -> Panel:
    if metric == sweep.objective.metric:
        title, caption = f"{metric}, the objective", f"{_better(sweep)} is better."
    elif metric in _CURVES:
        title, caption = _CURVES[metric]
    else:
        letter, _, number = metric.removeprefix("kkt/").partition("_")
        title, caption = f"{'α' if letter == 'alpha' else 'ρ'} of classifier {number}", "As above, for one classifier."
    flat = [value for row in values for value in row if value is not None]
    log = needs_log(flat)
    figure: Json = {"curve": metric, "log": log}
    if log:
        figure["lowest"] = _short(min(value for value in flat if value > 0) / 2)
    return Panel(title, caption, figure, height=280)


def _aligned(trial: Trial, metric: str, steps: Sequence[int]) -> list[float | None]:
    points = trial.logged.curves.get("kkt/rho" if metric == _EXPLAINED else metric, {})
    if metric == _EXPLAINED:
        points = {step: max(0.0, 1 - rho) for step, rho in points.items()}
    row = [points.get(step) for step in steps]
    kept = [value if value is not None and math.isfinite(value) else None for value in row]
    while kept and kept[-1] is None:
        kept.pop()
    return kept


def _thinned(steps: list[int]) -> list[int]:
    if len(steps) <= _MOST_POINTS:
        return steps
    picked = np.unique(np.linspace(0, len(steps) - 1, _MOST_POINTS).round().astype(int))
    return [steps[index] for index in picked]


def needs_log(values: Iterable[float]) -> bool:
    """Whether numbers are drawn on a log axis: none below 0, and those above span more than one and a half powers of ten."""
    found = np.array([value for value in values if math.isfinite(value)])
    above = found[found > 0]
    if not len(above) or (found < 0).any():
        return False
    return bool(np.log10(above.max() / above.min()) > _DECADES)


def history(sweep: Sweep) -> Panel:
    """The objective of each trial in order, and the best so far; with controls where they are known."""
    data: list[Json] = []
    for outcome in OUTCOMES:
        trials = [trial for trial in sweep.of(outcome) if trial.value is not None]
        if trials:
            data.append({
                "type": "scatter", "mode": "markers", "name": outcome,
                "x": [trial.number for trial in trials], "y": [trial.value for trial in trials],
                "customdata": [trial.last_step for trial in trials],
                "marker": {"color": f"--{outcome}", "symbol": _MARKS[outcome], "size": 8},
                "hovertemplate": f"trial %{{x}}, {outcome}<br>%{{y:.4g}} at step %{{customdata}}<extra></extra>",
            })  # fmt: skip
    steps = best_so_far(sweep)
    data.append({
        "type": "scatter", "mode": "lines", "name": "best so far", "x": list(steps.index), "y": list(steps),
        "line": {"shape": "hv", "color": "--best", "width": 2}, "hoverinfo": "skip",
    })  # fmt: skip
    layout: Json = {"xaxis": {"title": {"text": "trial"}}, "yaxis": {"title": {"text": sweep.objective.metric}}}
    layout |= _lines(sweep.evaluation, sweep.objective.metric)
    return Panel(
        "Optimisation history",
        "Each mark is a trial's value at its last report; hollow ones were stopped early or are open. The line is the best full "
        f"trial so far; {_better(sweep).lower()} is better.",
        {"data": data, "layout": {**layout, "showlegend": True}}, height=380, wide=True,
    )  # fmt: skip


def front(sweep: Sweep) -> Panel | None:
    """Both objectives of full trials with the Pareto front; None in a sweep that has one."""
    if len(sweep.record.objectives) < 2:
        return None
    trials = [trial for trial in sweep.ranked if trial.second is not None]
    leaders = set(sweep.front)
    groups = (("complete", "--complete", [t for t in trials if t.number not in leaders]),
              ("Pareto front", "--best", [t for t in trials if t.number in leaders]))  # fmt: skip
    data = [
        {
            "type": "scatter", "mode": "markers", "name": name, "x": [t.value for t in found], "y": [t.second for t in found],
            "customdata": [t.number for t in found], "marker": {"color": colour, "size": 9},
            "hovertemplate": "trial %{customdata}<br>%{x:.4g}, %{y:.4g}<extra></extra>",
        }
        for name, colour, found in groups if found
    ]  # fmt: skip
    first, second = sweep.record.objectives
    layout = {"xaxis": {"title": {"text": first.metric}}, "yaxis": {"title": {"text": second.metric}}, "showlegend": True}
    return Panel(
        "Pareto front", f"Full trials; {first.metric} ({first.direction}) and {second.metric} ({second.direction}). "
        "No trial beats one on the front in both.", {"data": data, "layout": layout},
    )  # fmt: skip


def best_so_far(sweep: Sweep) -> pd.Series:
    """By trial number, the best full trial up to there."""
    full = pd.Series({t.number: t.value for t in sweep.of("complete") if t.value is not None}, dtype=float).sort_index()
    found = full.cummin() if sweep.objective.sign < 0 else full.cummax()
    if len(found):
        found.loc[sweep.trials[-1].number] = found.iloc[-1]
    return found


def _lines(found: Evaluation | None, metric: str) -> Json:
    """The best control and the ceiling as lines across a figure."""
    floor = found.floor(metric) if found else None
    if found is None or floor is None or metric not in found.scores[found.ceiling]:
        return {}
    levels = [(*floor, "--floor"), (found.ceiling, found.scores[found.ceiling][metric], "--ceiling")]
    shapes = [
        {"type": "line", "xref": "paper", "x0": 0, "x1": 1, "y0": y, "y1": y, "line": {"color": colour, "dash": "dot", "width": 1.5}}
        for _, y, colour in levels
    ]
    notes = [
        {
            "xref": "paper", "x": 0, "xanchor": "left", "y": y, "yanchor": "bottom", "text": name, "showarrow": False,
            "font": {"color": colour, "size": 11},
        }
        for name, y, colour in levels
    ]  # fmt: skip
    return {"shapes": shapes, "annotations": notes}


def importances(sweep: Sweep) -> dict[str, float]:
    """Share of the objective's variation that each searched setting explains, over full trials; largest first.

    Empty where there are too few full trials, or they all have the same value.
    """
    from optuna.importance import FanovaImportanceEvaluator, get_param_importances
    from optuna.trial import FrozenTrial

    if len(sweep.ranked) < _FEW or len({trial.value for trial in sweep.ranked}) < 2 or not sweep.record.space:
        return {}

    def value(trial: FrozenTrial) -> float:
        return float(trial.values[0])

    try:
        found = get_param_importances(sweep.ledger.study, evaluator=FanovaImportanceEvaluator(seed=0), target=value)
    except (ValueError, RuntimeError):  # a setting that has one value only, or is not in every trial
        return {}
    return {name: share for name, share in found.items() if math.isfinite(share)}


def importance(sweep: Sweep, shares: dict[str, float]) -> Panel:
    """Bars of `importances`."""
    count = len(sweep.ranked)
    warning = f" From {count} full trials this is a hint, no more." if count < _HINT else ""
    bars = {"type": "bar", "orientation": "h", "y": list(shares), "x": list(shares.values()), "marker": {"color": "--complete"}}
    layout = {"yaxis": {"autorange": "reversed", "automargin": True}, "xaxis": {"tickformat": ".0%", "rangemode": "tozero"}}
    return Panel(
        "Importance of settings",
        f"How much of the differences in {sweep.objective.metric} among full trials each setting explains (fANOVA).{warning} "
        "Trials that were stopped early take no part.",
        {"data": [{**bars, "hovertemplate": "%{y}: %{x:.0%}<extra></extra>"}], "layout": layout}, height=110 + 24 * len(shares),
    )  # fmt: skip


def parallel(sweep: Sweep) -> Panel | None:
    """Parallel coordinates of all trials that have a value; None where nothing is searched."""
    frame = sweep.table.dropna(subset=["value"])
    space = [dimension for dimension in sweep.record.space if dimension.name in frame]
    if not space or len(frame) < 2:
        return None
    axes = [_axis(dimension, frame[dimension.name]) for dimension in space]
    value = frame["value"]
    axes.append({"label": sweep.objective.metric, "values": _shorts(value)})
    line = {
        "color": _shorts(value), "colorscale": [[0, "--scale-low"], [1, "--scale-high"]],
        "reversescale": sweep.objective.sign < 0, "showscale": False,
    }  # fmt: skip
    data = [{"type": "parcoords", "dimensions": axes, "line": line, "labelangle": -25, "labelside": "top"}]
    return Panel(
        "Parallel coordinates",
        "A line is a trial; the stronger its colour, the better it did. Drag along an axis to keep the lines that pass there, "
        "click it to let go.",
        {"data": data, "layout": {"margin": {"l": 60, "r": 60, "t": 95, "b": 24}}}, height=400, wide=True,
        least=110 * len(axes),
    )  # fmt: skip


def _axis(dimension: Dimension, values: pd.Series) -> Json:
    if dimension.choices:
        order = list(dimension.choices)
        positions = [order.index(value) if value in order else None for value in values]
        return {
            "label": dimension.name, "values": positions, "tickvals": list(range(len(order))), "ticktext": [str(c) for c in order],
            "range": [-0.3, len(order) - 0.7],
        }  # fmt: skip
    if dimension.log:
        logs = np.log10(values.astype(float))
        ticks = np.linspace(logs.min(), logs.max(), 5)
        return {
            "label": dimension.name, "values": _shorts(logs), "tickvals": _shorts(ticks),
            "ticktext": [f"{10**tick:.2g}" for tick in ticks],
        }  # fmt: skip
    return {"label": dimension.name, "values": _shorts(values)}


def slices(sweep: Sweep, order: Sequence[str]) -> list[Panel]:
    """The objective against each searched setting, a panel a setting; those in `order` first."""
    by_name = {dimension.name: dimension for dimension in sweep.record.space}
    names = [name for name in order if name in by_name]
    names += [name for name in by_name if name not in names]
    return [_slice(sweep, by_name[name]) for name in names]


def _slice(sweep: Sweep, dimension: Dimension) -> Panel:
    data = []
    for outcome in OUTCOMES:
        trials = [trial for trial in sweep.of(outcome) if trial.value is not None and dimension.name in trial.params]
        if trials:
            x = [trial.params[dimension.name] for trial in trials]
            data.append({
                "type": "scatter", "mode": "markers", "name": outcome, "customdata": [trial.number for trial in trials],
                "x": [str(value) for value in x] if dimension.choices else x, "y": [trial.value for trial in trials],
                "marker": {"color": f"--{outcome}", "symbol": _MARKS[outcome], "size": 7},
                "hovertemplate": "trial %{customdata}<br>%{x}: %{y:.4g}<extra></extra>",
            })  # fmt: skip
    best = sweep.best
    if dimension.name in best.params:
        at = best.params[dimension.name]
        data.append({
            "type": "scatter", "mode": "markers", "name": "best", "x": [str(at) if dimension.choices else at], "y": [best.value],
            "marker": {"color": "--best", "symbol": "diamond", "size": 11},
            "hovertemplate": f"trial {best.number}, the best<br>%{{x}}: %{{y:.4g}}<extra></extra>",
        })  # fmt: skip
    kind: Json = {"type": "category"} if dimension.choices else {"type": "log"} if dimension.log else {}
    if dimension.choices:
        kind |= {"categoryorder": "array", "categoryarray": [str(choice) for choice in dimension.choices]}
    layout = {"xaxis": {**kind, "title": {"text": dimension.name}}, "yaxis": {"title": {"text": sweep.objective.metric}}}
    return Panel(dimension.name, "", {"data": data, "layout": {**layout, "showlegend": False}}, height=240)


def contours(sweep: Sweep, order: Sequence[str], most: int = 4) -> list[Panel]:
    """The objective over pairs of ranges, those of the first few settings in `order` (of the space where that is empty)."""
    ranges = {dimension.name: dimension for dimension in sweep.record.space if not dimension.choices}
    names = [name for name in order if name in ranges] or list(ranges)
    found = [_contour(sweep, ranges[x], ranges[y]) for x, y in combinations(names[:most], 2)]
    return [panel for panel in found if panel]


def _contour(sweep: Sweep, x: Dimension, y: Dimension) -> Panel | None:
    trials = [t for t in sweep.trials if t.value is not None and {x.name, y.name} <= t.params.keys()]
    if len(trials) < _FEW:
        return None
    values = np.array([trial.value for trial in trials], dtype=float)
    at = np.array([[_place(trial, x), _place(trial, y)] for trial in trials], dtype=float)
    low, high = at.min(axis=0), at.max(axis=0)
    if not (high > low).all():
        return None
    ticks = [np.linspace(low[axis], high[axis], _GRID) for axis in (0, 1)]
    surface = local_mean((at - low) / (high - low), values, _GRID)
    shown = [10**tick if dimension.log else tick for tick, dimension in zip(ticks, (x, y), strict=True)]
    scale = {"colorscale": [[0, "--scale-low"], [1, "--scale-high"]], "reversescale": sweep.objective.sign < 0}
    data = [
        {
            "type": "contour", "x": _shorts(shown[0]), "y": _shorts(shown[1]), "z": [_shorts(row) for row in surface], **scale,
            "showscale": False, "contours": {"coloring": "heatmap"}, "line": {"width": 0}, "hoverinfo": "skip",
        },
        {
            "type": "scatter", "mode": "markers", "x": [trial.params[x.name] for trial in trials],
            "y": [trial.params[y.name] for trial in trials], "text": [f"trial {t.number}: {t.value:.4g}" for t in trials],
            "marker": {"size": 7, "color": _shorts(values), **scale, "line": {"width": 1, "color": "--paper"}},
            "hovertemplate": "%{text}<extra></extra>",
        },
        {
            "type": "scatter", "mode": "markers", "x": [sweep.best.params[x.name]], "y": [sweep.best.params[y.name]],
            "marker": {"color": "--best", "symbol": "diamond", "size": 11, "line": {"width": 1, "color": "--paper"}},
            "hovertemplate": f"trial {sweep.best.number}, the best<extra></extra>",
        },
    ]  # fmt: skip
    axes = {
        key: {"type": "log" if dimension.log else "linear", "title": {"text": dimension.name}}
        for key, dimension in (("xaxis", x), ("yaxis", y))
    }
    return Panel(f"{x.name} and {y.name}", "", {"data": data, "layout": {**axes, "showlegend": False}}, height=300)


def local_mean(at: np.ndarray[Any, Any], values: np.ndarray[Any, Any], size: int) -> np.ndarray[Any, Any]:
    """Mean of `values` [K] at points [K, 2] in [0, 1]², weighted by a Gaussian around each point of a grid: [size, size].

    The first axis is the second coordinate, as plotly wants it. NaN where no point lies near.
    """
    ticks = np.linspace(0, 1, size)
    grid = np.stack(np.meshgrid(ticks, ticks), axis=-1)
    distance = ((grid[:, :, None] - at) ** 2).sum(axis=-1)
    weight = np.exp(-distance / (2 * _REACH**2))
    mean = (weight * values).sum(axis=-1) / np.maximum(weight.sum(axis=-1), 1e-300)
    return np.where(distance.min(axis=-1) <= (2 * _REACH) ** 2, mean, np.nan)


def _place(trial: Trial, dimension: Dimension) -> float:
    value = float(trial.params[dimension.name])
    return math.log10(value) if dimension.log else value


def survival(sweep: Sweep) -> Panel:
    """How many trials got how far: at each step where one ended, how many went on, were stopped, failed or stand open."""
    rungs = [step for step in sweep.record.rungs if step < sweep.record.horizon]
    ends = {trial.last_step for trial in sweep.trials if trial.outcome != "complete"}
    steps = sorted({*rungs, *ends, sweep.record.horizon} - {0})
    labels = [f"{step:,}" for step in steps]
    reached = {step: [trial for trial in sweep.trials if trial.last_step >= step] for step in steps}

    def ended(step: int, outcome: str) -> int:
        return sum(trial.last_step == step and trial.outcome == outcome for trial in reached[step])

    gone = {outcome: [ended(step, outcome) for step in steps] for outcome in ("stopped", "failed", "running")}
    on = [len(reached[step]) - sum(gone[outcome][index] for outcome in gone) for index, step in enumerate(steps)]
    names = {"stopped": "stopped here", "failed": "failed here", "running": "open here"}
    bars = [("went on, or complete", "--complete", on)]
    bars += [(names[outcome], f"--{outcome}", counts) for outcome, counts in gone.items() if any(counts)]
    data = [
        {"type": "bar", "name": name, "x": labels, "y": counts, "marker": {"color": colour},
         "hovertemplate": f"step %{{x}}: %{{y}} {name}<extra></extra>"}
        for name, colour, counts in bars
    ]  # fmt: skip
    layout = {
        "barmode": "stack", "xaxis": {"type": "category", "title": {"text": "optimiser step"}},
        "yaxis": {"title": {"text": "trials that came so far"}}, "showlegend": True,
    }  # fmt: skip
    at = f" ASHA decides at steps {', '.join(f'{rung:,}' for rung in rungs)}." if rungs else ""
    return Panel("Survival", f"Of the trials that came so far, how many went on.{at}", {"data": data, "layout": layout})


def timeline(sweep: Sweep) -> Panel | None:
    """Trials as bars in time, a row a worker; None where no trial has a start."""
    spans = [(trial, work_of(trial)) for trial in sweep.trials]
    spans = [(trial, parts) for trial, parts in spans if parts]
    if not spans:
        return None
    began = min(parts[0][0] for _, parts in spans)
    rows = lanes([(parts[0][0], parts[-1][1]) for _, parts in spans])
    total = max(parts[-1][1] for _, parts in spans) - began
    unit, seconds = ("hours", 3600) if total > 2 * 3600 else ("minutes", 60)
    data = []
    for outcome in OUTCOMES:
        bars = [(trial, row, part) for (trial, parts), row in zip(spans, rows, strict=True) for part in parts if trial.outcome == outcome]
        if bars:
            data.append({
                "type": "bar", "orientation": "h", "name": outcome, "y": [row + 1 for _, row, _ in bars],
                "base": [_short((begin - began) / seconds) for _, _, (begin, _) in bars],
                "x": [_short((end - begin) / seconds) for _, _, (begin, end) in bars],
                "customdata": [[trial.number, trial.last_step] for trial, _, _ in bars], "width": 0.8,
                "marker": {"color": f"--{outcome}", "line": {"color": "--paper", "width": 1}},
                "hovertemplate": f"trial %{{customdata[0]}}, {outcome} at step %{{customdata[1]}}<br>%{{x:.3g}} {unit}<extra></extra>",
            })  # fmt: skip
    layout = {
        "barmode": "overlay", "xaxis": {"title": {"text": f"{unit} since the start"}},
        "yaxis": {"title": {"text": "worker"}, "dtick": max(1, (max(rows) + 1) // 8), "autorange": "reversed"}, "showlegend": True,
    }  # fmt: skip
    return Panel(
        "Time line of workers",
        "A bar is a trial. Rows are filled from the top, so they tell how many trials ran at once, not on which machine. "
        "Gaps within a row: nothing ran, or the sweep was interrupted.",
        {"data": data, "layout": layout}, height=min(600, 150 + 24 * (max(rows) + 1)), wide=True,
    )  # fmt: skip


_PAUSE: Final = 10
"""A silence of so many times the usual one between two reports is an interruption."""


def work_of(trial: Trial) -> list[tuple[float, float]]:
    """When a trial was at work, (begin, end) in seconds since 1970: its span, cut where the sweep was interrupted."""
    reports = [when for _, when in sorted(trial.logged.times.items())]
    begin = trial.started if trial.started is not None else (reports[0] if reports else None)
    end = trial.ended if trial.ended is not None else (reports[-1] if reports else None)
    if begin is None or end is None or end < begin:
        return []
    points = [begin, *(when for when in sorted(reports) if begin <= when <= end), end]
    silences = np.diff(points)
    longest = max(60.0, _PAUSE * float(np.median(silences)))
    parts, since = [], begin
    for before, after in zip(points, points[1:], strict=False):
        if after - before > longest:
            parts.append((since, before))
            since = after
    return [*parts, (since, end)]


def lanes(spans: Sequence[tuple[float, float]]) -> list[int]:
    """For each (begin, end) the first row that is free at its begin: as many rows as overlap."""
    free, found = list[float](), [0] * len(spans)
    for index in sorted(range(len(spans)), key=lambda index: spans[index][0]):
        begin, end = spans[index]
        row = next((row for row, until in enumerate(free) if until <= begin), len(free))
        if row == len(free):
            free.append(end)
        free[row], found[index] = end, row
    return found


def _better(sweep: Sweep) -> str:
    return "Lower" if sweep.objective.sign < 0 else "Higher"


def _short(value: float) -> float:
    return float(f"{value:.5g}")


def _shorts(values: Iterable[float]) -> list[float | None]:
    return [_short(value) if math.isfinite(value) else None for value in values]
