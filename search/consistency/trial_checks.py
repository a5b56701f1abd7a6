"""Disagreements of the records on a trial: the study with itself, with its MLflow run, with its files."""

from __future__ import annotations

from collections.abc import Iterator

from records.format import listed
from records.mlflow_store import OUTCOME, REASON
from records.trial import TrialRecord
from search.consistency.comparisons import wrong_params, wrong_second, wrong_settings, wrong_steps, wrong_values
from search.consistency.finding import Finding, SweepAudit
from search.consistency.mlflow_facts import Facts
from search.driver.retention import SavedHistory
from search.files.paths import CHECKPOINT, HISTORY, PICTURE, trial_folder


def trial_findings(audit: SweepAudit, trial: TrialRecord) -> Iterator[Finding]:
    """All of one trial; what looks odd and is in order goes into the notes of `audit`."""
    yield from _of_study(audit, trial)
    yield from _of_run(audit, trial)
    yield from _of_files(audit, trial)


def _of_study(audit: SweepAudit, trial: TrialRecord) -> Iterator[Finding]:
    config, every = audit.config, audit.config.trial.report_every
    number, steps = trial.number, list(trial.values)
    if fault := wrong_steps(steps, every):
        yield Finding(number, f"the study's steps {fault}")
    if not trial.params.keys() <= config.space.keys() or not config.search_space.is_whole(trial.params):
        yield Finding(number, f"the study has settings {listed(trial.params)}, the space {listed(config.space)}")
    if trial.state == "complete" and trial.last_step != config.trial.steps:
        yield Finding(number, f"complete in the study at step {trial.last_step} of {config.trial.steps}")
    if (trial.values or trial.state == "complete") and len(trial.objectives) != len(config.objectives):
        yield Finding(number, f"{trial.state} in the study without a value of each objective")
    if trial.stopped_at is not None and trial.values and trial.stopped_at != trial.last_step and trial.state == "stopped":
        yield Finding(number, f"stopped at step {trial.stopped_at}, but the study's last report is of step {trial.last_step}")
    if not audit.live and not trial.finished and (outcome := trial.outcome(config.trial.steps)):
        yield Finding(number, f"open in the study, and {outcome} by its reports", "tell")


def _of_run(audit: SweepAudit, trial: TrialRecord) -> Iterator[Finding]:
    number, runs = trial.number, audit.runs[trial.number]
    if len(runs) != 1:
        if runs or not audit.live or trial.finished:
            yield Finding(number, f"has {len(runs)} MLflow runs, not 1", "run")
        return
    (run,) = runs
    if wrong := wrong_params(audit.config, trial, run):
        yield Finding(number, f"MLflow's parameters differ: {'; '.join(wrong)}", "run")
    if audit.parents and run.tags.get("mlflow.parentRunId") not in {parent.run for parent in audit.parents}:
        yield Finding(number, "its MLflow run is not below the sweep's", "run")
    if fault := wrong_steps(run.steps, audit.config.trial.report_every):
        yield Finding(number, f"MLflow's steps {fault}", "run")
    last = max(run.steps, default=0)
    if last < trial.last_step and not (audit.live and not trial.finished):
        yield Finding(number, f"MLflow ends at step {last}, the study at {trial.last_step}", "run")
    closed = run.status in ("FINISHED", "FAILED")
    if last > trial.last_step:
        outcome = run.tags.get(OUTCOME)
        closes = closed and not trial.finished and outcome in ("complete", "stopped") and not audit.live
        repair = "study" if closes else "run" if trial.finished else None
        yield Finding(number, f"the study ends at step {trial.last_step}, MLflow at {last}", repair)
    if differ := wrong_values(trial, run.values):
        yield Finding(
            number, f"{audit.config.objective.metric} differs between MLflow and the study at step {listed(differ)}", "run"
        )
    if fault := wrong_second(audit.config, trial, run.second, "MLflow"):
        yield Finding(number, fault, "run")
    yield from _of_state(audit, trial, run)


def _of_state(audit: SweepAudit, trial: TrialRecord, run: Facts) -> Iterator[Finding]:
    number, outcome = trial.number, run.tags.get(OUTCOME)
    if trial.finished:
        status = "FAILED" if trial.state == "failed" else "FINISHED"
        if outcome != trial.state:
            yield Finding(number, f"{trial.state} in the study, {outcome or 'open'} in MLflow", "run")
        elif run.status != status:
            yield Finding(number, f"its MLflow run is {run.status}, not {status}", "run")
        elif trial.state == "failed" and trial.reason and run.tags.get(REASON) != trial.reason[:5000]:
            yield Finding(number, "MLflow and the study give different reasons for its failure", "run")
        picture = trial_folder(audit.home, number) / PICTURE
        if picture.exists() and PICTURE not in run.files:
            yield Finding(number, f"its MLflow run has no {PICTURE}", "attach")
    elif outcome is not None and not audit.live:
        repair = "study" if outcome in ("complete", "stopped") else "run"
        yield Finding(number, f"open in the study, {outcome} in MLflow", repair)
    elif run.status == "RUNNING" and not audit.live:
        yield Finding(number, "its MLflow run is RUNNING, and no driver is", "run")
    if not (picture := trial_folder(audit.home, number) / PICTURE).exists() and trial.values and not audit.live:
        yield Finding(number, f"{picture}: missing", "fetch" if PICTURE in run.files else None)


def _of_files(audit: SweepAudit, trial: TrialRecord) -> Iterator[Finding]:
    number, config, every = trial.number, audit.config, audit.config.trial.report_every
    saved, damaged = audit.files[number]
    results = audit.results
    for path in damaged:
        if path.name == CHECKPOINT and trial.state == "complete":
            yield Finding(number, f"{path}: damaged", "train", path)
        elif path.name == HISTORY:
            yield Finding(number, f"{path}: damaged", "history", path)
        else:
            after = f"; the one before it has step {saved.history[-1]['step']}" if saved and saved.history else ""
            yield Finding(number, f"{path}: damaged{after}", "damaged", path)
    if number in results and not (path := trial_folder(audit.home, number) / CHECKPOINT).exists():
        role = "it is the best trial" if number == results[0] else "it is on the front"
        yield Finding(number, f"{path}: missing, and {role}", "train")
        return
    if saved is None:
        if trial.values and trial.finished and not damaged:
            yield Finding(number, "neither checkpoint nor history on disk", "history")
        elif trial.last_step > every and not trial.finished:
            yield Finding(number, "no checkpoint on disk; the next run trains it again, with the same numbers")
        return
    steps = [row["step"] for row in saved.history]
    if fault := wrong_steps(steps, every):
        yield Finding(number, f"{saved.file}: steps {fault}")
    if differ := wrong_settings(config, trial, saved.settings):
        yield Finding(number, f"{saved.file} was written with other settings: {'; '.join(differ)}")
    values = {row["step"]: row.get(audit.config.objective.metric) for row in saved.history}
    if wrong := wrong_values(trial, values):
        yield Finding(
            number, f"{audit.config.objective.metric} differs between {saved.file} and the study at step {listed(wrong)}"
        )
    if config.second_objective is not None:
        second = {row["step"]: row.get(config.second_objective.metric) for row in saved.history}
        if fault := wrong_second(config, trial, second, saved.file):
            yield Finding(number, fault)
    yield from _distance(audit, trial, saved, max(steps, default=0), bool(damaged))


def _distance(audit: SweepAudit, trial: TrialRecord, saved: SavedHistory, last: int, damaged: bool) -> Iterator[Finding]:
    """Differences between files and study. One report is what a kill at the wrong moment leaves, and mends itself."""
    number, every = trial.number, audit.config.trial.report_every
    if (audit.live and not trial.finished) or last == trial.last_step:
        return
    ends = f"{saved.file} ends at step {last}, the study at {trial.last_step}"
    if last > trial.last_step:
        if last - trial.last_step > every or trial.state == "complete":
            yield Finding(number, ends + ("" if trial.finished else "; the next run reports the rest"))
        else:
            reason = "it ended before the last was reported" if trial.finished else "the next run reports the rest"
            audit.notes.append(f"trial-{number:04d}: {ends}; {reason}")
    elif trial.finished:
        if not damaged:
            yield Finding(number, ends, "train" if saved.file != HISTORY and trial.state == "complete" else "history")
    elif trial.last_step - last > every:
        yield Finding(number, ends + "; the next run trains the rest again, with the same numbers")
    else:
        audit.notes.append(f"trial-{number:04d}: {ends}; the next run trains that again, with the same numbers")
