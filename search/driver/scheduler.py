"""Early stopping that outlives the process: what a rule knows is rebuilt from the ledger at every start."""

from __future__ import annotations

import math
from bisect import insort
from dataclasses import dataclass
from typing import Any, Final

from ray.tune.schedulers import ASHAScheduler, FIFOScheduler, TrialScheduler

from records.trial import Entry
from search.spec.config import SweepConfig
from search.study.ledger import Ledger

_FEWEST: Final = 3  # full trials before there is a median worth the name; as in Ray


@dataclass(frozen=True)
class _Numbered:
    """What ASHA sees of a trial: a name that is the same after a restart, which Ray's own trial id is not."""

    trial_id: int


class LedgerASHA(ASHAScheduler):
    """ASHA over optimiser steps, keyed by trial number."""

    def __init__(self, config: SweepConfig, entries: list[Entry]) -> None:
        """`entries` are the ledger's trials; every value they recorded takes its place in the rungs again."""
        super().__init__(
            time_attr="step",
            metric=config.objective.metric,
            mode=config.objective.direction,
            max_t=config.trial.steps,
            grace_period=config.first_rung,
            reduction_factor=config.scheduler.reduction_factor,
        )
        for entry in entries:
            trial = _Numbered(entry.number)
            super().on_trial_add(None, trial)
            for step, value in entry.values.items():
                super().on_trial_result(None, trial, {"step": step, config.objective.metric: value})
            super().on_trial_remove(None, trial)

    def on_trial_add(self, tune_controller: Any, trial: Any) -> None:
        """Ray hands over a new trial of its own."""
        super().on_trial_add(tune_controller, _numbered(trial))

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        """Continue or stop; the value joins the rungs."""
        decision: str = super().on_trial_result(tune_controller, _numbered(trial), result)
        return decision

    def on_trial_complete(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> None:
        """The trial came to its end."""
        super().on_trial_complete(tune_controller, _numbered(trial), result)

    def on_trial_remove(self, tune_controller: Any, trial: Any) -> None:
        """The trial was taken away before its end."""
        super().on_trial_remove(tune_controller, _numbered(trial))

    def save(self, checkpoint_path: str) -> None:
        """Nothing: the ledger is the record."""

    def restore(self, checkpoint_path: str) -> None:
        """Nothing: the ledger is the record."""


class LedgerMedian(FIFOScheduler):
    """The median stopping rule (Golovin et al. 2017, section 3.2.2), keyed by trial number.

    A trial is stopped at step s if its best value so far is worse than the median, over the trials that reached the full
    horizon, of the mean of their values up to s. Ray's own rule is not used: it pauses trials where there is little to
    compare with, and counts a trial's last value twice.
    """

    def __init__(self, config: SweepConfig, entries: list[Entry]) -> None:
        """`entries` are the ledger's trials, all that the rule has to know."""
        super().__init__()
        self._config = config
        self._values = {entry.number: dict(entry.values) for entry in entries}
        self._means: dict[int, list[float]] = {}
        """By step, in order: of each full trial the mean of its values up to there."""
        for values in self._values.values():
            self._learn(values)

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        """Continue or stop; the value joins what others are compared with once the trial is complete."""
        metric = self._config.objective.metric
        if metric not in result:  # a failed trial's last word
            return str(TrialScheduler.CONTINUE)
        number, step = trial.config["number"], result["step"]
        values = self._values.setdefault(number, {})
        if step not in values:
            values[step] = result[metric]
            self._learn(values)
        worse = self._config.first_rung <= step < self._config.trial.steps and self._worse_than_median(number, step)
        return str(TrialScheduler.STOP if worse else TrialScheduler.CONTINUE)

    def _learn(self, values: dict[int, float]) -> None:
        if self._config.trial.steps not in values:
            return
        total = 0.0
        for count, (step, value) in enumerate(sorted(values.items()), start=1):
            total += value
            if math.isfinite(total):
                insort(self._means.setdefault(step, []), total / count)

    def _worse_than_median(self, number: int, step: int) -> bool:
        means = self._means.get(step, [])
        if len(means) < _FEWEST:
            return False
        middle = 0.5 * (means[(len(means) - 1) // 2] + means[len(means) // 2])
        sign = 1 if self._config.objective.direction == "max" else -1
        return max(sign * value for value in self._values[number].values()) < sign * middle

    def save(self, checkpoint_path: str) -> None:
        """Nothing: the ledger is the record."""

    def restore(self, checkpoint_path: str) -> None:
        """Nothing: the ledger is the record."""


def make_scheduler(config: SweepConfig, ledger: Ledger) -> TrialScheduler:
    """The scheduler that `config` names, as far as the ledger has come."""
    match config.scheduler.name:
        case "asha":
            return LedgerASHA(config, ledger.entries())
        case "median":
            return LedgerMedian(config, ledger.entries())
        case "none":
            return FIFOScheduler()


def _numbered(trial: Any) -> _Numbered:
    return _Numbered(trial.config["number"])
