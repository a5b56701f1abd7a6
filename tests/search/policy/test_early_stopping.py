"""A rule rebuilt from the records decides what one that was never stopped decides; ASHA decides as Ray's does."""

from __future__ import annotations

import math
import random
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml

from records.trial import TrialRecord
from search.policy.early_stopping import (
    ASHA,
    Decision,
    FrontASHA,
    Hyperband,
    MedianRule,
    NeverStop,
    StoppingRule,
    bracket_costs,
    stopping_rule,
)
from search.run import main
from search.spec.config import Objective, SweepConfig
from search.study.ledger import Ledger
from tests.search.conftest import tiny_sweep
from tests.support import missing

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


@pytest.mark.parametrize("name", ["asha", "hyperband"])
def test_with_two_objectives_decisions_survive_a_restart_with_what_the_study_holds(name: str, tmp_path: Path) -> None:
    """Reports go into a real study; rule and sampler are rebuilt from one that is opened anew."""
    config = config_with(name=name).model_copy(update={"second_objective": Objective(metric="kkt/rho", direction="min")})

    def run(folder: Path, crash_every: int | None) -> tuple[list[Decision], list[dict[str, Any]]]:
        folder.mkdir()
        ledger, rng, decisions = Ledger(config, folder), random.Random(3), list[Decision]()
        rule, open_trials = stopping_rule(config, []), list[int]()
        while len(decisions) < 90:
            while len(open_trials) < 3:
                open_trials.append(ledger.ask().number)
            number = rng.choice(open_trials)
            step = ledger.entry(number).last_step + EVERY
            value, second = rng.random(), math.nan if step < STEPS and rng.random() < 0.1 else rng.random()
            decision = rule.decide(number, step, value, second)
            ledger.record(number, step, value, stop=decision is Decision.STOP and step < STEPS, second=second)
            decisions.append(decision)
            if decision is Decision.STOP:
                ledger.tell(number, "complete" if step == STEPS else "stopped")
                open_trials.remove(number)
            if crash_every and len(decisions) % crash_every == 0:
                ledger.flush()
                ledger.close()
                ledger = Ledger(config, folder)
                rule = stopping_rule(config, ledger.entries())
        ledger.close()
        return decisions, [trial.params for trial in ledger.entries()]

    decisions, settings = run(tmp_path / "a", None)
    assert run(tmp_path / "b", 7) == (decisions, settings)
    assert decisions.count(Decision.STOP) > 5 and len(settings) > 13  # the sampler learns from ten on


def test_a_trial_that_is_the_best_in_either_objective_goes_on() -> None:
    sweep = config_with().model_copy(update={"second_objective": Objective(metric="kkt/rho", direction="min")})
    rule = FrontASHA(sweep, [])
    for number, (value, rho) in enumerate([(0.5, 0.5), (0.6, 0.6)]):
        assert rule.decide(number, 3, value, rho) is Decision.KEEP
    assert rule.decide(2, 3, 0.1, 0.1) is Decision.KEEP
    assert rule.decide(3, 3, 0.4, 0.7) is Decision.STOP  # two of three beat it in both
    assert rule.decide(3, 3, 0.4, 0.7) is Decision.KEEP  # said again
    assert rule.decide(4, 3, math.nan, 0.0) is Decision.STOP
    assert rule.decide(5, 4, 0.0, 0.9) is Decision.KEEP  # no rung
    assert rule.decide(5, STEPS, 0.0, 0.9) is Decision.STOP


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
    assert decide({3: math.nan, 6: 8.9}, [*others, short]) is Decision.STOP  # its best is 8.9
    assert decide({3: 0.0}, [*others[:2], short]) is Decision.KEEP  # too few to compare with
    nan = TrialRecord(4, {}, "complete", dict.fromkeys(full, float("nan")), None, None)
    assert decide({3: 5.9}, [*others, nan]) is Decision.STOP


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"scheduler": "hyperbnd"}, ["scheduler", "'hyperbnd'", "'hyperband'"]),
        ({"scheduler": {"name": "hyperband", "grace": 4}}, ["scheduler.grace (4)", "trial.report_every (3)"]),
        ({"scheduler": {"name": "hyperband", "reduction_factor": 1}}, ["scheduler.reduction_factor: 1 ", "2"]),
        ({"second_objective": {"metric": "kkt/rho"}, "scheduler": "median"}, ["scheduler median", "asha, hyperband or none"]),
        ({"second_objective": {"metric": "kkt/rho"}, "sampler": "bohb"}, ["sampler bohb", "tpe"]),
    ],
)
def test_what_cannot_be_is_one_line_and_exit_code_2(
    changes: dict[str, Any], named: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "sweep.yaml"
    file.write_text(yaml.safe_dump(tiny_sweep(**changes)))
    assert main(["--config", str(file), "--dry-run"]) == 2
    error = capsys.readouterr().err
    assert missing([str(file), *named], error) == [] and error.count("\n") == 1, error


def test_each_rule_by_its_name() -> None:
    rules = {"asha": ASHA, "hyperband": Hyperband, "median": MedianRule, "none": NeverStop}
    for name, rule in rules.items():
        assert type(stopping_rule(config_with(name=name), [])) is rule
    assert NeverStop().decide(0, 3, -1.0) is Decision.KEEP
