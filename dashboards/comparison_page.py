"""The comparison of several sweeps: the results of each, their cost, and the settings in which they differ."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import cycle
from typing import Any, Final

import pandas as pd

from dashboards import pictures
from dashboards.cost import cost_of
from dashboards.figures import search
from dashboards.figures.panel import Json, Panel
from dashboards.figures.scores import IMAGE_METRICS, table_metrics
from dashboards.rendering import render, render_page
from dashboards.sections.results import verdict
from dashboards.sweep import Sweep
from records.format import duration

_SECONDS: Final = {"minutes": 60.0, "hours": 3600.0}
_COLOURS: Final = [f"--c{index}" for index in range(6)]
"""Colours of sweeps; more sweeps take turns."""


def comparison_page(sweeps: Sequence[Sweep]) -> str:
    """The whole page."""
    names = [sweep.name for sweep in sweeps]
    title = f"Sweeps {', '.join(names[:-1])} and {names[-1]}"
    header = render(
        "comparison/header.html",
        title=title,
        verdicts=[(sweep.name, verdict(sweep)) for sweep in sweeps],
        datasets=sorted({sweep.settings.dataset for sweep in sweeps}),
        data_free=[sweep.name for sweep in sweeps if sweep.settings.data_free],
        unfinished=[sweep.name for sweep in sweeps if not sweep.finished],
    )
    shown = [metric for metric in IMAGE_METRICS if all(sweep.best.score(metric) is not None for sweep in sweeps)]
    results = render("comparison/results.html", names=names, rows=_results(sweeps), pictures=_pictures(sweeps))
    spreads = [_spread(sweeps, metric) for metric in shown]
    progress = render("comparison/progress.html", lines=_lines(sweeps), spreads=spreads)
    differing, best = _differences(sweeps), _best_settings(sweeps)
    settings = render("comparison/settings.html", names=names, differing=differing, best=best)
    sections = [("results", "Results", results), ("progress", "Progress", progress), ("settings", "Settings", settings)]
    return render_page(title, header, sections, f"--compare {' '.join(names)}")


def _results(sweeps: Sequence[Sweep]) -> list[list[object]]:
    """Rows of a name and its value in each sweep."""
    costs = [cost_of(sweep) for sweep in sweeps]
    rows: list[list[object]] = [
        ["data set", *[sweep.settings.dataset for sweep in sweeps]],
        ["preset", *[sweep.settings.data.get("preset", "–") for sweep in sweeps]],
        ["sampler", *[sweep.settings.data.get("sampler", "–") for sweep in sweeps]],
        ["scheduler", *[sweep.settings.scheduler.get("name", "–") for sweep in sweeps]],
        ["objective", *[", ".join(f"{o.metric} ({o.direction})" for o in sweep.settings.objectives) for sweep in sweeps]],
        ["steps of a full trial", *[sweep.settings.full_steps for sweep in sweeps]],
        ["trials", *[len(sweep.trials) for sweep in sweeps]],
        ["complete", *[len(sweep.trials_in("complete")) for sweep in sweeps]],
        ["stopped early", *[len(sweep.trials_in("stopped")) for sweep in sweeps]],
        ["failed", *[len(sweep.trials_in("failed")) for sweep in sweeps]],
        ["wall time", *[duration(sweep.seconds) for sweep in sweeps]],
        ["optimiser steps", *[cost.steps for cost in costs]],
        ["steps/s of the median trial", *[cost.speed for cost in costs]],
        ["best trial", *[sweep.best.number for sweep in sweeps]],
    ]
    for metric in table_metrics(sweeps):
        values = [sweep.best.score(metric) for sweep in sweeps]
        if any(value is not None for value in values):
            rows.append([f"its {metric}", *values])
    shares = {metric: [_share(sweep, metric) for sweep in sweeps] for metric in IMAGE_METRICS}
    return rows + [[f"way to real images in {metric}", *texts] for metric, texts in shares.items() if any(texts)]


def _share(sweep: Sweep, metric: str) -> str:
    """The position of the best trial between the best control and real images; empty where that is not known."""
    value = sweep.best.score(metric)
    share = sweep.evaluation.share(metric, value) if sweep.evaluation and value is not None else None
    return "" if share is None else "below the floor" if share <= 0 else f"{share:.0%}"


def _pictures(sweeps: Sequence[Sweep]) -> list[tuple[Sweep, str]]:
    """The generated images of each best trial, as a `data:` URL."""
    images = [(sweep, sweep.runs.picture(sweep.best.run.id)) for sweep in sweeps]
    return [
        (
            sweep,
            pictures.webp(pictures.generated_rows(pictures.to_pixels(image), paired=not sweep.settings.data_free), quality=75),
        )
        for sweep, image in images
        if image is not None
    ]


def _lines(sweeps: Sequence[Sweep]) -> list[Panel]:
    """Progress by trials and by time; empty where the objectives differ."""
    objectives = {sweep.objective for sweep in sweeps}
    if len(objectives) > 1:
        return []
    metric = objectives.pop().metric
    unit = "hours" if max(sweep.seconds for sweep in sweeps) > 2 * _SECONDS["hours"] else "minutes"
    return [_progress(sweeps, metric, "trials"), _progress(sweeps, metric, unit)]


def _progress(sweeps: Sequence[Sweep], metric: str, unit: str) -> Panel:
    """The best full trial so far, by `trials`, or by `minutes` or `hours` since the start."""
    data: list[Json] = []
    for sweep, colour in zip(sweeps, cycle(_COLOURS), strict=False):
        if unit == "trials":
            best = search.best_so_far(sweep)
            x = [float(number) + 1 for number in best.index]
        else:
            best, x = _by_time(sweep, _SECONDS[unit])
        data.append({
            "type": "scatter", "mode": "lines+markers", "name": sweep.name, "x": x, "y": list(best), "marker": {"size": 5},
            "line": {"shape": "hv", "color": colour, "width": 2},
            "hovertemplate": f"{sweep.name}: %{{y:.4g}} after %{{x:.3g}} {unit}<extra></extra>",
        })  # fmt: skip
    layout = {
        "xaxis": {"title": {"text": unit}, "rangemode": "tozero"},
        "yaxis": {"title": {"text": metric}},
        "showlegend": True,
    }
    if unit == "trials":
        caption = "The best full trial so far, by the number of trials begun."
    else:
        caption = "The same by time on the clock since the first trial began; interruptions count."
    return Panel(f"Best so far by {unit}", caption, {"data": data, "layout": layout})


def _by_time(sweep: Sweep, unit: float) -> tuple[pd.Series, list[float]]:
    """The best so far in the order in which full trials ended, and the time until each did, in units of so many seconds."""
    begins = [trial.started for trial in sweep.trials if trial.started is not None]
    contenders = sweep.contenders
    ended = sorted((trial.ended, trial.value) for trial in contenders if trial.ended is not None and trial.value is not None)
    values = pd.Series([value for _, value in ended], dtype=float)
    best = values.cummin() if sweep.objective.sign < 0 else values.cummax()
    return best, [(time - min(begins, default=time)) / unit for time, _ in ended]


def _spread(sweeps: Sequence[Sweep], metric: str) -> Panel:
    """The scores of all full trials, a column a sweep."""
    data: list[Json] = []
    for sweep, colour in zip(sweeps, cycle(_COLOURS), strict=False):
        trials = [trial for trial in sweep.ranked if trial.score(metric) is not None]
        data.append({
            "type": "box", "name": sweep.name, "y": [trial.score(metric) for trial in trials],
            "customdata": [trial.number for trial in trials], "boxpoints": "all", "pointpos": 0, "jitter": 0.4,
            "fillcolor": "rgba(0,0,0,0)",
            "marker": {"color": colour, "size": 5}, "line": {"color": colour, "width": 1},
            "hovertemplate": f"{sweep.name}, trial %{{customdata}}: %{{y:.4g}}<extra></extra>",
        })  # fmt: skip
    return Panel(
        metric, "Full trials; the box holds the middle half.", {"data": data, "layout": {"showlegend": False}}, height=300
    )


def _differences(sweeps: Sequence[Sweep]) -> list[list[object]]:
    """Rows of the settings that are not the same in all."""
    flat = [dict(_flatten(sweep.settings.data)) for sweep in sweeps]
    keys = dict.fromkeys(key for settings in flat for key in settings if key not in ("name", "seed"))
    rows: list[list[object]] = [[key, *[str(settings.get(key, "–")) for settings in flat]] for key in keys]
    return [row for row in rows if len(set(row[1:])) > 1]


def _best_settings(sweeps: Sequence[Sweep]) -> list[list[object]]:
    """Rows of the searched settings, as the best trial of each has them."""
    searched = dict.fromkeys(dimension.name for sweep in sweeps for dimension in sweep.settings.space)
    fixed = [dict(_flatten(sweep.settings.trial)) for sweep in sweeps]
    return [
        [key, *[sweep.best.params.get(key, settings.get(key)) for sweep, settings in zip(sweeps, fixed, strict=True)]]
        for key in searched
    ]


def _flatten(data: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in data.items():
        if isinstance(value, dict):
            yield from _flatten(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value
