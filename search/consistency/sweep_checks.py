"""Disagreements of the records on the sweep itself: its numbers, its folders, its MLflow run, its warm start."""

from __future__ import annotations

from collections.abc import Iterator

from gbc.errors import BadInput
from records.mlflow_store import BEST_TRIAL, FRONT, TRIAL
from records.trial import ENQUEUED
from search.consistency.finding import Finding, SweepAudit
from search.driver.retention import stale_files
from search.files import storage
from search.files.lock import LOCK_HOLDER
from search.files.paths import WARM_START
from search.study import warm_start
from search.tracking.tracker import front_text


def sweep_findings(audit: SweepAudit, mine: bool) -> Iterator[Finding]:
    """All of the sweep as a whole, which no driver may hold but, with `mine`, this process."""
    if [trial.number for trial in audit.entries] != list(range(len(audit.entries))):
        yield Finding(None, "the study's trials are not numbered from 0 without a gap")
    for path in stale_files(audit.sweep, audit.config):
        yield Finding(None, f"{path}: left by a process that is no more", "remove", path)
    if (audit.sweep / LOCK_HOLDER).exists() and not mine:
        yield Finding(
            None, f"{audit.sweep / LOCK_HOLDER}: left by a driver that is no more", "remove", audit.sweep / LOCK_HOLDER
        )
    numbers = {trial.number for trial in audit.entries}
    for folder in storage.list_folder(audit.home / "trials"):
        if folder.name.isdigit() and int(folder.name) not in numbers:
            yield Finding(None, f"{folder}: the study knows no such trial", "remove", folder)
    for stray in audit.strays:
        yield Finding(
            None, f"MLflow run {stray.run} is of trial {stray.tags.get(TRIAL)}, which the study does not know", "stray"
        )
    if len(audit.parents) != 1:
        yield Finding(None, f"MLflow has {len(audit.parents)} runs for the sweep, not 1", "parent")
        return
    (parent,) = audit.parents
    status = "FINISHED" if audit.finished else "KILLED"
    if parent.status != status:
        yield Finding(None, f"the sweep's MLflow run is {parent.status}, not {status}", "parent")
    if not audit.results or not audit.finished:
        return
    best_in_mlflow, best = parent.tags.get(BEST_TRIAL), str(audit.results[0])
    if best_in_mlflow != best:
        yield Finding(None, f"MLflow names trial {best_in_mlflow} as the best, the study {best}", "parent")
    front_in_mlflow, front = parent.tags.get(FRONT), front_text(audit.results)
    if audit.config.second_objective is not None and front_in_mlflow != front:
        yield Finding(None, f"MLflow names trials {front_in_mlflow} as the front, the study {front}", "parent")


def first_trial_findings(audit: SweepAudit) -> Iterator[Finding]:
    """First trials whose settings are not those given.

    Without its note a warm start would take what the other sweep has become since.
    """
    prior = warm_start.listed(audit.config)
    if audit.config.warm_start is not None:
        path = audit.sweep / WARM_START
        attached = [parent for parent in audit.parents if WARM_START in parent.files]
        try:
            prior = warm_start.read_note(path)
        except BadInput:
            state = "damaged" if path.exists() else "missing"
            yield Finding(None, f"{path}: {state}", "note" if attached and not audit.live else None)
            return
        if len(audit.parents) == 1 and not attached and not audit.live:
            yield Finding(None, f"the sweep's MLflow run has no {WARM_START}", "parent")
    for index, trial in enumerate(trial for trial in audit.entries if trial.origin != ENQUEUED):
        known = prior.first[index] if index < len(prior.first) else None
        if trial.origin != (known.origin if known else None):
            given = known.origin if known else "no other"
            yield Finding(
                trial.number, f"took settings of {trial.origin or 'no other'} by the study, {given} by the sweep's record"
            )
        elif known and any(trial.params.get(key) != value for key, value in known.params.items()):
            yield Finding(trial.number, f"its settings are not those of {known.origin} in the sweep's record")
