"""Mend what an audit found: every repair goes from a record that is whole to one that is not.

The study says what was asked, reported and decided, and a checkpoint or the history that stays of it holds every metric.
"""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

from gbc import checkpoint, plain_yaml
from gbc.checkpoint import write_atomic
from gbc.errors import BadInput
from gbc.settings import flatten
from records.format import listed
from records.mlflow_store import OUTCOME
from records.paths import RECORD
from records.trial import TrialRecord
from search.consistency.comparisons import is_beginning
from search.consistency.finding import Finding, SweepAudit
from search.consistency.mlflow_facts import Facts
from search.driver.retention import read_history
from search.files import storage
from search.files.paths import CHECKPOINT, CLASSIFIERS, HISTORY, LOG, PICTURE, PREVIOUS, WARM_START, trial_folder
from search.files.storage import Location
from search.policy.budget import ended_by
from search.policy.ranking import result_trials
from search.study import warm_start
from search.study.ledger import Ledger
from search.tracking import client, relocation
from search.tracking.tracker import Tracker
from search.worker.messages import Progress
from search.worker.trial import assignment_of, settings_of, train

REPAIRS: Final = {
    "record": "can be written again from the study",
    "moved": "the addresses can be set right",
    "remove": "can be deleted",
    "stray": "can be deleted",
    "parent": "can be set right",
    "note": "can be copied from MLflow",
    "tell": "can be closed",
    "run": "can be set right from the study and the trial's history",
    "study": "can be closed in the study too",
    "attach": "can be copied from the trial's folder",
    "fetch": "can be copied from MLflow",
    "damaged": "can be removed: the one before it is used, or training starts over with the same numbers",
    "history": "can be copied from MLflow",
    "train": "can be trained again, with the same numbers",
}
"""Messages about each repair; each repair but the first two is a method of `_Repairer`."""


def mend(audit: SweepAudit) -> list[str]:
    """Mend what can be mended, and say what was done. The caller holds the driver's lock."""
    if audit.partial:
        return [f"{finding.describe()}: {_mend_foundation(audit, finding)}" for finding in audit.findings if finding.mend]
    findings = [finding for finding in audit.findings if finding.mend]
    if any(finding.mend in ("tell", "study") for finding in findings):
        findings.append(Finding(None, "the sweep's MLflow run", "parent"))  # it may have been the last open trial
    mender = _Repairer(audit)
    try:
        # The sweep's own run last: it says which trial is the best, and whether all have ended.
        findings.sort(key=lambda finding: finding.mend == "parent")
        return [f"{finding.describe()}: {done}" for finding in findings if (done := mender.mend(finding))]
    finally:
        mender.ledger.close()


def _mend_foundation(audit: SweepAudit, finding: Finding) -> str:
    """Mend what keeps the rest of the records from being read."""
    if finding.mend == "record":
        write_atomic(audit.sweep / RECORD, plain_yaml.dump(audit.config.record()).encode())
        return "written again from the study"
    relocation.relocate(client.address(audit.config))
    return "the addresses are set right"


class _Repairer:
    def __init__(self, audit: SweepAudit) -> None:
        self.audit, self.config, self.sweep, self.home = audit, audit.config, audit.sweep, audit.home
        self.ledger = Ledger(audit.config, audit.sweep)
        self.tracker = Tracker(audit.config, {})
        self._done: dict[tuple[str, int | None], str] = {}

    def mend(self, finding: Finding) -> str:
        """The repairs that were made; empty when none could be."""
        assert finding.mend is not None
        if finding.mend in ("remove", "damaged") and finding.file is not None:
            return self._damaged(finding.file) if finding.mend == "damaged" else self._remove(finding.file)
        key = finding.mend, finding.trial
        if key not in self._done:  # one repair may answer several findings
            repair: Callable[..., str] = getattr(self, f"_{finding.mend}")
            try:
                self._done[key] = repair() if finding.trial is None else repair(self.ledger.entry(finding.trial))
            except BadInput as fault:
                self._done[key] = f"could not be mended: {fault}"
        return self._done[key]

    def _remove(self, path: Location) -> str:
        storage.delete(path)
        return "deleted"

    def _damaged(self, path: Location) -> str:
        previous = path.with_name(PREVIOUS)
        if path.name == CHECKPOINT and checkpoint.is_intact(previous):
            storage.move_file(previous, path)
            return "replaced by the one before"
        storage.delete(path)
        return "deleted; training starts over"

    def _stray(self) -> str:
        for stray in self.audit.strays:
            self.tracker.discard(stray.run)
        return _deleted(self.audit.strays)

    def _parent(self) -> str:
        others = [parent for parent in self.audit.parents if parent.run != self.tracker.parent]
        for number, runs in self.audit.runs.items():
            for run in runs:
                if run.tags.get("mlflow.parentRunId") in {other.run for other in others} and len(runs) == 1:
                    self.tracker.adopt(number, run.run)
        for parent in others:
            self.tracker.discard(parent.run)
        files = {name: path.read_text() for name in (RECORD, WARM_START) if (path := self.sweep / name).exists()}
        attached = {name for parent in self.audit.parents if parent.run == self.tracker.parent for name in parent.files}
        if not files.keys() <= attached:
            self.tracker.begin(files, flatten(self.config.model_dump(mode="json")))
        entries = self.ledger.entries()
        finished = ended_by(self.config, entries, self.ledger.seconds) is not None
        results = [trial.number for trial in result_trials(self.config, entries)]
        best = results[0] if results else None
        metrics = self.tracker.metrics(best) if best is not None else {}
        picture = trial_folder(self.home, best) / PICTURE if best is not None else None
        status, front = "FINISHED" if finished else "KILLED", results if self.config.second_objective else []
        self.tracker.end(status, metrics, best, picture, front)
        return f"is {status} now" + (f"; {_deleted(others)}" if others else "")

    def _note(self) -> str:
        """Fetch the note on a warm start, which is a file of the sweep's run too."""
        path = self.sweep / WARM_START
        run = next(parent.run for parent in self.audit.parents if WARM_START in parent.files)
        self.tracker.fetch(run, WARM_START, self.sweep)
        warm_start.read_note(path)
        return "copied from MLflow"

    def _tell(self, trial: TrialRecord) -> str:
        outcome = trial.outcome(self.config.trial.steps)
        assert outcome is not None
        self.ledger.tell(trial.number, outcome)
        return f"closed as {outcome}; {self._run(self.ledger.entry(trial.number))}"

    def _study(self, trial: TrialRecord) -> str:
        """MLflow is ahead: a power cut took the study's last words, which the trial's history still has."""
        (run,) = self.audit.runs[trial.number]
        outcome, last = run.tags[OUTCOME], max(run.steps, default=0)
        reports = {step: report.metrics for step, report in self._reports(trial).items()}
        missing = [step for step in run.steps if step > trial.last_step]
        metric, other = self.config.objective.metric, self.config.second_objective
        if any(reports.get(step, {}).get(metric) != run.values.get(step) for step in missing):
            return ""
        for step in missing:
            second = reports[step][other.metric] if other else None
            stop = outcome == "stopped" and step == last
            missed = self.config.objective.missed(reports[step]) if self.config.objective.require else None
            self.ledger.record(trial.number, step, run.values[step], stop=stop, second=second, missed=missed)
        self.ledger.tell(trial.number, outcome)
        return f"closed in the study as {outcome}"

    def _run(self, trial: TrialRecord) -> str:
        number, runs = trial.number, self.audit.runs[trial.number]
        history = self._reports(trial)
        settings = settings_of(self.config, trial).model_dump(mode="json")
        steps = list(trial.values)
        good = [run for run in runs if is_beginning(self.config, trial, run)]
        keep = max(good, key=lambda run: len(run.steps), default=None)
        missing = [step for step in steps if step > (max(keep.steps, default=0) if keep else 0)]
        if any(step not in history for step in missing):
            return ""  # to keep a run with a fault is better than to lose its reports
        others = [run for run in runs if run is not keep]
        for run in others:
            self.tracker.discard(run.run)
        if keep is not None:
            self.tracker.adopt(number, keep.run)
        self.tracker.open_trial(number, settings, trial.repeats)
        if keep is None and others:
            self.tracker.copy_pictures(others[-1].run, number)
        self.tracker.log(number, [history[step] for step in missing])
        if trial.finished:
            folder, retries = trial_folder(self.home, number), trial.lost + trial.retried
            self.tracker.close_trial(number, trial.state, trial.reason, folder / PICTURE, folder / LOG, retries)
        else:
            self.tracker.interrupt_trial(number)
        did = [f"reports {listed(missing)} copied from the trial's history"] if missing else []
        did += [_deleted(others)] if others else []
        return "; ".join([*did, f"MLflow says {trial.state if trial.finished else 'interrupted'} now"])

    def _attach(self, trial: TrialRecord) -> str:
        self.tracker.attach(trial.number, trial_folder(self.home, trial.number) / PICTURE)
        return "copied from the trial's folder"

    def _fetch(self, trial: TrialRecord) -> str:
        with tempfile.TemporaryDirectory() as folder:
            self.tracker.fetch(self.audit.runs[trial.number][0].run, PICTURE, Path(folder))
            storage.write(trial_folder(self.home, trial.number) / PICTURE, (Path(folder) / PICTURE).read_bytes())
        return "copied from MLflow"

    def _history(self, trial: TrialRecord) -> str:
        """Nothing of a trial that ended is on disk: its reports come back from MLflow."""
        (run,) = self.audit.runs[trial.number]
        if not is_beginning(self.config, trial, run) or len(run.steps) != len(trial.values):
            return ""
        settings = settings_of(self.config, trial).model_dump(mode="json")
        text = json.dumps({"settings": settings, "history": self.tracker.reports(run.run)})
        storage.write(trial_folder(self.home, trial.number) / HISTORY, text.encode())
        return "copied from MLflow"

    def _reports(self, trial: TrialRecord) -> dict[int, Progress]:
        saved, _ = read_history(trial_folder(self.home, trial.number))
        return {row["step"]: Progress.from_history(row) for row in saved.history} if saved else {}

    def _train(self, trial: TrialRecord) -> str:
        """A whole checkpoint is needed: go on from the one before, or from the start."""
        began = time.monotonic()
        threads = max(1, int(self.config.resources.cpus_per_trial))
        assignment = assignment_of(self.config, trial, CLASSIFIERS, threads, acknowledged=0)
        seen: dict[int, float] = {}
        other, second = self.config.second_objective, None
        for message in train(assignment, self.config.places.storage):
            if not isinstance(message, Progress):
                return f"could not be trained again: {message.reason}"
            seen[message.step] = message.metrics[self.config.objective.metric]
            if other is not None:
                second = message.metrics[other.metric]
        (trial_folder(self.home, trial.number) / PREVIOUS).unlink(missing_ok=True)
        same = seen == trial.values and second == trial.second
        numbers = "with the same numbers" if same else "with OTHER numbers than the study has"
        return f"trained again in {time.monotonic() - began:.0f} s, {numbers}"


def _deleted(runs: list[Facts]) -> str:
    return f"deleted {', '.join(run.run for run in runs)} (`mlflow runs restore` brings back)"
