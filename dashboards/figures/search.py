"""Figures of the search: history, Pareto front, importance, parallel coordinates, slices, contours."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import combinations
from typing import Final

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from dashboards.figures.panel import MARKS, SCALE, Json, Panel, better_direction, whole_axis
from dashboards.figures.scores import control_lines
from dashboards.settings import RecordedDimension
from dashboards.sweep import Sweep, Trial
from records.trial import REPEATS, STATES

_MIN_TRIALS: Final = 8
"""Full trials below which importance is not computed: a forest over fewer says nothing."""
_MANY_TRIALS: Final = 30
"""Full trials below which it is called a hint."""
_GRID: Final = 24
"""Points a side of a contour's grid."""
_WITHOUT: Final = "not searched"
"""The tick of an axis at which the lines of trials pass that lack its setting."""
_KERNEL_WIDTH: Final = 0.12
"""Width of the kernel that a contour averages over, as a share of each axis."""


def history(sweep: Sweep) -> Panel:
    """The objective of each trial in order, and the best so far; with controls where they are known."""
    data: list[Json] = []
    for state in STATES:
        trials = [trial for trial in sweep.trials_in(state) if trial.value is not None]
        if trials:
            data.append({
                "type": "scatter", "mode": "markers", "name": state,
                "x": [trial.number for trial in trials], "y": [trial.value for trial in trials],
                "customdata": [trial.last_step for trial in trials],
                "marker": {"color": f"--{state}", "symbol": MARKS[state], "size": 8},
                "hovertemplate": f"trial %{{x}}, {state}<br>%{{y:.4g}} at step %{{customdata}}<extra></extra>",
            })  # fmt: skip
    steps = best_so_far(sweep)
    data.append({
        "type": "scatter", "mode": "lines", "name": "best so far", "x": list(steps.index), "y": list(steps),
        "line": {"shape": "hv", "color": "--best", "width": 2}, "hoverinfo": "skip",
    })  # fmt: skip
    last = max((trial.number for trial in sweep.trials), default=0)
    layout: Json = {"xaxis": whole_axis("trial", last), "yaxis": {"title": {"text": sweep.objective.metric}}}
    layout |= control_lines(sweep.evaluation, sweep.objective.metric)
    return Panel(
        "Optimisation history",
        "Each mark is a trial's value at its last report; hollow ones were stopped early or are open. The line is the best "
        f"full trial so far; {better_direction(sweep.objective).lower()} is better.",
        {"data": data, "layout": {**layout, "showlegend": True}}, height=380, wide=True,
    )  # fmt: skip


def best_so_far(sweep: Sweep) -> pd.Series:
    """The value of the best full trial so far, by trial number."""
    full = pd.Series({t.number: t.value for t in sweep.contenders if t.value is not None}, dtype=float).sort_index()
    best = full.cummin() if sweep.objective.sign < 0 else full.cummax()
    if len(best):
        best.loc[sweep.trials[-1].number] = best.iloc[-1]
    return best


def pareto_front(sweep: Sweep) -> Panel | None:
    """Both objectives of full trials with the Pareto front; None in a sweep that has one."""
    if len(sweep.settings.objectives) < 2:
        return None
    trials = [trial for trial in sweep.ranked if trial.second is not None]
    leaders = set(sweep.runs.front)
    groups = (("complete", "--complete", [t for t in trials if t.number not in leaders]),
              ("Pareto front", "--best", [t for t in trials if t.number in leaders]))  # fmt: skip
    data = [
        {
            "type": "scatter", "mode": "markers", "name": name, "x": [t.value for t in group], "y": [t.second for t in group],
            "customdata": [t.number for t in group], "marker": {"color": colour, "size": 9},
            "hovertemplate": "trial %{customdata}<br>%{x:.4g}, %{y:.4g}<extra></extra>",
        }
        for name, colour, group in groups if group
    ]  # fmt: skip
    first, second = sweep.settings.objectives
    layout = {"xaxis": {"title": {"text": first.metric}}, "yaxis": {"title": {"text": second.metric}}, "showlegend": True}
    return Panel(
        "Pareto front", f"Full trials; {first.metric} ({first.direction}) and {second.metric} ({second.direction}). "
        "No trial beats one on the front in both.", {"data": data, "layout": layout},
    )  # fmt: skip


def importance_shares(sweep: Sweep) -> dict[str, float]:
    """Share of the objective's variation that each searched setting explains, over full trials; largest first.

    Empty where there are too few full trials, or they all have the same value.
    """
    if len(sweep.ranked) < _MIN_TRIALS or len({trial.value for trial in sweep.ranked}) < 2 or not sweep.settings.space:
        return {}

    import optuna
    from optuna.importance import FanovaImportanceEvaluator, get_param_importances
    from optuna.trial import FrozenTrial

    def value(trial: FrozenTrial) -> float:
        return float(trial.values[0])

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(directions=[f"{objective.direction}imize" for objective in sweep.settings.objectives])
    # Repetitions would count the settings of the best several times.
    study.add_trials([trial for trial in sweep.settings.study.frozen_trials() if REPEATS not in trial.user_attrs])
    try:
        shares = get_param_importances(study, evaluator=FanovaImportanceEvaluator(seed=0), target=value)
    except (ValueError, RuntimeError):  # a setting that has one value only, or is not in every trial
        return {}
    return {name: share for name, share in shares.items() if math.isfinite(share)}


def importance_bars(sweep: Sweep, shares: dict[str, float]) -> Panel:
    """Bars of `importance_shares`."""
    count = len(sweep.ranked)
    lacking = any(dimension.name not in trial.params for dimension in sweep.settings.space for trial in sweep.ranked)
    warning = f" From {count} full trials this is a hint, no more." if count < _MANY_TRIALS else ""
    bars = {"type": "bar", "orientation": "h", "y": list(shares), "x": list(shares.values()), "marker": {"color": "--complete"}}
    layout = {"yaxis": {"autorange": "reversed", "automargin": True}, "xaxis": {"tickformat": ".0%", "rangemode": "tozero"}}
    return Panel(
        "Importance of settings",
        f"How much of the differences in {sweep.objective.metric} among full trials each setting explains (fANOVA).{warning} "
        f"Trials that were stopped early take no part{', nor do settings that some full trials lack' if lacking else ''}.",
        {"data": [{**bars, "hovertemplate": "%{y}: %{x:.0%}<extra></extra>"}], "layout": layout}, height=110 + 24 * len(shares),
    )  # fmt: skip


def parallel_coordinates(sweep: Sweep) -> Panel | None:
    """Parallel coordinates of all trials that have a value; None where nothing is searched."""
    frame = pd.DataFrame([{"value": trial.value, **trial.params} for trial in sweep.trials if trial.value is not None])
    space = [dimension for dimension in sweep.settings.space if dimension.name in frame]
    if not space or len(frame) < 2:
        return None
    axes = [_axis(dimension, frame[dimension.name]) for dimension in space]
    value = frame["value"]
    axes.append({"label": sweep.objective.metric, "values": list(value)})
    line = {
        "color": list(value), "colorscale": SCALE,
        "reversescale": sweep.objective.sign < 0, "showscale": False,
    }  # fmt: skip
    data = [{"type": "parcoords", "dimensions": axes, "line": line, "labelangle": -25, "labelside": "top"}]
    return Panel(
        "Parallel coordinates",
        "A line is a trial; the stronger its colour, the better it did. Drag along an axis to keep the lines that pass there, "
        "click it to let go.",
        {"data": data, "layout": {"margin": {"l": 60, "r": 60, "t": 95, "b": 24}}}, height=400, wide=True,
        min_width=110 * len(axes),
    )  # fmt: skip


def _axis(dimension: RecordedDimension, values: pd.Series) -> Json:
    """An axis of parallel coordinates. Trials that lack the setting pass below all others, for a line cannot have a gap."""
    lacking = values.isna()
    if dimension.choices:
        order = list(dimension.choices)
        at = [float(order.index(value)) if value in order else math.nan for value in values]
        ticks, labels = [float(index) for index in range(len(order))], [str(choice) for choice in order]
        low, high, step = 0.0, len(order) - 1.0, 1.0
    else:
        numbers = np.log10(values.astype(float)) if dimension.log else values.astype(float)
        at, low, high = list(numbers), float(numbers.min()), float(numbers.max())
        if not dimension.log and not lacking.any():
            return {"label": dimension.name, "values": at}
        ticks = list(np.linspace(low, high, 5))
        labels = [f"{10**tick if dimension.log else tick:.2g}" for tick in ticks]
        step = (high - low) / 5 or 1.0
    if lacking.any():
        low -= step
        at = [low if missing else value for value, missing in zip(at, lacking, strict=True)]
        ticks, labels = [low, *ticks], [_WITHOUT, *labels]
    axis: Json = {"label": dimension.name, "values": at, "tickvals": ticks, "ticktext": labels}
    return axis | ({"range": [low - 0.3, high + 0.3]} if dimension.choices else {})


def slices(sweep: Sweep, order: Sequence[str]) -> list[Panel]:
    """The objective against each searched setting, a panel a setting; those in `order` first."""
    by_name = {dimension.name: dimension for dimension in sweep.settings.space}
    names = [name for name in order if name in by_name]
    names += [name for name in by_name if name not in names]
    return [_slice(sweep, by_name[name]) for name in names]


def _slice(sweep: Sweep, dimension: RecordedDimension) -> Panel:
    data = []
    for state in STATES:
        trials = [trial for trial in sweep.trials_in(state) if trial.value is not None and dimension.name in trial.params]
        if trials:
            x = [trial.params[dimension.name] for trial in trials]
            data.append({
                "type": "scatter", "mode": "markers", "name": state, "customdata": [trial.number for trial in trials],
                "x": [str(value) for value in x] if dimension.choices else x, "y": [trial.value for trial in trials],
                "marker": {"color": f"--{state}", "symbol": MARKS[state], "size": 7},
                "hovertemplate": "trial %{customdata}<br>%{x}: %{y:.4g}<extra></extra>",
            })  # fmt: skip
    best = sweep.best
    if dimension.name in best.params:
        at = best.params[dimension.name]
        data.append({
            "type": "scatter", "mode": "markers", "name": "best",
            "x": [str(at) if dimension.choices else at], "y": [best.value],
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
    ranges = {dimension.name: dimension for dimension in sweep.settings.space if not dimension.choices}
    names = [name for name in order if name in ranges] or list(ranges)
    panels = [_contour(sweep, ranges[x], ranges[y]) for x, y in combinations(names[:most], 2)]
    return [panel for panel in panels if panel]


def _contour(sweep: Sweep, x: RecordedDimension, y: RecordedDimension) -> Panel | None:
    trials = [t for t in sweep.trials if t.value is not None and {x.name, y.name} <= t.params.keys()]
    if len(trials) < _MIN_TRIALS:
        return None
    values = np.array([trial.value for trial in trials], dtype=float)
    at = np.array([[_coordinate(trial, x), _coordinate(trial, y)] for trial in trials], dtype=float)
    low, high = at.min(axis=0), at.max(axis=0)
    if not (high > low).all():
        return None
    ticks = [np.linspace(low[axis], high[axis], _GRID) for axis in (0, 1)]
    surface = local_mean((at - low) / (high - low), values, _GRID)
    shown = [10**tick if dimension.log else tick for tick, dimension in zip(ticks, (x, y), strict=True)]
    scale = {"colorscale": SCALE, "reversescale": sweep.objective.sign < 0}
    best = [trial for trial in trials if trial.number == sweep.best.number]  # it may lack a setting that has a condition
    data = [
        {
            "type": "contour", "x": list(shown[0]), "y": list(shown[1]),
            "z": [list(row) for row in surface],
            **scale, "showscale": False, "contours": {"coloring": "heatmap"}, "line": {"width": 0}, "hoverinfo": "skip",
        },
        {
            "type": "scatter", "mode": "markers", "x": [trial.params[x.name] for trial in trials],
            "y": [trial.params[y.name] for trial in trials], "text": [f"trial {t.number}: {t.value:.4g}" for t in trials],
            "marker": {"size": 7, "color": list(values), **scale, "line": {"width": 1, "color": "--paper"}},
            "hovertemplate": "%{text}<extra></extra>",
        },
        {
            "type": "scatter", "mode": "markers", "x": [t.params[x.name] for t in best], "y": [t.params[y.name] for t in best],
            "marker": {"color": "--best", "symbol": "diamond", "size": 11, "line": {"width": 1, "color": "--paper"}},
            "hovertemplate": f"trial {sweep.best.number}, the best<extra></extra>",
        },
    ]  # fmt: skip
    axes = {
        key: {"type": "log" if dimension.log else "linear", "title": {"text": dimension.name}}
        for key, dimension in (("xaxis", x), ("yaxis", y))
    }
    return Panel(f"{x.name} and {y.name}", "", {"data": data, "layout": {**axes, "showlegend": False}}, height=300)


def local_mean(points: NDArray[np.float64], values: NDArray[np.float64], size: int) -> NDArray[np.float64]:
    """Mean of `values` [K] at points [K, 2] in [0, 1]², weighted by a Gaussian around each point of a grid: [size, size].

    The first axis is the second coordinate, as plotly wants it. NaN where no point lies near.
    """
    ticks = np.linspace(0, 1, size)
    grid = np.stack(np.meshgrid(ticks, ticks), axis=-1)
    distance = ((grid[:, :, None] - points) ** 2).sum(axis=-1)
    weight = np.exp(-distance / (2 * _KERNEL_WIDTH**2))
    mean = (weight * values).sum(axis=-1) / np.maximum(weight.sum(axis=-1), 1e-300)
    return np.where(distance.min(axis=-1) <= (2 * _KERNEL_WIDTH) ** 2, mean, np.nan)


def _coordinate(trial: Trial, dimension: RecordedDimension) -> float:
    value = float(trial.params[dimension.name])
    return math.log10(value) if dimension.log else value
