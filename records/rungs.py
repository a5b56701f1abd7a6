"""The steps at which ASHA (Li et al. 2020) decides whether a trial goes on."""

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
