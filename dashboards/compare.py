"""Several sweeps side by side: what each found, at what cost, and in what they differ."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any, Final

import pandas as pd

from dashboards import landscape, page, pictures
from dashboards.page import Html, element, number, paragraph
from dashboards.panels import Json, Panel
from dashboards.records import Sweep
from dashboards.running import cost
from dashboards.scores import SCORES, TABLED
from dashboards.sections.outcome import verdict
from dashboards.words import duration

_SECONDS: Final = {"minutes": 60.0, "hours": 3600.0}
_COLOURS: Final = 6
"""Colours of sweeps that the page has; more sweeps take turns."""


def build(sweeps: Sequence[Sweep]) -> str:
    """The whole page."""
    names = [sweep.name for sweep in sweeps]
    title = f"{', '.join(names[:-1])} and {names[-1]}"
    datasets = {sweep.record.dataset for sweep in sweeps}
    lines = [paragraph(element("strong", sweep.name), f": {verdict(sweep)}") for sweep in sweeps]
    notes = []
    if len(datasets) > 1:
        notes.append(
            f"The data sets differ ({', '.join(sorted(datasets))}), so bare scores do not compare; how far of the way to "
            "real images a score is does."
        )
    if open_ones := [sweep.name for sweep in sweeps if not sweep.finished]:
        notes.append(f"Not finished: {', '.join(open_ones)}. What they have found so far is shown.")
    parts = [
        ("results", "Results", page.section("results", "Results", _results(sweeps), _samples(sweeps))),
        ("progress", "Progress", page.section("progress", "Progress and spread", *_figures(sweeps))),
        ("settings", "Settings", page.section("settings", "In what they differ", *_differences(sweeps))),
    ]
    header = element("header", element("h1", f"Sweeps {title}"), *lines, *[paragraph(note, class_="alert") for note in notes])
    made = f"Made {datetime.now():%Y-%m-%d %H:%M} by python dashboards/report.py --compare {' '.join(names)}"
    return page.document(f"Sweeps {title}", header, parts, Html(""), made)


def _results(sweeps: Sequence[Sweep]) -> Html:
    rows: list[list[object]] = [
        ["data set", *[sweep.record.dataset for sweep in sweeps]],
        ["preset", *[sweep.record.data.get("preset", "–") for sweep in sweeps]],
        ["sampler", *[sweep.record.data.get("sampler", "–") for sweep in sweeps]],
        ["scheduler", *[sweep.record.scheduler.get("name", "–") for sweep in sweeps]],
        ["objective", *[_objectives(sweep) for sweep in sweeps]],
        ["steps of a full trial", *[sweep.record.horizon for sweep in sweeps]],
        ["trials", *[len(sweep.trials) for sweep in sweeps]],
        ["complete", *[len(sweep.of("complete")) for sweep in sweeps]],
        ["stopped early", *[len(sweep.of("stopped")) for sweep in sweeps]],
        ["failed", *[len(sweep.of("failed")) for sweep in sweeps]],
        ["wall time", *[duration(sweep.seconds) for sweep in sweeps]],
        ["optimiser steps", *[cost(sweep).steps for sweep in sweeps]],
        ["steps/s of the median trial", *[cost(sweep).speed for sweep in sweeps]],
        ["best trial", *[sweep.best.number for sweep in sweeps]],
    ]
    for metric in TABLED:
        values = [sweep.best.score(metric) for sweep in sweeps]
        if any(value is not None for value in values):
            rows.append([f"its {metric}", *values])
    rows += [[f"way to real images in {metric}", *shares] for metric in SCORES if any(shares := _shares(sweeps, metric))]
    return page.table(["", *[sweep.name for sweep in sweeps]], rows, caption="Scores are those of the best trial's last report")


def _objectives(sweep: Sweep) -> str:
    return ", ".join(f"{one.metric} ({one.direction})" for one in sweep.record.objectives)


def _shares(sweeps: Sequence[Sweep], metric: str) -> list[str]:
    """How far of the way from the best control to real images each best trial is; empty text where that is not known."""
    found = []
    for sweep in sweeps:
        value = sweep.best.score(metric)
        share = sweep.evaluation.share(metric, value) if sweep.evaluation and value is not None else None
        found.append("" if share is None else "below the floor" if share <= 0 else f"{share:.0%}")
    return found


def _samples(sweeps: Sequence[Sweep]) -> Html:
    """The generated images of each best trial."""
    cards = []
    for sweep in sweeps:
        image = sweep.store.picture(sweep.best.logged.run) if sweep.best.logged.run else None
        if image is not None:
            sheet = pictures.generated(pictures.pixels(image))
            alt = f"Samples of the best trial of {sweep.name}"
            words = f"{sweep.name}, trial {sweep.best.number}: {sweep.objective.metric} {number(sweep.best.value)}"
            picture = element("img", src=pictures.webp(sheet, quality=75), alt=alt, class_="sheet")
            cards.append(element("div", picture, element("div", words, class_="caption"), class_="card"))
    return element("div", *cards, class_="grid")


def _figures(sweeps: Sequence[Sweep]) -> Iterator[Html]:
    objectives = {sweep.objective for sweep in sweeps}
    if len(objectives) == 1:
        metric = next(iter(objectives)).metric
        unit = "hours" if max(sweep.seconds for sweep in sweeps) > 2 * _SECONDS["hours"] else "minutes"
        yield page.grid([_progress(sweeps, metric, "trials"), _progress(sweeps, metric, unit)])
    else:
        yield paragraph("The objectives differ, so there is no common line of progress.", class_="note")
    shown = [metric for metric in SCORES if all(sweep.best.score(metric) is not None for sweep in sweeps)]
    yield page.grid([_spread(sweeps, metric) for metric in shown])


def _progress(sweeps: Sequence[Sweep], metric: str, unit: str) -> Panel:
    """The best full trial so far, by `trials`, or by `minutes` or `hours` since the start."""
    data: list[Json] = []
    for sweep, colour in zip(sweeps, _colours(), strict=False):
        if unit == "trials":
            found = landscape.best_so_far(sweep)
            x = [float(number) + 1 for number in found.index]
        else:
            found, x = _by_time(sweep, _SECONDS[unit])
        data.append({
            "type": "scatter", "mode": "lines", "name": sweep.name, "x": x, "y": list(found),
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
    contenders = [trial for trial in sweep.ranked if trial in sweep.contenders]
    ended = sorted((trial.ended, trial.value) for trial in contenders if trial.ended is not None and trial.value is not None)
    values = pd.Series([value for _, value in ended], dtype=float)
    best = values.cummin() if sweep.objective.sign < 0 else values.cummax()
    return best, [(when - min(begins, default=when)) / unit for when, _ in ended]


def _spread(sweeps: Sequence[Sweep], metric: str) -> Panel:
    """The scores of all full trials, a column a sweep."""
    data: list[Json] = []
    for sweep, colour in zip(sweeps, _colours(), strict=False):
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


def _differences(sweeps: Sequence[Sweep]) -> Iterator[Html]:
    """Settings that are not the same in all, and the best settings of each."""
    flat = [dict(_flatten(sweep.record.data)) for sweep in sweeps]
    keys = dict.fromkeys(key for settings in flat for key in settings if key not in ("name", "seed"))
    rows = [[key, *[str(s.get(key, "–")) for s in flat]] for key in keys if len({str(s.get(key, "–")) for s in flat}) > 1]
    names = [sweep.name for sweep in sweeps]
    if rows:
        yield page.table(["setting", *names], rows, caption="What the sweeps were started with, where it differs")
    else:
        yield paragraph("They were started with the same settings.", class_="note")
    searched = dict.fromkeys(dimension.name for sweep in sweeps for dimension in sweep.record.space)
    best = [[key, *[sweep.best.params.get(key, sweep.record.trial.get(key)) for sweep in sweeps]] for key in searched]
    if best:
        yield page.table(["setting", *names], best, caption="What the best trial of each has")


def _flatten(data: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in data.items():
        if isinstance(value, dict):
            yield from _flatten(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _colours() -> Iterator[str]:
    index = 0
    while True:
        yield f"--c{index % _COLOURS}"
        index += 1
