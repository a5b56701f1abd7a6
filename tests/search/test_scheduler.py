"""ASHA rebuilt from the ledger decides what ASHA that was never stopped decides."""

from __future__ import annotations

import random
from types import SimpleNamespace
from typing import Any

import pytest
from ray.tune.schedulers import TrialScheduler

from search.config import SweepConfig
from search.ledger import Entry
from search.scheduler import LedgerASHA
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


class Sweep:
    """Plays Ray: trials report in turn until they are stopped; the scheduler may be lost and rebuilt between any two."""

    def __init__(self, seed: int, crash_every: int | None) -> None:
        self.rng, self.crash_every = random.Random(seed), crash_every
        self.values: dict[int, dict[int, float]] = {}
        self.ended: set[int] = set()
        self.decisions: list[tuple[int, int, str]] = []
        self.scheduler = LedgerASHA(CONFIG, [])
        self.live: dict[int, Any] = {}

    def entries(self) -> list[Entry]:
        return [Entry(n, {}, "stopped" if n in self.ended else "running", dict(v), None, None) for n, v in self.values.items()]

    def crash(self) -> None:
        self.scheduler = LedgerASHA(CONFIG, self.entries())
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
            if decision == TrialScheduler.STOP:
                self.scheduler.on_trial_complete(None, self.live.pop(number), result)
                self.ended.add(number)
            events += 1
            if self.crash_every and events % self.crash_every == 0:
                self.crash()
        return self.decisions


@pytest.mark.parametrize("crash_every", [1, 2, 5, 17])
def test_decisions_survive_any_restart(crash_every: int) -> None:
    undisturbed = Sweep(0, None).run(20)
    assert Sweep(1, crash_every).run(20) == undisturbed
    stopped_early = [step for _, step, decision in undisturbed if decision == TrialScheduler.STOP and step < STEPS]
    assert len(stopped_early) >= 10  # otherwise nothing was tested


def test_every_trial_ends_at_the_horizon_at_the_latest() -> None:
    for number, step, decision in Sweep(0, None).run(12):
        assert step <= STEPS, number
        if step == STEPS:
            assert decision == TrialScheduler.STOP


def test_a_result_without_metrics_is_let_through() -> None:
    """A failed trial's last word: it must not take a place in a rung."""
    scheduler = LedgerASHA(CONFIG, [])
    trial = SimpleNamespace(trial_id="x", config={"number": 0})
    scheduler.on_trial_add(None, trial)
    assert scheduler.on_trial_result(None, trial, {"step": 3, "error": "diverged"}) == TrialScheduler.CONTINUE
    scheduler.on_trial_complete(None, trial, {"step": 3, "error": "diverged"})
    scheduler.on_trial_remove(None, trial)
