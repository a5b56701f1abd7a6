"""The messages between the driver and its workers: the assignment of a trial, and what comes back from it."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final, TypedDict

MESSAGE: Final = "message"
"""The key of a message in a result of Ray's."""


class Assignment(TypedDict):
    """The work of a worker, as plain data: Ray keeps it as the trial's configuration."""

    number: int
    acknowledged: int
    """The last step that is on record; earlier ones are not reported again."""
    settings: dict[str, Any]
    """A `TrialConfig`."""
    folder: str
    """Folder of this trial: checkpoint and picture. Below `storage` where there is one."""
    cache: str
    """Folder of trained classifiers; the driver has put there what the trial needs. Empty: one of this node's own."""
    storage: str | None
    """Folder or URL of `--storage`, without password, where the driver has put the classifiers as well."""
    threads: int
    gpus: float
    """Share of a GPU, or several."""
    hang_limit: float | None
    """Seconds that may pass without a report; None where somebody sits before it."""
    hang_report: str
    """The file that the watchdog writes for the driver. Empty on a cluster: the driver could not read it."""


@dataclass(frozen=True)
class Progress:
    """A report: the metrics of a trial at an optimiser step."""

    step: int
    metrics: Mapping[str, float]
    time: float = field(default_factory=time.time)
    """The time at which it was made, in seconds since 1970."""

    @classmethod
    def from_history(cls, row: Mapping[str, Any]) -> Progress:
        """A report from the history in a checkpoint, which does not know when it was made: now."""
        return cls(row["step"], {name: value for name, value in row.items() if name != "step"})


@dataclass(frozen=True)
class Failed:
    """The trial failed by its settings, as when it diverges. Another worker would fail as well."""

    reason: str


@dataclass(frozen=True)
class OutOfMemory:
    """The GPU has no memory left for the trial. It may go on with fewer neighbours."""

    reason: str


@dataclass(frozen=True)
class Halt:
    """The whole sweep must stop, as when a disk is full. No other worker would have more room."""

    reason: str


Message = Progress | Failed | OutOfMemory | Halt
