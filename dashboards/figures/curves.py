"""Curves of all trials: the data once, and a panel for each metric that draws from it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

import numpy as np

from dashboards.figures.panel import Json, Panel, better_direction, needs_log
from dashboards.sweep import Sweep, Trial

_MOST_POINTS: Final = 60
"""Reports of a trial that are drawn; of more, so many are taken evenly."""
_FEWEST_POINTS: Final = 12
_MOST_REPORTS: Final = 12_000
"""Reports of all trials together that one figure draws: a sweep of a thousand trials shows twelve of each."""


@dataclass(frozen=True)
class CurveData:
    """Metrics of all trials, once for all panels."""

    steps: list[int]
    trials: list[Json]
    """`number` and `state` of each."""
    metrics: dict[str, list[list[float | None]]] = field(default_factory=dict)
    """By metric, for each trial its values at the first so many of `steps`; None where there is none."""


_EXPLAINED: Final = "1 − ρ"
_CURVES: Final = {
    "kkt/rho": ("ρ, relative stationarity residual", "1: the samples explain nothing of the parameters. Lower is better."),
    _EXPLAINED: (
        "1 − ρ, what the samples explain",
        "The other side of ρ, where small gains show. On a log axis, ρ of 1 and more is drawn at the lower edge.",
    ),
    "loss/stationarity": (
        "Stationarity loss",
        "Falls also when the scaled parameters Λζ shrink: good news only when ρ falls too.",
    ),
    "loss/duality": ("Duality loss", "Complementary slackness: multipliers where margins are large."),
    "kkt/alpha": (
        "α, log of the parameters' scale",
        "Should level off. A drift without end while ρ stands still is a collapse.",
    ),
    "kkt/mu_mean": ("Mean multiplier", "On a log axis, zeros are drawn at the lower edge."),
    "kkt/mu_active": ("Share of multipliers above 0", "0: there is no multiplier left, and ρ is 1."),
    "kkt/active": (
        "Share of the KKT conditions in the gradient",
        "On the generated images. 0: the pictures come from the other losses alone.",
    ),
    "margin/q05": ("Margin, 5% quantile", "Of the classifier on the samples; below 0 it takes them for another class."),
    "margin/q50": ("Margin, median", "Half of the samples have more."),
    "margin/q95": ("Margin, 95% quantile", "Far above the training images' margins: over-confident samples."),
}


_MAY_BE_LOG: Final = (_EXPLAINED, "loss/stationarity", "loss/duality", "kkt/mu_mean")
"""Sizes that a training run changes by orders of magnitude; shares, margins and α stay on a linear axis."""


def curve_figures(sweep: Sweep) -> tuple[CurveData, list[Panel]]:
    """Curves of all trials and the panels that draw them, for what the trials logged of the KKT conditions."""
    logged = {name for trial in sweep.trials for name in trial.run.curves}
    several = sorted(name for name in logged if name.startswith(("kkt/alpha_", "kkt/rho_")))
    metrics = [name for name in _CURVES if name in logged or (name == _EXPLAINED and "kkt/rho" in logged)] + several
    if sweep.objective.metric in logged and sweep.objective.metric not in metrics:
        metrics.insert(0, sweep.objective.metric)
    trials = [trial for trial in sweep.trials if trial.run.curves]
    most = min(_MOST_POINTS, max(_FEWEST_POINTS, _MOST_REPORTS // max(1, len(trials))))
    steps = _thinned(
        sorted({step for trial in trials for metric in metrics for step in trial.run.curves.get(metric, {})}), most
    )
    values = {metric: [_aligned(trial, metric, steps) for trial in trials] for metric in metrics}
    curves = CurveData(steps, [{"number": trial.number, "state": trial.state} for trial in trials], values)
    return curves, [_curve_panel(metric, curves.metrics[metric], sweep) for metric in metrics]


def _curve_panel(metric: str, values: list[list[float | None]], sweep: Sweep) -> Panel:
    if metric == sweep.objective.metric:
        title, caption = f"{metric}, the objective", f"{better_direction(sweep.objective)} is better."
    elif metric in _CURVES:
        title, caption = _CURVES[metric]
    else:
        letter, _, number = metric.removeprefix("kkt/").partition("_")
        title, caption = f"{'α' if letter == 'alpha' else 'ρ'} of classifier {number}", "As above, for one classifier."
    flat = [value for row in values for value in row if value is not None]
    log = metric in _MAY_BE_LOG and needs_log(flat)
    figure: Json = {"curve": metric, "log": log}
    if log:
        figure["lowest"] = min(value for value in flat if value > 0) / 2
    return Panel(title, caption, figure, height=280)


def _aligned(trial: Trial, metric: str, steps: Sequence[int]) -> list[float | None]:
    points = trial.run.curves.get("kkt/rho" if metric == _EXPLAINED else metric, {})
    if metric == _EXPLAINED:
        points = {step: max(0.0, 1 - rho) for step, rho in points.items()}
    row = [points.get(step) for step in steps]
    kept = [value if value is not None and math.isfinite(value) else None for value in row]
    while kept and kept[-1] is None:
        kept.pop()
    return kept


def _thinned(steps: list[int], most: int) -> list[int]:
    if len(steps) <= most:
        return steps
    picked = np.unique(np.linspace(0, len(steps) - 1, most).round().astype(int))
    return [steps[index] for index in picked]
