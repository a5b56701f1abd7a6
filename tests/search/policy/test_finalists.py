"""Finalists, and the shares of the search and of them in the budget: functions of settings and records alone."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from gbc.errors import BadInput
from records.trial import BY_HAND, ENQUEUED, TrialRecord
from search.policy.budget import ended_by, exhausted_budget, has_work_left, overdue, planning_ended_by
from search.policy.early_stopping import Decision, stopping_rule
from search.policy.finalists import minutes_needed, next_finalist, repetitions_left, with_time
from search.policy.ranking import best_trial, ranked_trials, result_trials, trials_since_improvement, trials_to_keep
from search.spec.config import SweepConfig
from tests.search.conftest import tiny_sweep
from tests.support import missing


def config(**changes: Any) -> SweepConfig:
    return SweepConfig.parse(tiny_sweep(**{"trials": 3, "finalists": 2, "seeds": 2, **changes}), "test")


def trial(number: int, value: float, state: str = "complete", steps: int = 12, **more: Any) -> TrialRecord:
    return TrialRecord(number, {}, state, dict.fromkeys(range(3, steps + 1, 3), value), ended=float(number), **more)


SEARCH = [trial(0, 0.3), trial(1, 0.5), trial(2, 0.4)]


def repetitions(*values: tuple[int, float], state: str = "complete", **more: Any) -> list[TrialRecord]:
    return [trial(3 + index, value, state, repeats=of, **more) for index, (of, value) in enumerate(values)]


def test_the_best_take_turns_until_each_has_its_seeds() -> None:
    sweep, trials, turns = config(), list(SEARCH), []
    while finalist := next_finalist(sweep, trials):
        assert repetitions_left(sweep, trials) == 4 - len(turns) and has_work_left(sweep, trials, 0.0)
        assert ended_by(sweep, trials, 0.0) is None
        turns.append(finalist.number)
        trials.append(trial(len(trials), 0.9, repeats=finalist.number))
    assert turns == [1, 2, 1, 2]
    assert ended_by(sweep, trials, 0.0) == "trials" and not has_work_left(sweep, trials, 0.0)
    assert next_finalist(config(finalists=0), SEARCH) is None


def test_a_repetition_that_failed_or_was_ended_by_hand_is_not_made_up_for_and_one_that_was_cut_short_is() -> None:
    for state, reason, left in (("failed", "why", 3), ("stopped", BY_HAND, 3), ("running", None, 3), ("stopped", None, 4)):
        assert repetitions_left(config(), SEARCH + repetitions((1, 0.1), state=state, reason=reason)) == left, state


def test_a_trial_that_misses_what_is_required_runs_again_only_where_all_do() -> None:
    sweep = config(objective={"require": {"kkt/active": 0.05}})
    lucky = [trial(0, 0.3), trial(1, 0.5, missed=("kkt/active",)), trial(2, 0.4)]
    assert next_finalist(sweep, lucky) == lucky[2]
    none = [dataclasses.replace(candidate, missed=("kkt/active",)) for candidate in SEARCH]
    assert next_finalist(sweep, none) == none[1]


def test_the_best_mean_wins_and_repetitions_are_nothing_else() -> None:
    sweep = config(patience=1, keep=2)
    trials = SEARCH + repetitions((1, 0.1), (2, 0.35), (1, 0.2), (2, 0.3))
    best = best_trial(sweep, trials)
    assert best is not None and best.number == 2 and result_trials(sweep, trials) == [best]
    assert [candidate.number for candidate in ranked_trials(sweep, trials)] == [1, 2, 0]
    assert trials_since_improvement(sweep, trials) == trials_since_improvement(sweep, SEARCH) == 1
    later = [*trials, trial(7, 0.8), trial(8, 0.7)]
    assert [candidate.number for candidate in trials_to_keep(sweep, later)] == [7, 8, 1, 2]
    assert best_trial(sweep, later) == best  # what ran once is not compared with a mean
    smaller = config(objective={"metric": "kkt/rho", "direction": "min"})
    worst = best_trial(smaller, trials)
    assert worst is not None and worst.number == 1


def test_no_rule_compares_with_repetitions() -> None:
    sweep = config(scheduler={"reduction_factor": 2, "grace": 3})
    rule = stopping_rule(sweep, SEARCH[:1] + repetitions((0, 0.9), (0, 0.9)))
    assert rule.decide(9, 3, 0.31) is Decision.KEEP and rule.decide(8, 3, 0.1) is Decision.STOP


def test_the_search_leaves_the_finalists_their_part_of_each_budget() -> None:
    running = [*SEARCH[:2], trial(2, 0.4, "running", 6), trial(3, 0.4, "running", 3, origin=ENQUEUED)]
    timed = config(time_budget=10.0, finalist_time=4.0)
    assert planning_ended_by(timed, running[:2], 300) is None and planning_ended_by(timed, running, 360) == "time"
    assert overdue(timed, running, 300) == set() and overdue(timed, running, 360) == {2}  # not what somebody asked for
    assert exhausted_budget(timed, running, 599.0) == "time" and exhausted_budget(timed, running, 590.0) is None
    steps = config(max_steps=12 * 4 + 24, trials=9)
    assert overdue(steps, [SEARCH[0]], 0.0) == set() and planning_ended_by(steps, [SEARCH[0]], 0.0) is None
    assert planning_ended_by(steps, SEARCH[:2], 0.0) == "steps" and has_work_left(steps, SEARCH[:2], 0.0)
    assert exhausted_budget(steps, SEARCH + repetitions((1, 0.1), (2, 0.1), (1, 0.1)), 0.0) == "steps"
    patient = config(patience=1, trials=9)
    assert planning_ended_by(patient, SEARCH, 0.0) == "patience" and exhausted_budget(patient, SEARCH, 0.0) is None
    assert overdue(patient, [*SEARCH, trial(3, 0.1, "running", 3)], 0.0) == {3}
    assert ended_by(patient, SEARCH + repetitions((1, 0.1), (2, 0.1), (1, 0.1), (2, 0.1)), 0.0) == "patience"


def test_the_time_of_finalists_is_measured_once_and_comes_on_top_where_the_search_has_used_it_up() -> None:
    sweep = config(time_budget=10.0)
    assert minutes_needed(sweep, speed=1.0, concurrency=3) == pytest.approx(1 / 3 + 2 * 12 * 1.3 / 60)
    assert with_time(sweep, 0.0, 2.0).finalist_time == 2.0 and with_time(sweep, 0.0, 50.0).finalist_time == 5.0
    assert exhausted_budget(sweep, SEARCH, 605.0) is None  # they have not run, and nobody kept time for them
    late = with_time(sweep, 606.0, 2.0)
    assert (late.time_budget, late.finalist_time) == (pytest.approx(12.1), 2.0)
    assert planning_ended_by(late, SEARCH[:1], 606.0) == "time" and has_work_left(late, SEARCH, 606.0)
    assert with_time(late, 700.0, 5.0) == late
    assert (
        with_time(config(), 0.0, 2.0) == config()
        and with_time(config(finalists=0, time_budget=9.0), 0.0, 2.0).finalist_time is None
    )


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"finalists": 6}, ["finalists 6", "5", "keep"]),
        ({"seeds": 1}, ["seeds", "2"]),
        ({"max_steps": 48}, ["max_steps 48", "48"]),
        ({"time_budget": 2.0, "finalist_time": 2.0}, ["finalist_time", "time_budget"]),
        ({"second_objective": {"metric": "kkt/rho", "direction": "min"}, "scheduler": {"name": "none"}}, ["finalists"]),
    ],
)
def test_finalists_that_cannot_be_are_refused(changes: dict[str, Any], named: list[str]) -> None:
    with pytest.raises(BadInput) as fault:
        config(**changes)
    assert missing(named, fault.value) == [] and "\n" not in str(fault.value)
