"""A look at all records of a sweep.

The study, the MLflow runs and the files of the trials are read in the opposite order of writing, so that a sweep that runs is
not blamed for what it is just writing down.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

from search.consistency import mlflow_facts
from search.consistency.finding import Finding, SweepAudit
from search.consistency.mlflow_facts import Facts, WithProgress
from search.consistency.sweep_checks import first_trial_findings, sweep_findings
from search.consistency.trial_checks import trial_findings
from search.driver.retention import read_history
from search.files.paths import files_folder, trial_folder
from search.spec.config import SweepConfig
from search.study.recorded_settings import settings_on_record
from search.study.store import recorded_trials, running_driver
from search.tracking import client, relocation

_SECOND_LOOK: Final = 2.0  # seconds: longer than the driver takes to close a trial in all records


def without_progress(label: str, elements: Sequence[Any]) -> Iterator[Any]:
    """The elements alone; no progress is shown."""
    return iter(elements)


def audit(sweep: Path, *, mine: bool = False, with_progress: WithProgress = without_progress) -> SweepAudit:
    """Compare the records of the sweep in this folder, and let `with_progress` show the progress of what takes long.

    `mine`: the driver's lock is held by this process.

    Raises:
        BadInput: a record cannot be read at all.
    """
    result = _audit_once(sweep, mine, with_progress)
    if result.live and result.findings:
        # A trial may have been closed in one record and not yet in the next.
        time.sleep(_SECOND_LOOK)
        again = _audit_once(sweep, mine, with_progress)
        again.findings = [finding for finding in again.findings if finding in result.findings]
        return again
    return result


def _audit_once(sweep: Path, mine: bool, with_progress: WithProgress) -> SweepAudit:
    config, fault = settings_on_record(sweep)
    live, home = not mine and running_driver(config, sweep) is not None, files_folder(config)
    if not live and (foundation := _foundation(config, fault)):
        entries, seconds = recorded_trials(config, sweep)
        return SweepAudit(config, sweep, home, live, entries, seconds, [], {}, [], {}, [foundation], partial=True)
    parents, trials = mlflow_facts.read(config, with_progress)
    entries, seconds = recorded_trials(config, sweep)
    numbers = {trial.number for trial in entries}
    by_number: dict[int, list[Facts]] = {trial.number: [] for trial in entries}
    for run in trials:
        if run.number in numbers:
            by_number[run.number].append(run)
    files = {
        trial.number: read_history(trial_folder(home, trial.number)) for trial in with_progress("files of trials", entries)
    }
    # One that a running driver has just asked for is not in our copy of the study.
    strays = [] if live else [run for run in trials if run.number not in numbers]
    result = SweepAudit(config, sweep, home, live, entries, seconds, parents, by_number, strays, files)
    if not live:
        result.findings += sweep_findings(result, mine)
    if config.not_sampled:
        result.findings += first_trial_findings(result)
    for trial in entries:
        result.findings += trial_findings(result, trial)
    return result


def _foundation(config: SweepConfig, fault: str | None) -> Finding | None:
    """Findings that must be mended before the others can be read; `fault` is that of `sweep.yaml`."""
    if fault is not None:
        return Finding(None, fault, "record")
    line = relocation.moved(client.address(config))
    return Finding(None, line, "moved") if line else None
