"""Finalists: at the end of a sweep its best settings run again on fresh seeds, and the best mean wins."""

from __future__ import annotations

import math
from collections.abc import Sequence

from records.repetitions import Repeated, repeated
from records.trial import BY_HAND, TrialRecord
from search.policy.ranking import ranked_trials
from search.spec.config import NEGLIGIBLE, SweepConfig

_MARGIN = 1.3
"""Repetitions take longer than the speed of a trial alone says: there are several at a time, and they report."""
_START = 1 / 3
"""Minutes until workers are there."""


def finalists(config: SweepConfig, trials: Sequence[TrialRecord]) -> list[TrialRecord]:
    """The best full trials, as many as run again; those that miss what is required only where all do."""
    if not config.finalists:
        return []
    ranked = ranked_trials(config, trials)
    return ([trial for trial in ranked if not trial.missed] or ranked)[: config.finalists]


def next_finalist(config: SweepConfig, trials: Sequence[TrialRecord]) -> TrialRecord | None:
    """The finalist whose repetition is next; None when all have theirs.

    In turns, so that a budget that ends too early leaves them with like numbers. A repetition that failed, or was ended by
    hand, is not made up for; one that a budget cut short is, once there is room again.
    """
    short = [(_tried(trial, trials), trial) for trial in finalists(config, trials)]
    tried, trial = min(short, key=lambda pair: pair[0], default=(config.seeds, None))
    return trial if tried < config.seeds else None


def repetitions_left(config: SweepConfig, trials: Sequence[TrialRecord]) -> int:
    """The number of repetitions that are still to begin, if the search is over."""
    return sum(max(0, config.seeds - _tried(trial, trials)) for trial in finalists(config, trials))


def finalist_results(config: SweepConfig, trials: Sequence[TrialRecord]) -> list[Repeated]:
    """Settings that ran again, the best mean first."""
    return repeated(trials, config.objective.sign)


def minutes_needed(config: SweepConfig, speed: float, concurrency: int) -> float:
    """The wall time of all repetitions, in minutes; `speed` is in steps/s of one trial alone."""
    rounds = math.ceil(config.finalists * config.seeds / concurrency)
    return _START + _MARGIN * rounds * config.trial.steps / speed / 60


def with_time(config: SweepConfig, seconds: float, needed: float) -> SweepConfig:
    """The settings with the part of the time budget that is kept for finalists, of which `needed` minutes would do.

    At most half of what is left. Where the search has used up its time already, they get theirs on top. `seconds` are spent.
    """
    if config.time_budget is None or not config.finalists or config.finalist_time is not None:
        return config
    left = config.time_budget - seconds / 60
    if left * 60 <= NEGLIGIBLE:
        return config.model_copy(update={"time_budget": seconds / 60 + needed, "finalist_time": needed})
    return config.model_copy(update={"finalist_time": min(needed, left / 2)})


def _tried(finalist: TrialRecord, trials: Sequence[TrialRecord]) -> int:
    repetitions = [trial for trial in trials if trial.repeats == finalist.number]
    return sum(trial.state != "stopped" or trial.reason == BY_HAND for trial in repetitions)
