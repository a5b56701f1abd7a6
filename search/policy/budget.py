"""Budgets of a sweep. Only its records are asked, so a continued sweep ends where an unbroken one ends."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from records.trial import TrialRecord
from search.policy.ranking import trials_since_improvement
from search.spec.config import SweepConfig
from search.spec.space import grid_size

NEGLIGIBLE: Final = 2.0
"""Seconds of a time budget that are not worth starting Ray or a trial for."""

_REMEDIES: Final = {
    "trials": "more: --trials {twice}, or another --name",
    "grid": "every point of the grid was tried; for a finer one raise `points` in the space, under another --name",
    "time": "its time is up; more: a longer --time-budget, or another --name",
    "steps": "its optimiser steps are used up; more: a larger --max-steps, or another --name",
    "patience": "the best has not improved in {patience} full trials; more: a larger --patience, or another --name",
}


def exhausted_budget(config: SweepConfig, trials: Sequence[TrialRecord], seconds: float) -> str | None:
    """The budget that ends the sweep now, open trials included: `time`, `steps` or `patience`; None while there is none."""
    if config.time_budget is not None and seconds >= config.time_budget * 60 - NEGLIGIBLE:
        return "time"
    if config.max_steps is not None and sum(trial.last_step for trial in trials) >= config.max_steps:
        return "steps"
    if config.patience is not None and trials_since_improvement(config, trials) >= config.patience:
        return "patience"
    return None


def planning_ended_by(config: SweepConfig, trials: Sequence[TrialRecord], seconds: float) -> str | None:
    """The reason why no further trial may start: as `exhausted_budget`, or `grid` or `trials`, which let open trials go on."""
    if reason := exhausted_budget(config, trials, seconds):
        return reason
    if config.sampler == "grid" and sum(trial.origin is None for trial in trials) >= grid_size(config.space):
        return "grid"
    return "trials" if sum(trial.counts for trial in trials) >= config.trials else None


def ended_by(config: SweepConfig, trials: Sequence[TrialRecord], seconds: float, *, waiting: bool = False) -> str | None:
    """The budget that is used up; None while there is one left, a trial open, or a setting given by hand `waiting`."""
    if any(not trial.finished for trial in trials):
        return None
    return exhausted_budget(config, trials, seconds) if waiting else planning_ended_by(config, trials, seconds)


def has_work_left(config: SweepConfig, trials: Sequence[TrialRecord], seconds: float, *, waiting: bool = False) -> bool:
    """True if a trial is open and may go on, or may still start; `waiting`: a setting that was given by hand waits."""
    if exhausted_budget(config, trials, seconds):
        return False
    return waiting or any(not trial.finished for trial in trials) or not planning_ended_by(config, trials, seconds)


def remedy(config: SweepConfig, reason: str) -> str:
    """The way to continue a sweep that is over for this reason, in words."""
    return _REMEDIES[reason].format(twice=config.trials * 2, patience=config.patience)
