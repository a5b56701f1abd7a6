"""ASHA whose rungs outlive the process: they are rebuilt from the ledger at every start."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ray.tune.schedulers import ASHAScheduler, FIFOScheduler, TrialScheduler

from search.config import SweepConfig
from search.ledger import Entry, Ledger


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


def make_scheduler(config: SweepConfig, ledger: Ledger) -> TrialScheduler:
    """The scheduler that `config` names, as far as the ledger has come."""
    if config.scheduler.name == "none":
        return FIFOScheduler()
    return LedgerASHA(config, ledger.entries())


def _numbered(trial: Any) -> _Numbered:
    return _Numbered(trial.config["number"])
