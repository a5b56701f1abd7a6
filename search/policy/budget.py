"""Budgets of a sweep. Only its records are asked, so a continued sweep ends where an unbroken one ends."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from records.trial import TrialRecord
from search.policy.finalists import repetitions_left
from search.policy.ranking import trials_since_improvement
from search.spec.config import NEGLIGIBLE, SweepConfig

_REMEDIES: Final = {
    "trials": "all its trials are done; for more: --trials {twice}, or another --name",
    "grid": "every point of the grid was tried; for a finer one raise `points` in the space, under another --name",
    "time": "its time is up; for more: a longer --time-budget, or another --name",
    "steps": "its optimiser steps are used up; for more: a larger --max-steps, or another --name",
    "patience": "the best has not improved in {patience} full trials; for more: a larger --patience, or another --name",
}


def exhausted_budget(config: SweepConfig, trials: Sequence[TrialRecord], seconds: float) -> str | None:
    """The budget that ends the sweep now, open trials included: `time`, `steps` or `patience`; None while there is none.

    Patience is the search's alone, and finalists whose time was not measured yet get it on top.
    """
    if config.time_budget is not None and seconds >= config.time_budget * 60 - NEGLIGIBLE:
        unmeasured = config.finalist_time is None and repetitions_left(config, trials)
        if not unmeasured:
            return "time"
    if config.max_steps is not None and sum(trial.last_step for trial in trials) >= config.max_steps:
        return "steps"
    return None if config.finalists else _patience(config, trials)


def search_exhausted(config: SweepConfig, trials: Sequence[TrialRecord], seconds: float) -> str | None:
    """The budget that ends the search now, its open trials included: what is left belongs to the finalists, if any."""
    if (reason := exhausted_budget(config, trials, seconds)) or not config.finalists:
        return reason
    if config.time_budget is not None and seconds >= (config.time_budget - (config.finalist_time or 0.0)) * 60 - NEGLIGIBLE:
        return "time"
    spent = sum(trial.last_step for trial in trials if trial.repeats is None)
    if config.max_steps is not None and spent >= config.max_steps - config.finalist_steps:
        return "steps"
    return _patience(config, trials)


def overdue(config: SweepConfig, trials: Sequence[TrialRecord], seconds: float) -> set[int]:
    """Open trials of a search whose part of the budget is spent, by number: the finalists' turn has come."""
    if not config.finalists or not search_exhausted(config, trials, seconds):
        return set()
    return {trial.number for trial in trials if trial.counts and not trial.finished}


def _patience(config: SweepConfig, trials: Sequence[TrialRecord]) -> str | None:
    spent = config.patience is not None and trials_since_improvement(config, trials) >= config.patience
    return "patience" if spent else None


def planning_ended_by(config: SweepConfig, trials: Sequence[TrialRecord], seconds: float) -> str | None:
    """The reason why no further setting is tried: as `search_exhausted`, or `grid` or `trials`, which let open trials go on."""
    if reason := search_exhausted(config, trials, seconds):
        return reason
    sampled = sum(trial.origin is None and trial.repeats is None for trial in trials)
    if config.sampler == "grid" and sampled >= config.search_space.grid_size:
        return "grid"
    return "trials" if sum(trial.counts for trial in trials) >= config.trials else None


def ended_by(config: SweepConfig, trials: Sequence[TrialRecord], seconds: float, *, waiting: bool = False) -> str | None:
    """The budget that is used up; None while there is one left, a trial open, or a setting given by hand `waiting`.

    Finalists that have not all run again are something left.
    """
    if any(not trial.finished for trial in trials):
        return None
    if waiting or repetitions_left(config, trials):
        return exhausted_budget(config, trials, seconds)
    return planning_ended_by(config, trials, seconds)


def has_work_left(config: SweepConfig, trials: Sequence[TrialRecord], seconds: float, *, waiting: bool = False) -> bool:
    """True if a trial is open and may go on, or may still start; `waiting`: a setting that was given by hand waits."""
    if exhausted_budget(config, trials, seconds):
        return False
    begun = waiting or any(not trial.finished for trial in trials) or bool(repetitions_left(config, trials))
    return begun or not planning_ended_by(config, trials, seconds)


def remedy(config: SweepConfig, reason: str) -> str:
    """The way to continue a sweep that is over for this reason, in words."""
    return _REMEDIES[reason].format(twice=config.trials * 2, patience=config.patience)
