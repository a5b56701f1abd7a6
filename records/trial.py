"""The record of a trial in a study, and the names of the attributes for what Optuna has no place for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final

STOPPED: Final = "stopped_at"
REASON: Final = "reason"
SECOND: Final = "second_objective"
SECOND_AT: Final = "second_at_rungs"
MISSED: Final = "missed"
SECONDS: Final = "seconds"
LOST: Final = "lost_workers"
RETRIED: Final = "retried"
GPUS: Final = "gpus"
ORIGIN: Final = "warm_start"
"""Attribute of a trial whose settings were not sampled: the sweep and trial they come from, or `LISTED`."""
LISTED: Final = "first_trials"
"""The origin of settings that the sweep's own file lists."""
ENQUEUED: Final = "enqueue"
"""The origin of settings that somebody gave by hand while the sweep was there."""
ORDER: Final = "order"
REPEATS: Final = "repeats"
BY_HAND: Final = "by hand"
"""The reason of a trial that somebody ended."""
STATES: Final = ("complete", "stopped", "failed", "running")
"""States of a trial: it reached the full horizon, was stopped early, failed, or is open."""
_OF_OPTUNA: Final = {"RUNNING": "running", "WAITING": "running", "COMPLETE": "complete", "PRUNED": "stopped", "FAIL": "failed"}


@dataclass(frozen=True)
class TrialRecord:
    """One trial as the study has it."""

    number: int
    params: dict[str, Any]
    state: str
    """One of `STATES`."""
    values: dict[int, float]
    """Objective by optimiser step, in order."""
    stopped_at: int | None = None
    """The step at which the scheduler decided to stop it."""
    reason: str | None = None
    """The reason of its failure, or `BY_HAND`."""
    second: float | None = None
    """The second objective at the last recorded step, in a sweep that has two."""
    second_at: Mapping[int, float] = field(default_factory=dict)
    """The second objective by step, at the rungs alone."""
    missed: tuple[str, ...] = ()
    """The requirements of the sweep that its last report misses, a line each."""
    origin: str | None = None
    """The trial of another sweep whose settings it took (warm start), `LISTED` or `ENQUEUED`; None: they were sampled."""
    order: str | None = None
    """The key of the order that gave it its settings."""
    repeats: int | None = None
    """The number of the trial whose settings it runs again on a fresh seed."""
    lost: int = 0
    """The number of times that its worker died or raised and was replaced."""
    retried: int = 0
    """The number of times that it was opened again after it had failed."""
    gpus: float = 0.0
    """The share of a GPU that it needs more than others, after it ran out of memory."""
    started: float | None = None
    """The time at which it was asked for, in seconds since 1970."""
    ended: float | None = None
    """The time at which it ended, in seconds since 1970."""

    @property
    def name(self) -> str:
        """The name of its MLflow run."""
        return f"trial-{self.number:04d}"

    @property
    def counts(self) -> bool:
        """True if it is one of the `trials` that the sweep plans: neither a setting given by hand nor a repetition."""
        return not self.by_hand and self.repeats is None

    @property
    def by_hand(self) -> bool:
        """True if its settings were given by hand."""
        return self.origin == ENQUEUED

    @property
    def last_step(self) -> int:
        """The last step that was recorded, 0 before the first."""
        return max(self.values, default=0)

    @property
    def value(self) -> float | None:
        """The objective at the last recorded step."""
        return self.values[self.last_step] if self.values else None

    @property
    def objectives(self) -> tuple[float, ...]:
        """Every objective at the last recorded step."""
        return tuple(value for value in (self.value, self.second) if value is not None)

    @property
    def finished(self) -> bool:
        """True if the trial has ended."""
        return self.state != "running"

    def outcome(self, horizon: int) -> str | None:
        """`complete`, `stopped` or `failed`; None for a trial that must go on to step `horizon`."""
        if self.finished:
            return self.state
        if self.last_step >= horizon:
            return "complete"
        return "stopped" if self.stopped_at is not None else None


def trial_from_optuna(
    number: int,
    state: str,
    started: datetime | None,
    ended: datetime | None,
    params: dict[str, Any],
    values: Mapping[int, float],
    attributes: Mapping[str, Any],
) -> TrialRecord:
    """Make the record of a trial from what Optuna stores of it; `state` is Optuna's name, and its times have no zone."""
    return TrialRecord(
        number=number,
        params=params,
        state=_OF_OPTUNA[state],
        values=dict(sorted(values.items())),
        stopped_at=attributes.get(STOPPED),
        reason=attributes.get(REASON),
        second=attributes.get(SECOND),
        second_at={int(step): value for step, value in attributes.get(SECOND_AT, {}).items()},
        missed=tuple(attributes.get(MISSED, ())),
        origin=attributes.get(ORIGIN),
        order=attributes.get(ORDER),
        repeats=attributes.get(REPEATS),
        lost=attributes.get(LOST, 0),
        retried=attributes.get(RETRIED, 0),
        gpus=attributes.get(GPUS, 0.0),
        started=started.timestamp() if started else None,
        ended=ended.timestamp() if ended else None,
    )


def seconds_spent(attributes: Mapping[str, Any]) -> float:
    """Read the wall time spent on a sweep from its study's attributes."""
    return float(attributes.get(SECONDS, 0.0))
