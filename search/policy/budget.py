"""When a sweep is over. Only the ledger is asked, so a continued sweep ends where an unbroken one ends."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from records.trial import Entry
from search.policy.ranking import trials_without_gain
from search.spec.config import SweepConfig
from search.spec.space import grid_size

MOMENT: Final = 2.0
"""Seconds of a time budget that are not worth starting Ray or a trial for."""

_MENDS: Final = {
    "trials": "more: --trials {twice}, or another --name",
    "grid": "every point of the grid was tried; for a finer one raise `points` in the space, under another --name",
    "time": "its time is up; more: a longer --time-budget, or another --name",
    "steps": "its optimiser steps are used up; more: a larger --max-steps, or another --name",
    "patience": "the best has not improved in {patience} full trials; more: a larger --patience, or another --name",
}


def spent(config: SweepConfig, entries: Sequence[Entry], seconds: float) -> str | None:
    """The budget that ends the sweep now, open trials included: `time`, `steps` or `patience`; None while there is none."""
    if config.time_budget is not None and seconds >= config.time_budget * 60 - MOMENT:
        return "time"
    if config.max_steps is not None and sum(entry.last_step for entry in entries) >= config.max_steps:
        return "steps"
    if config.patience is not None and trials_without_gain(config, entries) >= config.patience:
        return "patience"
    return None


def used_up(config: SweepConfig, entries: Sequence[Entry], seconds: float) -> str | None:
    """Why no further trial may start: as `spent`, or `grid` or `trials`, which let open trials go on."""
    if reason := spent(config, entries, seconds):
        return reason
    if config.sampler == "grid" and sum(entry.origin is None for entry in entries) >= grid_size(config.space):
        return "grid"
    return "trials" if len(entries) >= config.trials else None


def work_left(config: SweepConfig, entries: Sequence[Entry], seconds: float) -> bool:
    """Whether a trial is open and may go on, or may still start."""
    if spent(config, entries, seconds):
        return False
    return any(not entry.finished for entry in entries) or not used_up(config, entries, seconds)


def mend(config: SweepConfig, reason: str) -> str:
    """How a sweep that is over for this reason is continued."""
    return _MENDS[reason].format(twice=config.trials * 2, patience=config.patience)
