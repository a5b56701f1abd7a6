"""Results of an audit: each disagreement in words, and all that was read."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from records.trial import TrialRecord
from search.consistency.mlflow_facts import Facts
from search.driver.retention import SavedHistory
from search.files.storage import Location
from search.policy.budget import ended_by
from search.policy.ranking import result_trials
from search.spec.config import SweepConfig


@dataclass(frozen=True)
class Finding:
    """Something that is not as it should be."""

    trial: int | None
    what: str
    mend: str | None = None
    """The repair that helps, by its name in `search.consistency.repair.REPAIRS`."""
    file: Location | None = None

    def describe(self) -> str:
        """One line."""
        return (f"trial-{self.trial:04d}: " if self.trial is not None else "") + self.what


@dataclass
class SweepAudit:
    """All records of a sweep, and the findings about them."""

    config: SweepConfig
    sweep: Path
    home: Location
    """The folder of the files of its trials."""
    live: bool
    """True if a driver holds the sweep."""
    entries: list[TrialRecord]
    seconds: float
    parents: list[Facts]
    runs: dict[int, list[Facts]]
    strays: list[Facts]
    """Runs of trials that the study does not know."""
    files: dict[int, tuple[SavedHistory | None, list[Location]]]
    findings: list[Finding] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    """Remarks on records that look odd and are in order."""
    partial: bool = False
    """True if the findings keep the other records from being read."""

    @cached_property
    def results(self) -> list[int]:
        """The best trial; with two objectives the front, the best first."""
        return [trial.number for trial in result_trials(self.config, self.entries)]

    @property
    def finished(self) -> bool:
        """True if a budget is used up and no trial is open."""
        return ended_by(self.config, self.entries, self.seconds) is not None
