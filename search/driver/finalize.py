"""Conclusion of a sweep that has ended: its best is measured between controls and registered, and a report is written.

The records are whole before this begins. It may be interrupted, fail and be repeated; nothing in it is there twice.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, Final

from rich.console import Console

from gbc import export
from gbc.errors import BadInput
from gbc.export.scorecard import scorecard
from gbc.training import tasks
from records.repetitions import Repeated
from records.trial import TrialRecord
from search.driver.classifier_audits import audits_of
from search.driver.description import description
from search.driver.live_report import await_report, begin_report
from search.driver.summary import Summary
from search.driver.trial_export import write_trial
from search.files.paths import CLASSIFIERS
from search.policy.finalists import finalist_results
from search.policy.ranking import best_trial
from search.policy.verdict import sentence
from search.spec.config import SweepConfig
from search.tracking import registry
from search.tracking.tracker import Tracker
from search.worker.trial import settings_of

EVALUATION: Final = "evaluation.json"
AUDIT: Final = "audit.json"
VERDICT: Final = "verdict.json"

Print = Callable[[str], None]
"""Prints a line."""


def conclude(config: SweepConfig, trials: Sequence[TrialRecord], tracker: Tracker, summary: Summary, console: Console) -> None:
    """Put the verdict on the best trial into MLflow, register its generator and write `report.html` into the sweep's folder.

    What cannot be done is said in a line, and the rest is done.
    """
    say = partial(console.print, highlight=False, markup=False, soft_wrap=True)
    chosen, evaluation = best_trial(config, trials), None
    if chosen is not None and settings_of(config, chosen).generator != "pixels":
        say("measuring and registering the best …")
        evaluation = _evaluate_best(config, trials, chosen, tracker, say)
    tracker.add_files(
        {VERDICT: json.dumps({"trial": summary.best_trial, "lines": [sentence(line) for line in summary.verdict]}, indent=2)}
    )
    tracker.describe(description(config, summary, tracker, evaluation))
    say("writing the report …")
    with _noting_failures(say, "there is no report"):
        if fault := await_report(begin_report(config.name)):
            raise BadInput(fault)


@contextmanager
def _noting_failures(say: Print, subject: str) -> Iterator[None]:
    """Print what fails in this context, as `subject` with its cause, instead of raising it."""
    try:
        yield
    except (BadInput, OSError) as fault:
        say(f"note: {subject}: {fault}")


def _evaluate_best(
    config: SweepConfig, trials: Sequence[TrialRecord], chosen: TrialRecord, tracker: Tracker, say: Print
) -> dict[str, Any] | None:
    """Measure the best and register it, and audit its classifiers; its evaluation, None without an export or images."""
    settings, exported, audits = settings_of(config, chosen), None, None
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / f"{config.name}-trial-{chosen.number:04d}"
        with _noting_failures(say, "the best is not exported"):
            exported = write_trial(config, trials, chosen, folder, ["torch"])
        if exported is None:
            return None
        inputs, evaluation = tasks.obtain(settings, CLASSIFIERS), None
        if not settings.data_free:
            evaluation = {"trial": chosen.number} | scorecard(export.load(folder), inputs.images, inputs.classifiers)
            tracker.add_files({EVALUATION: json.dumps(evaluation, indent=2)})
        with _noting_failures(say, "the best is not registered"):
            repeated = {result.trial: result for result in finalist_results(config, trials)}
            version = _register_best(config, chosen, folder, tracker, repeated)
            say(f"registered {version.describe()}")
        with _noting_failures(say, "the classifier is not audited"):
            audits = audits_of(settings, inputs)
        if audits:
            tracker.add_files({AUDIT: json.dumps(audits, indent=2)})
    return evaluation


def _register_best(
    config: SweepConfig, chosen: TrialRecord, folder: Path, tracker: Tracker, repeated: Mapping[int, Repeated]
) -> registry.Version:
    assert chosen.value is not None
    return registry.register(
        folder, client_uri=tracker.uri, name=registry.model_name(config), run_id=tracker.parent, sweep=config.name,
        trial=chosen.number, objective=config.objective, score=chosen.value, missed=chosen.missed, repeated=repeated,
    )  # fmt: skip
