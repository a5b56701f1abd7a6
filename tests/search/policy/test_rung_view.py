"""The trials that BOHB's model is made of."""

from __future__ import annotations

import math
from typing import Any

import pytest
from optuna.distributions import FloatDistribution
from optuna.trial import FrozenTrial, TrialState, create_trial

from records.trial import REPEATS, SECOND_AT, STOPPED
from search.policy.rung_view import as_seen, at_highest_rung, fewest_values
from search.spec.config import SweepConfig
from tests.search.conftest import tiny_sweep

RANGE = {"lr": FloatDistribution(0.0, 1.0)}


def config(**changes: Any) -> SweepConfig:
    """Rungs 3 and 6 of 12 steps."""
    return SweepConfig.parse(tiny_sweep(**changes), "test")


def trial(state: TrialState, last: int, value: float = 0.5, **user: Any) -> FrozenTrial:
    values = {step: value + step for step in range(3, last + 1, 3)}
    final = values.get(last) if state == TrialState.COMPLETE else None
    return create_trial(
        state=state, value=final, params={"lr": 0.5}, distributions=RANGE, intermediate_values=values, user_attrs=user
    )


FULL, STOPPED_TRIAL = trial(TrialState.COMPLETE, 12), trial(TrialState.PRUNED, 6)
EARLY, OPEN = trial(TrialState.PRUNED, 3), trial(TrialState.RUNNING, 6)
STOPPED_BY_A_BUDGET, STOPPED_BY_HAND = STOPPED_TRIAL, trial(TrialState.PRUNED, 9, **{STOPPED: 9, SECOND_AT: {"6": 0.5}})
SILENT, FAILED = trial(TrialState.RUNNING, 0), trial(TrialState.FAIL, 6)


@pytest.mark.parametrize(
    ("trials", "values"),
    [
        ([FULL] * 10, 12.5),
        ([FULL] * 9 + [STOPPED_TRIAL], 6.5),
        ([FULL] * 3 + [STOPPED_TRIAL] * 3 + [OPEN] * 4, 6.5),
        ([FULL] * 9 + [EARLY], 3.5),
        ([FULL], 3.5),
    ],
)
def test_the_rung_is_the_highest_that_enough_trials_came_to(trials: list[FrozenTrial], values: float) -> None:
    seen = at_highest_rung(config(), trials, [])
    assert [each.value for each in seen] == [values] * len(trials)
    assert {each.state for each in seen} == {TrialState.COMPLETE}


def test_those_that_did_not_come_there() -> None:
    seen = at_highest_rung(
        config(), [*[STOPPED_TRIAL] * 10, EARLY, SILENT, FAILED, trial(TrialState.COMPLETE, 12, **{REPEATS: 0})], []
    )
    assert [each.state for each in seen[10:]] == [TrialState.PRUNED, TrialState.RUNNING]
    assert seen[10].intermediate_values == EARLY.intermediate_values and seen[10].value is None


@pytest.mark.parametrize(("direction", "worst"), [("max", -math.inf), ("min", math.inf)])
def test_a_value_that_is_no_number_is_the_worst(direction: str, worst: float) -> None:
    sweep = config(objective={"metric": "tstr/1nn", "direction": direction})
    (seen,) = at_highest_rung(sweep, [trial(TrialState.PRUNED, 3, math.nan)], [])
    assert seen.state == TrialState.COMPLETE and seen.value == worst


def test_a_warm_start_is_known_at_the_full_horizon_alone() -> None:
    earlier = [create_trial(value=0.9, params={"lr": 0.1}, distributions=RANGE)] * 9
    assert [each.value for each in at_highest_rung(config(), [FULL], earlier)] == [0.9] * 9 + [12.5]
    assert [each.value for each in at_highest_rung(config(), [EARLY], earlier)] == [3.5]


def test_a_large_space_asks_for_more_values() -> None:
    keys = ("lr", "beta", "tv_weight", "ce_weight", "bn_weight", "border_weight", "closed_weight", "row_space_weight")
    assert fewest_values(config()) == 10
    assert fewest_values(config(space={key: {"uniform": [0.1, 0.2]} for key in keys})) == 11


def test_with_two_objectives_a_trial_stopped_at_a_rung_is_seen_with_its_values_there() -> None:
    two = config(second_objective={"metric": "kkt/rho", "direction": "min"})
    stopped = trial(TrialState.PRUNED, 6, **{STOPPED: 6, SECOND_AT: {"3": 0.9, "6": 0.8}})
    assert as_seen(two, stopped) == (TrialState.COMPLETE, [6.5, 0.8])
    assert as_seen(config(), stopped) == (TrialState.PRUNED, stopped.values)
    for cut in (STOPPED_BY_A_BUDGET, STOPPED_BY_HAND, trial(TrialState.PRUNED, 6, **{STOPPED: 6, SECOND_AT: {"6": math.nan}})):
        assert as_seen(two, cut) == (TrialState.FAIL, None)
    assert as_seen(two, OPEN) == (TrialState.RUNNING, None)
    assert as_seen(config(), trial(TrialState.COMPLETE, 12, **{REPEATS: 0})) == (TrialState.FAIL, None)
