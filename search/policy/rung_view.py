"""Trials as their values at one rung, the highest that has enough values: what BOHB (Falkner et al. 2018) learns from."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from records.rungs import rungs
from records.trial import REPEATS, SECOND_AT, STOPPED
from search.spec.config import SweepConfig

if TYPE_CHECKING:
    from optuna.trial import FrozenTrial, TrialState

FEWEST: Final = 10
"""Values at a rung before there is a model of it, where the space has few dimensions; full trials before TPE has one."""


def as_seen(config: SweepConfig, trial: FrozenTrial) -> tuple[TrialState, list[float] | None]:
    """The state and the values of a trial that samplers see; both are the trial's own unless it is one of these.

    Repetitions failed: the best settings would count several times. With two objectives Optuna cannot rank a pruned trial. One
    that was stopped at a rung is complete, with its values there, which are behind those of others; one that a budget cut
    short failed.
    """
    from optuna.trial import TrialState

    if REPEATS in trial.user_attrs:
        return TrialState.FAIL, None
    if trial.state != TrialState.PRUNED or config.second_objective is None:
        return trial.state, trial.values
    rung = trial.user_attrs.get(STOPPED)
    values = [trial.intermediate_values.get(rung, math.nan), trial.user_attrs.get(SECOND_AT, {}).get(str(rung), math.nan)]
    return (TrialState.COMPLETE, values) if all(map(math.isfinite, values)) else (TrialState.FAIL, None)


def fewest_values(config: SweepConfig) -> int:
    """Values at a rung before there is a model of it: 3 more than dimensions, as in BOHB, and at least `FEWEST`."""
    return max(FEWEST, len(config.space) + 3)


def at_highest_rung(config: SweepConfig, trials: Sequence[FrozenTrial], history: Sequence[FrozenTrial]) -> list[FrozenTrial]:
    """Copies of `trials` for a study in memory, in which the value at one rung counts as the result of a trial.

    The rung is the highest with enough values, else the lowest. Open trials that came there are complete, those that did not
    stand open. Trials that ended before it are pruned: TPE counts them after all that came there. Repetitions and failed trials
    are left out. `history` are full trials of another sweep: the full horizon is the last rung.
    """
    seen = [trial for trial in trials if REPEATS not in trial.user_attrs and trial.state.name != "FAIL"]
    horizon = config.trial.steps
    levels = [*rungs(config.first_rung, config.scheduler.reduction_factor, horizon), horizon]
    counts = {rung: sum(rung in trial.intermediate_values for trial in seen) for rung in levels}
    counts[horizon] += len(history)
    rung = next((rung for rung in reversed(levels) if counts[rung] >= fewest_values(config)), levels[0])
    return [*(history if rung == horizon else ()), *(_at(config, trial, rung) for trial in seen)]


def _at(config: SweepConfig, trial: FrozenTrial, rung: int) -> FrozenTrial:
    from optuna.trial import TrialState, create_trial

    state, value = trial.state, trial.intermediate_values.get(rung)
    if value is not None:
        state = TrialState.COMPLETE
        if math.isnan(value):  # which no complete trial of Optuna may have
            value = config.objective.sign * -math.inf
    elif state == TrialState.COMPLETE:  # a report was lost
        state = TrialState.PRUNED
    return create_trial(
        state=state,
        value=value,
        params=trial.params,
        distributions=trial.distributions,
        intermediate_values=trial.intermediate_values if state == TrialState.PRUNED else None,
    )
