"""The cost of a sweep: steps, the time of its trials, and the part that early stopping saved."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Final

import numpy as np

from dashboards.sweep import Sweep, Trial

_PAUSE: Final = 10
"""A silence of so many times the usual one between two reports is an interruption."""
_SILENCE: Final = 60.0
"""Seconds that are never one: a report may wait for a busy disk."""


@dataclass(frozen=True)
class Cost:
    """The time and steps that a sweep took, and those that early stopping spared it."""

    steps: int
    saved_steps: int
    """Steps that stopped trials did not take."""
    saved: float
    """Seconds that these would have taken, each at its trial's speed; NaN where no speed is known."""
    busy: float
    """Seconds that trials were at work, added up."""
    speed: float
    """Optimiser steps per second of the median trial; NaN where none is known."""


def cost_of(sweep: Sweep) -> Cost:
    """The cost of a sweep so far."""
    speeds = {trial.number: speed.median() for trial in sweep.trials if not (speed := trial.curve("time/steps_per_s")).empty}
    usual = float(np.median(list(speeds.values()))) if speeds else float("nan")
    left = {trial.number: sweep.settings.full_steps - trial.last_step for trial in sweep.trials_in("stopped")}
    return Cost(
        steps=sum(trial.last_step for trial in (*sweep.trials, *sweep.repetitions)),
        saved_steps=sum(left.values()),
        saved=float(sum(steps / speeds.get(number, usual) for number, steps in left.items())),
        busy=sum(end - begin for trial in (*sweep.trials, *sweep.repetitions) for begin, end in busy_spans(trial)),
        speed=usual,
    )


def busy_spans(trial: Trial) -> list[tuple[float, float]]:
    """Spans (begin, end) in seconds since 1970 in which a trial was at work: cut where the sweep was interrupted."""
    reports = [time for _, time in sorted(trial.run.times.items())]
    begin = trial.started if trial.started is not None else (reports[0] if reports else None)
    end = trial.ended if trial.ended is not None else (reports[-1] if reports else None)
    if begin is None or end is None or end < begin:
        return []
    points = [begin, *(time for time in sorted(reports) if begin <= time <= end), end]
    silences = np.diff(points)
    longest = max(_SILENCE, _PAUSE * float(np.median(silences)))
    parts, since = [], begin
    for before, after in pairwise(points):
        if after - before > longest:
            parts.append((since, before))
            since = after
    return [*parts, (since, end)]
