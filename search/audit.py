"""Where the three records of a sweep disagree.

The study, the MLflow runs and the files of the trials are read in the opposite order of writing, so that a sweep that runs is
not blamed for what it is just writing down.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Final

from gbc.errors import BadInput
from gbc.settings import flatten
from search import storage, warm_start
from search.config import SweepConfig
from search.disk import Saved, leftovers, saved
from search.entry import Entry
from search.facts import Facts, read
from search.folder import CHECKPOINT, HISTORY, PICTURE, WARM_START, home_of, recorded, trial_folder
from search.lock import HOLDER
from search.ranking import results
from search.storage import Place
from search.study import running_driver
from search.summary import ended_by
from search.tables import recorded_trials
from search.tracking import front_text
from search.trial import settings_of

_LONGEST: Final = 6000  # characters of a parameter in MLflow
_SECOND_LOOK: Final = 2.0  # seconds: longer than the driver takes to close a trial in all records


@dataclass(frozen=True)
class Finding:
    """Something that is not as it should be."""

    trial: int | None
    what: str
    mend: str | None = None
    """The repair that helps, by its name in `search.repair.WORDS`."""
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
    config = recorded(sweep)
    live, home = not mine and running_driver(config, sweep) is not None, home_of(config)
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
        yield Finding(number, f"the study has settings {listed(entry.params)}, the space {listed(config.space)}")
    if entry.state == "complete" and entry.last_step != config.trial.steps:
        yield Finding(number, f"complete in the study at step {entry.last_step} of {config.trial.steps}")
    if (entry.values or entry.state == "complete") and len(entry.objectives) != len(config.objectives):
        yield Finding(number, f"{entry.state} in the study without a value of each objective")
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
            number, f"{audit.config.objective.metric} differs between MLflow and the study at step {listed(differ)}", "run"
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
            number, f"{audit.config.objective.metric} differs between {found.file} and the study at step {listed(wrong)}"
        )
    if config.second_objective is not None:
        second = {row["step"]: row.get(config.second_objective.metric) for row in found.history}
        if fault := _second_differs(config, entry, second, found.file):
            yield Finding(number, fault)
    yield from _distance(audit, entry, found, max(steps, default=0), bool(damaged))


def _second_differs(config: SweepConfig, entry: Entry, told: Mapping[int, float | None], record: str) -> str | None:
    """How the study's second objective differs from that of another record; None when it does not.

    The study keeps the last value alone, and writes it together with its report. Nothing can be said where the other record
    ends before that report, as MLflow may by some and a checkpoint by one.
    """
    if config.second_objective is None or entry.second is None or entry.last_step not in told:
        return None
    if entry.second == told[entry.last_step]:
        return None
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


def is_beginning(config: SweepConfig, entry: Entry, one: Facts) -> bool:
    """Whether only later reports are missing in an MLflow run of a trial, and nothing in it is wrong."""
    steps = list(entry.values)
    return (
        one.steps == steps[: len(one.steps)]
        and all(one.values.get(step) == entry.values[step] for step in one.steps)
        and not _second_differs(config, entry, one.second, "MLflow")
        and not _wrong_params(config, entry, one)
    )


def _gap(steps: list[int], every: int) -> str | None:
    """What is wrong with the steps of a trial's reports: they must be the multiples of `every`."""
    expected = [every * (index + 1) for index in range(len(steps))]
    if steps == expected:
        return None
    if len(set(steps)) < len(steps):
        return f"repeat: {listed(sorted({step for step in steps if steps.count(step) > 1}))}"
    missing = sorted(set(range(every, max(steps) + 1, every)) - set(steps))
    return f"have a gap: {listed(missing)}" if missing else f"are out of order or no multiples of {every}"


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


def listed(values: Iterable[object]) -> str:
    """Steps or names, for people: of many the first three and the last."""
    shown = [str(value) for value in values]
    return ", ".join(shown) if len(shown) <= 6 else f"{', '.join(shown[:3])}, … {shown[-1]}"
