"""How the sweep ran: who was stopped when, what was at work when, and what it cost."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Final

import numpy as np

from dashboards.panels import Panel, short
from dashboards.records import OUTCOMES, Sweep, Trial

_PAUSE: Final = 10
"""A silence of so many times the usual one between two reports is an interruption."""
_SILENCE: Final = 60.0
"""Seconds that are never one: a report may wait for a busy disk."""


@dataclass(frozen=True)
class Cost:
    """What a sweep took, and what early stopping spared it."""

    steps: int
    saved_steps: int
    """That trials which were stopped did not take."""
    saved: float
    """Seconds of trials that these would have taken, each at its own speed; NaN where no speed is known."""
    busy: float
    """Seconds of trials that were at work."""
    speed: float
    """Optimiser steps per second of the median trial; NaN where none is known."""


def cost(sweep: Sweep) -> Cost:
    """What a sweep cost."""
    speeds = {trial.number: speed.median() for trial in sweep.trials if not (speed := trial.curve("time/steps_per_s")).empty}
    usual = float(np.median(list(speeds.values()))) if speeds else float("nan")
    left = {trial.number: sweep.record.horizon - trial.last_step for trial in sweep.of("stopped")}
    return Cost(
        steps=sum(trial.last_step for trial in sweep.trials),
        saved_steps=sum(left.values()),
        saved=float(sum(steps / speeds.get(number, usual) for number, steps in left.items())),
        busy=sum(end - begin for trial in sweep.trials for begin, end in work_of(trial)),
        speed=usual,
    )


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
        bars = [
            (trial, row, part)
            for (trial, parts), row in zip(spans, rows, strict=True)
            for part in parts
            if trial.outcome == outcome
        ]
        if bars:
            data.append({
                "type": "bar", "orientation": "h", "name": outcome, "y": [row + 1 for _, row, _ in bars],
                "base": [short((begin - began) / seconds) for _, _, (begin, _) in bars],
                "x": [short((end - begin) / seconds) for _, _, (begin, end) in bars],
                "customdata": [[trial.number, trial.last_step] for trial, _, _ in bars], "width": 0.8,
                "marker": {"color": f"--{outcome}", "line": {"color": "--paper", "width": 1}},
                "hovertemplate": f"trial %{{customdata[0]}}, {outcome} at step %{{customdata[1]}}<br>"
                f"%{{x:.3g}} {unit}<extra></extra>",
            })  # fmt: skip
    layout = {
        "barmode": "overlay", "xaxis": {"title": {"text": f"{unit} since the start"}},
        "yaxis": {"title": {"text": "worker"}, "dtick": max(1, (max(rows) + 1) // 8), "autorange": "reversed"},
        "showlegend": True,
    }  # fmt: skip
    return Panel(
        "Time line of workers",
        "A bar is a trial. Rows are filled from the top, so they tell how many trials ran at once, not on which machine. "
        "Gaps within a row: nothing ran, or the sweep was interrupted.",
        {"data": data, "layout": layout}, height=min(600, 150 + 24 * (max(rows) + 1)), wide=True,
    )  # fmt: skip


def work_of(trial: Trial) -> list[tuple[float, float]]:
    """When a trial was at work, (begin, end) in seconds since 1970: its span, cut where the sweep was interrupted."""
    reports = [when for _, when in sorted(trial.logged.times.items())]
    begin = trial.started if trial.started is not None else (reports[0] if reports else None)
    end = trial.ended if trial.ended is not None else (reports[-1] if reports else None)
    if begin is None or end is None or end < begin:
        return []
    points = [begin, *(when for when in sorted(reports) if begin <= when <= end), end]
    silences = np.diff(points)
    longest = max(_SILENCE, _PAUSE * float(np.median(silences)))
    parts, since = [], begin
    for before, after in pairwise(points):
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
