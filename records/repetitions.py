"""Settings that ran again on fresh seeds: mean, deviation, and whether two of them can be told apart.

The trial that a setting was chosen for is not among its repetitions: it was the luckiest of many, so its value is too good.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from records.trial import TrialRecord

FEWEST: Final = 2
"""Repetitions from which on there is a deviation."""
CONFIDENCE: Final = 0.95


@dataclass(frozen=True)
class Repeated:
    """One setting on fresh seeds."""

    trial: int
    """The number of the trial whose setting it is."""
    values: tuple[float, ...]
    """The objective at the last step of each repetition that came to its end, at least `FEWEST`."""
    lost: int
    """The number of repetitions that failed or were stopped."""
    missed: int
    """The number of repetitions that miss what the sweep requires."""

    @property
    def mean(self) -> float:
        """The mean over the seeds."""
        return sum(self.values) / len(self.values)

    @property
    def deviation(self) -> float:
        """The standard deviation over the seeds, with n − 1."""
        return math.sqrt(sum((value - self.mean) ** 2 for value in self.values) / (len(self.values) - 1))

    def describe(self) -> str:
        """`0.512 ± 0.011`, and what happened to the seeds that are not in it."""
        lost = f", {self.lost} without a value" if self.lost else ""
        missed = f", {self.missed} miss what is required" if self.missed else ""
        return f"{self.mean:.3f} ± {self.deviation:.3f} ({len(self.values)} seeds{lost}{missed})"


@dataclass(frozen=True)
class Difference:
    """The difference of two means with its interval (Welch 1947), first minus second."""

    value: float
    low: float
    high: float

    @property
    def distinct(self) -> bool:
        """True if zero lies outside the interval."""
        return not self.low <= 0.0 <= self.high


def repeated(trials: Sequence[TrialRecord], sign: float) -> list[Repeated]:
    """Every setting with at least `FEWEST` full repetitions, the best mean first; `sign` −1: smaller is better."""
    runs: dict[int, list[TrialRecord]] = defaultdict(list)
    for trial in trials:
        if trial.repeats is not None:
            runs[trial.repeats].append(trial)
    settings = []
    for number, repetitions in runs.items():
        full = [
            trial
            for trial in repetitions
            if trial.state == "complete" and trial.value is not None and math.isfinite(trial.value)
        ]
        lost = sum(trial.finished for trial in repetitions) - len(full)
        if len(full) >= FEWEST:
            values = tuple(trial.value for trial in full if trial.value is not None)
            settings.append(Repeated(number, values, lost, sum(bool(trial.missed) for trial in full)))
    return sorted(settings, key=lambda setting: (-sign * setting.mean, setting.trial))


def difference(first: Repeated, second: Repeated) -> Difference:
    """The difference of the means with its interval of `CONFIDENCE`, by Welch's t with the degrees of Welch–Satterthwaite."""
    from scipy.special import stdtrit

    value = first.mean - second.mean
    shares = [setting.deviation**2 / len(setting.values) for setting in (first, second)]
    error = math.sqrt(sum(shares))
    if error == 0.0:
        return Difference(value, value, value)
    freedom = sum(shares) ** 2 / sum(
        share**2 / (len(setting.values) - 1) for share, setting in zip(shares, (first, second), strict=True)
    )
    reach = float(stdtrit(freedom, 0.5 + CONFIDENCE / 2)) * error
    return Difference(value, value - reach, value + reach)


def verdict(metric: str, settings: Sequence[Repeated]) -> list[str]:
    """The settings that ran again and what that says about the first two, a line each; empty where none did.

    `settings` has the best mean first.
    """
    if not settings:
        return []
    lines = [f"the fresh seeds give {metric} " + ", ".join(f"{each.describe()} for trial {each.trial}" for each in settings)]
    if len(settings) > 1:
        first, second = settings[:2]
        gap = difference(first, second)
        interval = f"by {abs(gap.value):.3f}, 95% interval {gap.low:+.3f} to {gap.high:+.3f} (Welch)"
        pair = f"the settings of trial {first.trial} and trial {second.trial}"
        lines.append(
            f"{pair} differ {interval}, which is more than seeds explain"
            if gap.distinct
            else f"{pair} cannot be told apart: they differ {interval}"
        )
    return lines
