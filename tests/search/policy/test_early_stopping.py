"""A rule rebuilt from the records decides what one that was never stopped decides; ASHA decides as Ray's does."""

from __future__ import annotations

import random
from types import SimpleNamespace
from typing import Any

import pytest

from records.trial import TrialRecord
from search.policy.early_stopping import (
    ASHA,
    Decision,
    Hyperband,
    MedianRule,
    NeverStop,
    StoppingRule,
    bracket_costs,
    stopping_rule,
)
from search.spec.config import SweepConfig
from tests.search.conftest import tiny_sweep

STEPS, EVERY = 24, 3


def config_with(**scheduler: Any) -> SweepConfig:
    return SweepConfig.parse(
        tiny_sweep(
            trial={"steps": STEPS, "report_every": EVERY},
            objective={"metric": "tstr/1nn", "direction": "max"},
            scheduler={"grace": 3, "reduction_factor": 2, **scheduler},
        ),
        "test",
    )


CONFIG = config_with()
Rule = type[ASHA] | type[Hyperband] | type[MedianRule]
RULES = [ASHA, Hyperband, MedianRule]


class Sweep:
    """Trials report in turn until they are stopped; the rule may be lost and rebuilt between any two reports."""

    def __init__(self, rule: Rule, crash_every: int | None) -> None:
        self.kind, self.crash_every = rule, crash_every
        self.values: dict[int, dict[int, float]] = {}
        self.ended: set[int] = set()
        self.decisions: list[tuple[int, int, Decision]] = []
        self.rule: StoppingRule = rule(CONFIG, [])

    def trials(self) -> list[TrialRecord]:
        return [
            TrialRecord(n, {}, "stopped" if n in self.ended else "running", dict(v), None, None) for n, v in self.values.items()
        ]

    def run(self, trials: int) -> list[tuple[int, int, Decision]]:
        order, scores = random.Random(5), random.Random(6)
        quality = [scores.random() for _ in range(trials)]
        while len(self.ended) < trials:
            while len(self.values) - len(self.ended) < 3 and len(self.values) < trials:
                self.values[len(self.values)] = {}
            number = order.choice(sorted(self.values.keys() - self.ended))
            step = max(self.values[number], default=0) + EVERY
            value = quality[number] * step + scores.random()
            decision = self.rule.decide(number, step, value)
            self.values[number][step] = value
            self.decisions.append((number, step, decision))
            if decision is Decision.STOP or step == STEPS:  # the worker ends there by itself
                self.ended.add(number)
            if self.crash_every and len(self.decisions) % self.crash_every == 0:
                self.rule = self.kind(CONFIG, self.trials())
        return self.decisions


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("crash_every", [1, 2, 5, 17])
def test_decisions_survive_any_restart(rule: Rule, crash_every: int) -> None:
    undisturbed = Sweep(rule, None).run(30)
    assert Sweep(rule, crash_every).run(30) == undisturbed
    stopped_early = [step for _, step, decision in undisturbed if decision is Decision.STOP and step < STEPS]
    assert len(stopped_early) >= 10  # otherwise nothing was tested
    if rule is not ASHA:
        assert len(set(stopped_early)) > 1  # not only at the first report


@pytest.mark.parametrize("rule", RULES)
def test_every_trial_ends_at_the_horizon_at_the_latest(rule: Rule) -> None:
    for number, step, decision in Sweep(rule, None).run(12):
        assert step <= STEPS, number
        if step == STEPS and rule is not MedianRule:
            assert decision is Decision.STOP


@pytest.mark.filterwarnings("ignore:All-NaN slice encountered")  # Ray's, of a rung whose values are all no number
@pytest.mark.parametrize("direction", ["max", "min"])
@pytest.mark.parametrize(
    ("steps", "every", "grace", "reduction"), [(24, 3, 3, 2), (24, 3, 6, 3), (27, 3, 3, 3), (160, 20, 40, 2)]
)
def test_asha_decides_as_rays_does(direction: str, steps: int, every: int, grace: int, reduction: int) -> None:
    """Trials in any order, values said twice, ties, and values that are no number."""
    from ray.tune.schedulers import ASHAScheduler

    config = SweepConfig.parse(
        tiny_sweep(
            trial={"steps": steps, "report_every": every},
            objective={"metric": "tstr/1nn", "direction": direction},
            scheduler={"grace": grace, "reduction_factor": reduction},
        ),
        "test",
    )
    theirs = ASHAScheduler(
        time_attr="step", metric="tstr/1nn", mode=direction, max_t=steps, grace_period=grace, reduction_factor=reduction
    )
    ours, rng = ASHA(config, []), random.Random(steps + grace)
    reached = dict.fromkeys(range(40), 0)
    for number in reached:
        theirs.on_trial_add(None, SimpleNamespace(trial_id=number))
    decided = set()
    while reached:
        number = rng.choice(list(reached))
        again = reached[number] > 0 and rng.random() < 0.2
        reached[number] += 0 if again else every
        step = reached[number]
        value = float("nan") if rng.random() < 0.02 else round(rng.random(), 1)
        expected = theirs.on_trial_result(None, SimpleNamespace(trial_id=number), {"step": step, "tstr/1nn": value})
        decision = ours.decide(number, step, value)
        assert decision.name == expected.replace("CONTINUE", "KEEP"), (number, step)
        decided.add((step < steps, decision))
        if decision is Decision.STOP:
            del reached[number]
    assert decided == {(True, Decision.KEEP), (True, Decision.STOP), (False, Decision.STOP)}


def test_hyperband_gives_each_bracket_the_same_steps() -> None:
    """Rungs 3, 6, 12 of 24 steps: a trial takes 3 + 3/2 + 6/4 + 12/8 = 7.5, 6 + 6/2 + 12/4 = 12, 12 + 12/2 = 18 or 24."""
    costs = bracket_costs(CONFIG)
    assert costs == [7.5, 12.0, 18.0, 24.0]
    rule = Hyperband(CONFIG, [])
    rule.bracket(100)  # the order of questions changes nothing
    counts = [[rule.bracket(number) for number in range(1000)].count(bracket) for bracket in range(4)]
    spent = [count * cost for count, cost in zip(counts, costs, strict=True)]
    assert max(spent) - min(spent) <= max(costs)
    assert [Hyperband(CONFIG, []).bracket(number) for number in range(5)] == [rule.bracket(number) for number in range(5)]
    assert {rule.bracket(number) for number in range(7)} == {0, 1, 2, 3}  # a short sweep tries each


def test_hyperband_compares_a_trial_with_its_bracket_alone_and_from_its_first_rung_on() -> None:
    rule = Hyperband(CONFIG, [])
    members = [[number for number in range(60) if rule.bracket(number) == bracket] for bracket in range(4)]
    for bracket, (best, worse, *_) in enumerate(members):
        stopped_at = None
        for step in range(EVERY, STEPS, EVERY):
            assert rule.decide(best, step, 1.0 + step) is Decision.KEEP
            if stopped_at is None and rule.decide(worse, step, step - 1.0 - bracket) is Decision.STOP:
                stopped_at = step
        assert stopped_at == [3, 6, 12, None][bracket]


def test_the_median_rule_by_hand() -> None:
    full = {step: float(step) for step in range(3, STEPS + 1, 3)}  # means up to 6: 4.5 k; up to 3: 3 k
    others = [
        TrialRecord(n, {}, "complete", {at: k * v for at, v in full.items()}, None, None) for n, k in enumerate((1, 2, 3))
    ]
    short = TrialRecord(3, {}, "stopped", {3: 99.0}, 3, None)  # did not reach the horizon: not compared with

    def decide(values: dict[int, float], trials: list[TrialRecord]) -> Decision:
        rule = MedianRule(CONFIG, trials)
        return [rule.decide(9, at, value) for at, value in values.items()][-1]

    assert decide({3: 5.9}, [*others, short]) is Decision.STOP  # the median is 6
    assert decide({3: 6.0}, [*others, short]) is Decision.KEEP
    assert decide({3: 9.5, 6: 1.0}, [*others, short]) is Decision.KEEP  # its best counts, and beats 9
    assert decide({3: 7.0, 6: 8.9}, [*others, short]) is Decision.STOP
    assert decide({3: 0.0}, [*others[:2], short]) is Decision.KEEP  # too few to compare with
    nan = TrialRecord(4, {}, "complete", dict.fromkeys(full, float("nan")), None, None)
    assert decide({3: 5.9}, [*others, nan]) is Decision.STOP


def test_each_rule_by_its_name() -> None:
    rules = {"asha": ASHA, "hyperband": Hyperband, "median": MedianRule, "none": NeverStop}
    for name, rule in rules.items():
        assert type(stopping_rule(config_with(name=name), [])) is rule
    assert NeverStop().decide(0, 3, -1.0) is Decision.KEEP
