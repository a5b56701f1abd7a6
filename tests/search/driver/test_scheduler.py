"""A rule rebuilt from the ledger decides what one that was never stopped decides."""

from __future__ import annotations

import random
from types import SimpleNamespace
from typing import Any

import pytest
from ray.tune.schedulers import TrialScheduler

from records.trial import Entry
from search.driver.scheduler import LedgerASHA, LedgerMedian
from search.spec.config import SweepConfig
from tests.search.conftest import tiny_sweep

STEPS, EVERY = 24, 3
CONFIG = SweepConfig.parse(
    tiny_sweep(
        trial={"steps": STEPS, "report_every": EVERY},
        objective={"metric": "tstr/1nn", "direction": "max"},
        scheduler={"grace": 3, "reduction_factor": 2},
    ),
    "test",
)


Rule = type[LedgerASHA] | type[LedgerMedian]
RULES = [LedgerASHA, LedgerMedian]


class Sweep:
    """Plays Ray: trials report in turn until they are stopped; the scheduler may be lost and rebuilt between any two."""

    def __init__(self, rule: Rule, seed: int, crash_every: int | None) -> None:
        self.rule = rule
        self.rng, self.crash_every = random.Random(seed), crash_every
        self.values: dict[int, dict[int, float]] = {}
        self.ended: set[int] = set()
        self.decisions: list[tuple[int, int, str]] = []
        self.scheduler: LedgerASHA | LedgerMedian = rule(CONFIG, [])
        self.live: dict[int, Any] = {}

    def entries(self) -> list[Entry]:
        return [Entry(n, {}, "stopped" if n in self.ended else "running", dict(v), None, None) for n, v in self.values.items()]

    def crash(self) -> None:
        self.scheduler = self.rule(CONFIG, self.entries())
        for number in self.live:
            self.live[number] = self.adopt(number)

    def adopt(self, number: int) -> Any:
        # Ray gives a trial another id in every run.
        trial = SimpleNamespace(trial_id=f"{self.rng.random()}", config={"number": number})
        self.scheduler.on_trial_add(None, trial)
        return trial

    def run(self, trials: int) -> list[tuple[int, int, str]]:
        order, scores, ids = random.Random(5), random.Random(6), 0
        events = 0
        quality = [scores.random() for _ in range(trials)]
        while len(self.ended) < trials:
            while len(self.live) < 3 and ids < trials:
                self.values[ids] = {}
                self.live[ids] = self.adopt(ids)
                ids += 1
            number = order.choice(sorted(self.live))
            step = max(self.values[number], default=0) + EVERY
            value = quality[number] * step + scores.random()
            result = {"step": step, "tstr/1nn": value}
            decision = self.scheduler.on_trial_result(None, self.live[number], result)
            self.values[number][step] = value
            self.decisions.append((number, step, decision))
            if decision == TrialScheduler.STOP or step == STEPS:  # the worker ends there by itself
                self.scheduler.on_trial_complete(None, self.live.pop(number), result)
                self.ended.add(number)
            events += 1
            if self.crash_every and events % self.crash_every == 0:
                self.crash()
        return self.decisions


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("crash_every", [1, 2, 5, 17])
def test_decisions_survive_any_restart(rule: Rule, crash_every: int) -> None:
    undisturbed = Sweep(rule, 0, None).run(30)
    assert Sweep(rule, 1, crash_every).run(30) == undisturbed
    stopped_early = [step for _, step, decision in undisturbed if decision == TrialScheduler.STOP and step < STEPS]
    assert len(stopped_early) >= 10  # otherwise nothing was tested
    if rule is LedgerMedian:
        assert len(set(stopped_early)) > 1  # not only at the first report


@pytest.mark.parametrize("rule", RULES)
def test_every_trial_ends_at_the_horizon_at_the_latest(rule: Rule) -> None:
    for number, step, decision in Sweep(rule, 0, None).run(12):
        assert step <= STEPS, number
        if step == STEPS and rule is LedgerASHA:
            assert decision == TrialScheduler.STOP


@pytest.mark.parametrize("rule", RULES)
def test_a_result_without_metrics_is_let_through(rule: Rule) -> None:
    """A failed trial's last word: it must not take a place in a rung."""
    scheduler = rule(CONFIG, [])
    trial = SimpleNamespace(trial_id="x", config={"number": 0})
    scheduler.on_trial_add(None, trial)
    assert scheduler.on_trial_result(None, trial, {"step": 3, "error": "diverged"}) == TrialScheduler.CONTINUE
    scheduler.on_trial_complete(None, trial, {"step": 3, "error": "diverged"})
    scheduler.on_trial_remove(None, trial)


def test_the_median_rule_by_hand() -> None:
    full = {step: float(step) for step in range(3, STEPS + 1, 3)}  # means up to 6: 4.5 k; up to 3: 3 k
    others = [Entry(n, {}, "complete", {at: k * v for at, v in full.items()}, None, None) for n, k in enumerate((1, 2, 3))]
    short = Entry(3, {}, "stopped", {3: 99.0}, 3, None)  # did not reach the horizon: not compared with

    def decide(values: dict[int, float], entries: list[Entry]) -> str:
        scheduler, trial = LedgerMedian(CONFIG, entries), SimpleNamespace(trial_id="x", config={"number": 9})
        return [scheduler.on_trial_result(None, trial, {"step": at, "tstr/1nn": v}) for at, v in values.items()][-1]

    assert decide({3: 5.9}, [*others, short]) == TrialScheduler.STOP  # the median is 6
    assert decide({3: 6.0}, [*others, short]) == TrialScheduler.CONTINUE
    assert decide({3: 9.5, 6: 1.0}, [*others, short]) == TrialScheduler.CONTINUE  # its best counts, and beats 9
    assert decide({3: 7.0, 6: 8.9}, [*others, short]) == TrialScheduler.STOP
    assert decide({3: 0.0}, [*others[:2], short]) == TrialScheduler.CONTINUE  # too few to compare with
    nan = Entry(4, {}, "complete", dict.fromkeys(full, float("nan")), None, None)
    assert decide({3: 5.9}, [*others, nan]) == TrialScheduler.STOP
