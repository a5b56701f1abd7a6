"""The steps at which ASHA (Li et al. 2020) and Hyperband (Li et al. 2018) decide whether a trial goes on."""

from __future__ import annotations


def first_rung(steps: int, report_every: int, grace: int | None = None) -> int:
    """Optimiser steps before a trial may be stopped: `grace`, or a ninth of all `steps` in whole reports."""
    return grace or max(1, round(steps / 9 / report_every)) * report_every


def rungs(first: int, reduction_factor: int, steps: int) -> list[int]:
    """Every rung from the first one on, each `reduction_factor` times the one before, below `steps`."""
    all_rungs = []
    while 0 < first < steps:
        all_rungs.append(first)
        first *= reduction_factor
    return all_rungs


def brackets(first: int, reduction_factor: int, steps: int) -> list[list[int]]:
    """The rungs of each bracket of Hyperband: each bracket leaves out one more of the early rungs, and the last has none."""
    all_rungs = rungs(first, reduction_factor, steps)
    return [all_rungs[skipped:] for skipped in range(len(all_rungs) + 1)]


def mean_steps(all_rungs: list[int], reduction_factor: int, steps: int) -> float:
    """Optimiser steps of an average trial if one in `reduction_factor` passes each rung."""
    mean, share, before = 0.0, 1.0, 0
    for rung in [*all_rungs, steps]:
        mean += share * (rung - before)
        before, share = rung, share / reduction_factor
    return mean
