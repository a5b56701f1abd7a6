"""Do the three records of a sweep agree? `python search/run.py --check NAME`, and `--repair` to mend what can be mended.

The study, the MLflow runs and the files of the trials are read in the opposite order of writing, so that a sweep that runs is
not blamed for what it is just writing down. Every repair goes from a record that is whole to one that is not: the study
says what was asked, reported and decided, and a checkpoint or the history that stays of it holds every metric.
"""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Final

from gbc import checkpoint
from gbc.errors import BadInput
from gbc.settings import flatten
from search import folder as places
from search import storage, warm_start
from search.config import SweepConfig
from search.disk import Saved, leftovers, saved
from search.entry import Entry
from search.facts import Facts, read
from search.folder import CHECKPOINT, CLASSIFIERS, HISTORY, LOG, PICTURE, PREVIOUS, WARM_START, trial_folder
from search.ledger import Ledger
from search.lock import HOLDER
from search.ranking import results
from search.storage import Place
from search.study import one_driver, running_driver
from search.summary import ended_by
from search.tables import recorded_trials
from search.tracking import Report, Tracker, front_text
from search.trial import Row, assignment_of, rows, settings_of

_LONGEST: Final = 6000  # characters of a parameter in MLflow
_SECOND_LOOK: Final = 2.0  # seconds: longer than the driver takes to close a trial in all records


@dataclass(frozen=True)
class Finding:
    """Something that is not as it should be."""

    trial: int | None
    what: str
    mend: str | None = None
    """The repair that helps: a method of `_Mender`."""
    file: Place | None = None

    def words(self) -> str:
        """One line."""
        return (f"trial-{self.trial:04d}: " if self.trial is not None else "") + self.what


@dataclass
class Audit:
    """What a look at all records found."""

    config: SweepConfig
    sweep: Path
    home: Place
    """Where its trials keep their files."""
    live: bool
    """Whether a driver holds the sweep."""
    entries: list[Entry]
    seconds: float
    parents: list[Facts]
    runs: dict[int, list[Facts]]
    strays: list[Facts]
    """Runs of trials that the study does not know."""
    files: dict[int, tuple[Saved | None, list[Place]]]
    findings: list[Finding] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    """What looks odd and is in order."""

    @cached_property
    def results(self) -> list[int]:
        """The best trial; with two objectives the front, the best first."""
        return [entry.number for entry in results(self.config, self.entries)]

    @property
    def finished(self) -> bool:
        """Whether a budget is used up and no trial is open."""
        return ended_by(self.config, self.entries, self.seconds) is not None


def run(name: str, *, repair: bool, as_json: bool) -> int:
    """Audit a sweep, mend it if asked, and print what was found. Returns 0 when all records agree, else 1.

    Raises:
        BadInput: an unknown sweep, records that cannot be read, or a repair while a driver holds the sweep.
    """
    sweep, done = places.existing(name), list[str]()
    found = audit(sweep)
    if repair and found.live:
        with one_driver(found.config, sweep):  # says who it is
            pass
    if repair and found.findings:
        with one_driver(found.config, sweep):
            # A dead driver's note was replaced by ours just now, which goes with the lock.
            done = [f"{one.words()}: deleted" for one in found.findings if one.file == sweep / HOLDER]
            done += mend(audit(sweep, mine=True))
        found = audit(sweep)
    if as_json:
        print(json.dumps(_as_data(found, done), indent=2))
    else:
        for line in done:
            print(f"repaired  {line}")
        for finding in found.findings:
            print(f"disagree  {finding.words()}" + (f" ({_Mender.WORDS[finding.mend]})" if finding.mend and not repair else ""))
        for note in found.notes:
            print(f"note      {note}")
        reports = sum(len(entry.values) for entry in found.entries)
        verdict = (
            f"{len(found.findings)} disagreement{'s' * (len(found.findings) != 1)}" if found.findings else "all records agree"
        )
        print(f"sweep {name}: {len(found.entries)} trials, {reports} reports: {verdict}")
        if any(finding.mend for finding in found.findings) and not repair:
            print(f"  mend  python search/run.py --check {name} --repair")
    return 1 if found.findings else 0


def audit(sweep: Path, *, mine: bool = False) -> Audit:
    """Compare the records of the sweep in this folder. `mine`: the driver's lock is held by this process.

    Raises:
        BadInput: a record cannot be read at all.
    """
    found = _audit(sweep, mine)
    if found.live and found.findings:
        # A trial may have been closed in one record and not yet in the next.
        time.sleep(_SECOND_LOOK)
        again = _audit(sweep, mine)
        again.findings = [finding for finding in again.findings if finding in found.findings]
        return again
    return found


def _audit(sweep: Path, mine: bool) -> Audit:
    config = places.recorded(sweep)
    live, home = not mine and running_driver(config, sweep) is not None, places.home_of(config)
    parents, trials = read(config)
    entries, seconds = recorded_trials(config, sweep)
    numbers = {entry.number for entry in entries}
    by_number: dict[int, list[Facts]] = {entry.number: [] for entry in entries}
    for one in trials:
        if one.number in numbers:
            by_number[one.number].append(one)
    files = {entry.number: saved(trial_folder(home, entry.number)) for entry in entries}
    # One that a running driver has just asked for is not in our copy of the study.
    strays = [] if live else [one for one in trials if one.number not in numbers]
    found = Audit(config, sweep, home, live, entries, seconds, parents, by_number, strays, files)
    if not live:
        found.findings += _sweep_findings(found, mine)
    if config.warm_start is not None:
        found.findings += _warm_start_findings(found)
    for entry in entries:
        found.findings += _study_findings(found, entry)
        found.findings += _run_findings(found, entry)
        found.findings += _file_findings(found, entry)
    return found


def _sweep_findings(audit: Audit, mine: bool) -> Iterator[Finding]:
    if [entry.number for entry in audit.entries] != list(range(len(audit.entries))):
        yield Finding(None, "the study's trials are not numbered from 0 without a gap")
    for path in leftovers(audit.sweep, audit.config):
        yield Finding(None, f"{path}: left by a process that is no more", "remove", path)
    if (audit.sweep / HOLDER).exists() and not mine:
        yield Finding(None, f"{audit.sweep / HOLDER}: left by a driver that is no more", "remove", audit.sweep / HOLDER)
    numbers = {entry.number for entry in audit.entries}
    for folder in storage.folders(audit.home / "trials"):
        if folder.name.isdigit() and int(folder.name) not in numbers:
            yield Finding(None, f"{folder}: the study knows no such trial", "remove", folder)
    for one in audit.strays:
        yield Finding(
            None, f"MLflow run {one.run} is of trial {one.tags.get('sweep.trial')}, which the study does not know", "stray"
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
    told, best = parent.tags.get("sweep.best_trial"), str(audit.results[0])
    if told != best:
        yield Finding(None, f"MLflow names trial {told} as the best, the study {best}", "parent")
    told, front = parent.tags.get("sweep.front"), front_text(audit.results)
    if audit.config.second_objective is not None and told != front:
        yield Finding(None, f"MLflow names trials {told} as the front, the study {front}", "parent")


def _warm_start_findings(audit: Audit) -> Iterator[Finding]:
    """Without its note a warm sweep would start from what the other sweep has become since."""
    path = audit.sweep / WARM_START
    attached = [one for one in audit.parents if WARM_START in one.files]
    try:
        prior = warm_start.noted(path)
    except BadInput:
        state = "damaged" if path.exists() else "missing"
        yield Finding(None, f"{path}: {state}", "note" if attached and not audit.live else None)
        return
    if len(audit.parents) == 1 and not attached and not audit.live:
        yield Finding(None, f"the sweep's MLflow run has no {WARM_START}", "parent")
    for entry in audit.entries:
        known = prior.first[entry.number] if entry.number < len(prior.first) else None
        if entry.origin != (known.origin if known else None):
            told = known.origin if known else "no other"
            yield Finding(entry.number, f"took settings of {entry.origin or 'no other'} by the study, {told} by {WARM_START}")
        elif known and any(entry.params.get(key) != value for key, value in known.params.items()):
            yield Finding(entry.number, f"its settings are not those of {known.origin} in {WARM_START}")


def _study_findings(audit: Audit, entry: Entry) -> Iterator[Finding]:
    config, every = audit.config, audit.config.trial.report_every
    number, steps = entry.number, list(entry.values)
    if fault := _gap(steps, every):
        yield Finding(number, f"the study's steps {fault}")
    if set(entry.params) != set(config.space):
        yield Finding(number, f"the study has settings {_list(entry.params)}, the space {_list(config.space)}")
    if entry.state == "complete" and entry.last_step != config.trial.steps:
        yield Finding(number, f"complete in the study at step {entry.last_step} of {config.trial.steps}")
    if entry.state == "complete" and len(entry.objectives) != len(config.objectives):
        yield Finding(number, "complete in the study without a value of each objective")
    if entry.stopped_at is not None and entry.values and entry.stopped_at != entry.last_step and entry.state == "stopped":
        yield Finding(number, f"stopped at step {entry.stopped_at}, but the study's last report is of step {entry.last_step}")
    if not audit.live and not entry.finished and (outcome := entry.outcome(config.trial.steps)):
        yield Finding(number, f"open in the study, and {outcome} by its reports", "tell")


def _run_findings(audit: Audit, entry: Entry) -> Iterator[Finding]:
    number, runs = entry.number, audit.runs[entry.number]
    if len(runs) != 1:
        if runs or not audit.live or entry.finished:
            yield Finding(number, f"has {len(runs)} MLflow runs, not 1", "run")
        return
    (one,) = runs
    wrong = _wrong_params(audit.config, entry, one)
    if wrong:
        yield Finding(number, f"MLflow's parameters differ: {'; '.join(wrong)}", "run")
    if audit.parents and one.tags.get("mlflow.parentRunId") not in {parent.run for parent in audit.parents}:
        yield Finding(number, "its MLflow run is not below the sweep's", "run")
    if fault := _gap(one.steps, audit.config.trial.report_every):
        yield Finding(number, f"MLflow's steps {fault}", "run")
    last = max(one.steps, default=0)
    if last < entry.last_step and not (audit.live and not entry.finished):
        yield Finding(number, f"MLflow ends at step {last}, the study at {entry.last_step}", "run")
    closed = one.status in ("FINISHED", "FAILED")
    if last > entry.last_step:
        told = one.tags.get("sweep.outcome")
        closes = closed and not entry.finished and told in ("complete", "stopped") and not audit.live
        mend = "study" if closes else "run" if entry.finished else None
        yield Finding(number, f"the study ends at step {entry.last_step}, MLflow at {last}", mend)
    differ = [step for step, value in entry.values.items() if step in one.values and one.values[step] != value]
    if differ:
        yield Finding(
            number, f"{audit.config.objective.metric} differs between MLflow and the study at step {_list(differ)}", "run"
        )
    if fault := _second_differs(audit.config, entry, one.second, "MLflow"):
        yield Finding(number, fault, "run")
    yield from _state_findings(audit, entry, one)


def _state_findings(audit: Audit, entry: Entry, one: Facts) -> Iterator[Finding]:
    number, told = entry.number, one.tags.get("sweep.outcome")
    if entry.finished:
        status = "FAILED" if entry.state == "failed" else "FINISHED"
        if told != entry.state:
            yield Finding(number, f"{entry.state} in the study, {told or 'open'} in MLflow", "run")
        elif one.status != status:
            yield Finding(number, f"its MLflow run is {one.status}, not {status}", "run")
        elif entry.state == "failed" and entry.reason and one.tags.get("sweep.reason") != entry.reason[:5000]:
            yield Finding(number, "MLflow and the study give different reasons for its failure", "run")
        picture = trial_folder(audit.home, number) / PICTURE
        if picture.exists() and PICTURE not in one.files:
            yield Finding(number, f"its MLflow run has no {PICTURE}", "attach")
    elif told is not None and not audit.live:
        mend = "study" if told in ("complete", "stopped") else "run"
        yield Finding(number, f"open in the study, {told} in MLflow", mend)
    elif one.status == "RUNNING" and not audit.live:
        yield Finding(number, "its MLflow run is RUNNING, and no driver is", "run")
    if not (picture := trial_folder(audit.home, number) / PICTURE).exists() and entry.values and not audit.live:
        yield Finding(number, f"{picture}: missing", "fetch" if PICTURE in one.files else None)


def _file_findings(audit: Audit, entry: Entry) -> Iterator[Finding]:
    number, config, every = entry.number, audit.config, audit.config.trial.report_every
    found, damaged = audit.files[number]
    results = audit.results
    for path in damaged:
        if path.name == CHECKPOINT and entry.state == "complete":
            yield Finding(number, f"{path}: damaged", "train", path)
        elif path.name == HISTORY:
            yield Finding(number, f"{path}: damaged", "history", path)
        else:
            after = f"; the one before it has step {found.history[-1]['step']}" if found and found.history else ""
            yield Finding(number, f"{path}: damaged{after}", "damaged", path)
    if number in results and not (path := trial_folder(audit.home, number) / CHECKPOINT).exists():
        what = "it is the best trial" if number == results[0] else "it is on the front"
        yield Finding(number, f"{path}: missing, and {what}", "train")
        return
    if found is None:
        if entry.values and entry.finished and not damaged:
            yield Finding(number, "neither checkpoint nor history on disk", "history")
        elif entry.last_step > every and not entry.finished:
            yield Finding(number, "no checkpoint on disk; the next run trains it again, with the same numbers")
        return
    steps = [row["step"] for row in found.history]
    if fault := _gap(steps, every):
        yield Finding(number, f"{found.file}: steps {fault}")
    differ = _differences(found.settings, settings_of(audit.config, entry).model_dump(mode="json"))
    if differ:
        yield Finding(number, f"{found.file} was written with other settings: {'; '.join(differ)}")
    values = {row["step"]: row.get(audit.config.objective.metric) for row in found.history}
    wrong = [step for step, value in entry.values.items() if step in values and values[step] != value]
    if wrong:
        yield Finding(
            number, f"{audit.config.objective.metric} differs between {found.file} and the study at step {_list(wrong)}"
        )
    if config.second_objective is not None:
        second = {row["step"]: row.get(config.second_objective.metric) for row in found.history}
        if fault := _second_differs(config, entry, second, found.file):
            yield Finding(number, fault)
    yield from _distance(audit, entry, found, max(steps, default=0), bool(damaged))


def _second_differs(config: SweepConfig, entry: Entry, told: Mapping[int, float | None], record: str) -> str | None:
    """How the study's second objective differs from that of another record; None when it does not, or there is none.

    It is written before the report that it is of: a driver that died in between left it a report ahead. What counts is that
    of a full trial, which was told with both.
    """
    if config.second_objective is None or entry.second is None or entry.last_step not in told:
        return None
    steps = [entry.last_step] if entry.state == "complete" else [entry.last_step, entry.last_step + config.trial.report_every]
    if any(entry.second == told[step] for step in steps if step in told):
        return None
    if len(steps) == 2 and steps[1] not in told:
        return None  # perhaps that of a report which no other record has
    return f"{config.second_objective.metric} differs between {record} and the study at step {entry.last_step}"


def _distance(audit: Audit, entry: Entry, found: Saved, last: int, damaged: bool) -> Iterator[Finding]:
    """How far files and study are apart. One report is what a kill at the wrong moment leaves, and mends itself."""
    number, every = entry.number, audit.config.trial.report_every
    if (audit.live and not entry.finished) or last == entry.last_step:
        return
    where = f"{found.file} ends at step {last}, the study at {entry.last_step}"
    if last > entry.last_step:
        if last - entry.last_step > every or entry.state == "complete":
            yield Finding(number, where + ("" if entry.finished else "; the next run reports the rest"))
        else:
            why = "it ended before the last was reported" if entry.finished else "the next run reports the rest"
            audit.notes.append(f"trial-{number:04d}: {where}; {why}")
    elif entry.finished:
        if not damaged:
            yield Finding(number, where, "train" if found.file != HISTORY and entry.state == "complete" else "history")
    elif entry.last_step - last > every:
        yield Finding(number, where + "; the next run trains the rest again, with the same numbers")
    else:
        audit.notes.append(f"trial-{number:04d}: {where}; the next run trains that again, with the same numbers")


def mend(audit: Audit) -> list[str]:
    """Mend what can be mended, and say what was done. The caller holds the driver's lock."""
    findings = [finding for finding in audit.findings if finding.mend]
    if any(finding.mend in ("tell", "study") for finding in findings):
        findings.append(Finding(None, "the sweep's MLflow run", "parent"))  # it may have been the last open trial
    mender = _Mender(audit)
    try:
        # The sweep's own run last: it says which trial is the best, and whether all have ended.
        findings.sort(key=lambda finding: finding.mend == "parent")
        return [f"{finding.words()}: {done}" for finding in findings if (done := mender.mend(finding))]
    finally:
        mender.ledger.close()


class _Mender:
    WORDS: Final = {
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

    def __init__(self, audit: Audit) -> None:
        self.audit, self.config, self.sweep, self.home = audit, audit.config, audit.sweep, audit.home
        self.ledger = Ledger(audit.config, audit.sweep)
        self.tracker = Tracker(audit.config, {})
        self._done: dict[tuple[str, int | None], str] = {}

    def mend(self, finding: Finding) -> str:
        """What was done; empty when nothing could be."""
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

    def _remove(self, path: Place) -> str:
        storage.remove(path)
        return "deleted"

    def _damaged(self, path: Place) -> str:
        previous = path.with_name(PREVIOUS)
        if path.name == CHECKPOINT and checkpoint.verified(previous):
            storage.move(previous, path)
            return "replaced by the one before"
        storage.remove(path)
        return "deleted; training starts over"

    def _stray(self) -> str:
        for one in self.audit.strays:
            self.tracker.discard(one.run)
        return _deleted(self.audit.strays)

    def _parent(self) -> str:
        others = [one for one in self.audit.parents if one.run != self.tracker.parent]
        for number, runs in self.audit.runs.items():
            for one in runs:
                if one.tags.get("mlflow.parentRunId") in {other.run for other in others} and len(runs) == 1:
                    self.tracker.adopt(number, one.run)
        for one in others:
            self.tracker.discard(one.run)
        files = {name: path.read_text() for name in (places.RECORD, WARM_START) if (path := self.sweep / name).exists()}
        attached = {name for one in self.audit.parents if one.run == self.tracker.parent for name in one.files}
        if not files.keys() <= attached:
            self.tracker.begin(files, flatten(self.config.model_dump(mode="json")))
        entries = self.ledger.entries()
        finished = ended_by(self.config, entries, self.ledger.seconds) is not None
        found = [entry.number for entry in results(self.config, entries)]
        best = found[0] if found else None
        metrics = self.tracker.metrics(best) if best is not None else {}
        picture = trial_folder(self.home, best) / PICTURE if best is not None else None
        status, front = "FINISHED" if finished else "KILLED", found if self.config.second_objective else []
        self.tracker.end(status, metrics, best, picture, front)
        return f"is {status} now" + (f"; {_deleted(others)}" if others else "")

    def _note(self) -> str:
        """What a warm start took is a file of the sweep's run, too."""
        path = self.sweep / WARM_START
        run = next(one.run for one in self.audit.parents if WARM_START in one.files)
        self.tracker.fetch(run, WARM_START, self.sweep)
        warm_start.noted(path)
        return "copied from MLflow"

    def _tell(self, entry: Entry) -> str:
        outcome = entry.outcome(self.config.trial.steps)
        assert outcome is not None
        self.ledger.tell(entry.number, outcome)
        return f"closed as {outcome}; {self._run(self.ledger.entry(entry.number))}"

    def _study(self, entry: Entry) -> str:
        """MLflow is ahead: a power cut took the study's last words, which the trial's history still has."""
        (one,) = self.audit.runs[entry.number]
        outcome, last = one.tags["sweep.outcome"], max(one.steps, default=0)
        found = self._reports(entry)
        missing = [step for step in one.steps if step > entry.last_step]
        metric, other = self.config.objective.metric, self.config.second_objective
        if any(found.get(step, {}).get(metric) != one.values.get(step) for step in missing):
            return ""
        for step in missing:
            second = found[step][other.metric] if other else None
            stop = outcome == "stopped" and step == last
            self.ledger.record(entry.number, step, one.values[step], stop=stop, second=second)
        self.ledger.tell(entry.number, outcome)
        return f"closed in the study as {outcome}"

    def _run(self, entry: Entry) -> str:
        number, runs = entry.number, self.audit.runs[entry.number]
        history = self._reports(entry)
        settings = settings_of(self.config, entry).model_dump(mode="json")
        steps = list(entry.values)
        good = [one for one in runs if self._is_beginning(one, entry)]
        keep = max(good, key=lambda one: len(one.steps), default=None)
        missing = [step for step in steps if step > (max(keep.steps, default=0) if keep else 0)]
        if any(step not in history for step in missing):
            return ""  # to keep a run with a fault is better than to lose its reports
        others = [one for one in runs if one is not keep]
        for one in others:
            self.tracker.discard(one.run)
        if keep is not None:
            self.tracker.adopt(number, keep.run)
        self.tracker.open_trial(number, settings)
        if keep is None and others:
            self.tracker.copy_pictures(others[-1].run, number)
        self.tracker.log(number, [Report.of(history[step]) for step in missing])
        if entry.finished:
            folder, retries = trial_folder(self.home, number), entry.lost + entry.retried
            self.tracker.close_trial(number, entry.state, entry.reason, folder / PICTURE, folder / LOG, retries)
        else:
            self.tracker.interrupt_trial(number)
        did = [f"reports {_list(missing)} copied from the trial's history"] if missing else []
        did += [_deleted(others)] if others else []
        return "; ".join([*did, f"MLflow says {entry.state if entry.finished else 'interrupted'} now"])

    def _is_beginning(self, one: Facts, entry: Entry) -> bool:
        """Whether only later reports are missing in a run, and nothing in it is wrong."""
        steps = list(entry.values)
        return (
            one.steps == steps[: len(one.steps)]
            and all(one.values.get(step) == entry.values[step] for step in one.steps)
            and not _second_differs(self.config, entry, one.second, "MLflow")
            and not _wrong_params(self.config, entry, one)
        )

    def _attach(self, entry: Entry) -> str:
        self.tracker.attach(entry.number, trial_folder(self.home, entry.number) / PICTURE)
        return "copied from the trial's folder"

    def _fetch(self, entry: Entry) -> str:
        with tempfile.TemporaryDirectory() as folder:
            self.tracker.fetch(self.audit.runs[entry.number][0].run, PICTURE, Path(folder))
            storage.write(trial_folder(self.home, entry.number) / PICTURE, (Path(folder) / PICTURE).read_bytes())
        return "copied from MLflow"

    def _history(self, entry: Entry) -> str:
        """Nothing of a trial that ended is on disk: its reports come back from MLflow."""
        (one,) = self.audit.runs[entry.number]
        if not self._is_beginning(one, entry) or len(one.steps) != len(entry.values):
            return ""
        settings = settings_of(self.config, entry).model_dump(mode="json")
        text = json.dumps({"settings": settings, "history": self.tracker.reports(one.run)})
        storage.write(trial_folder(self.home, entry.number) / HISTORY, text.encode())
        return "copied from MLflow"

    def _reports(self, entry: Entry) -> dict[int, Row]:
        found, _ = saved(trial_folder(self.home, entry.number))
        return {row["step"]: row for row in found.history} if found else {}

    def _train(self, entry: Entry) -> str:
        """A whole checkpoint is needed: go on from the one before, or from the start."""
        began = time.monotonic()
        threads = max(1, int(self.config.resources.cpus_per_trial))
        assignment = assignment_of(self.config, entry, CLASSIFIERS, threads)
        assignment["acknowledged"] = 0
        seen: dict[int, Any] = {}
        other, second = self.config.second_objective, None
        for row in rows(assignment, self.config.places.storage):
            if "error" in row:
                return f"could not be trained again: {row['error']}"
            seen[row["step"]] = row.get(self.config.objective.metric)
            if other is not None:
                second = row.get(other.metric)
        (trial_folder(self.home, entry.number) / PREVIOUS).unlink(missing_ok=True)
        same = seen == entry.values and second == entry.second
        numbers = "with the same numbers" if same else "with OTHER numbers than the study has"
        return f"trained again in {time.monotonic() - began:.0f} s, {numbers}"


def _gap(steps: list[int], every: int) -> str | None:
    """What is wrong with the steps of a trial's reports: they must be the multiples of `every`."""
    expected = [every * (index + 1) for index in range(len(steps))]
    if steps == expected:
        return None
    if len(set(steps)) < len(steps):
        return f"repeat: {_list(sorted({step for step in steps if steps.count(step) > 1}))}"
    missing = sorted(set(range(every, max(steps) + 1, every)) - set(steps))
    return f"have a gap: {_list(missing)}" if missing else f"are out of order or no multiples of {every}"


def _wrong_params(config: SweepConfig, entry: Entry, one: Facts) -> list[str]:
    wanted = flatten(settings_of(config, entry).model_dump(mode="json"))
    missing = [f"{key} is missing" for key in entry.params if key not in one.params]
    # A setting that is younger than the run is not in it; the device may change when a sweep goes on.
    return missing + [
        f"{key} is {one.params[key]}, not {value}"
        for key, value in wanted.items()
        if key in one.params and key != "device" and one.params[key] != str(value)[:_LONGEST]
    ]


def _differences(mine: dict[str, Any], wanted: dict[str, Any]) -> list[str]:
    mine, wanted = flatten(mine), flatten(wanted)
    return [
        f"{key} {mine[key]}, not {value}"
        for key, value in wanted.items()
        if key in mine and key != "device" and mine[key] != value
    ]


def _list(values: Any) -> str:
    shown = [str(value) for value in values]
    return ", ".join(shown) if len(shown) <= 6 else f"{', '.join(shown[:3])}, … {shown[-1]}"


def _deleted(runs: list[Facts]) -> str:
    return f"deleted {', '.join(one.run for one in runs)} (`mlflow runs restore` brings back)"


def _as_data(found: Audit, done: list[str]) -> dict[str, Any]:
    return {
        "name": found.config.name,
        "agree": not found.findings,
        "running": found.live,
        "trials": len(found.entries),
        "findings": [{"trial": one.trial, "what": one.what, "can_be_mended": one.mend is not None} for one in found.findings],
        "notes": found.notes,
        "repaired": done,
    }
