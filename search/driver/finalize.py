"""What follows a sweep that has ended: its best is measured between controls and registered, and a report is written.

The records are whole before this begins. It may be interrupted, fail and be repeated; nothing in it is there twice.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, Final

from rich.console import Console

from gbc import export
from gbc.errors import BadInput
from gbc.export.scorecard import scorecard
from gbc.training import tasks
from search.driver.classifier_audits import audits_of
from search.driver.description import description
from search.driver.summary import Summary
from search.driver.trial_export import write_trial
from search.files.paths import CLASSIFIERS, REPORT, folder_of
from search.policy.ranking import best
from search.policy.verdict import sentence
from search.spec.config import SweepConfig
from search.spec.trial_record import Entry
from search.tracking import registry
from search.tracking.tracker import Tracker
from search.worker.trial import settings_of

EVALUATION: Final = "evaluation.json"
AUDIT: Final = "audit.json"
VERDICT: Final = "verdict.json"
_DASHBOARD: Final = Path(__file__).resolve().parents[2] / "dashboards" / "report.py"

Say = Callable[[str], None]
"""Prints a line."""


def conclude(config: SweepConfig, entries: Sequence[Entry], tracker: Tracker, summary: Summary, console: Console) -> None:
    """Put the verdict on the best trial into MLflow, register its generator and write `report.html` into the sweep's folder.

    What cannot be done is said in a line, and the rest is done.
    """
    say = partial(console.print, highlight=False, markup=False, soft_wrap=True)
    chosen, evaluation = best(config, entries), None
    if chosen is not None and settings_of(config, chosen).generator != "pixels":
        say("measuring and registering the best …")
        evaluation = _judge(config, entries, chosen, tracker, say)
    tracker.add_files(
        {VERDICT: json.dumps({"trial": summary.best_trial, "lines": [sentence(line) for line in summary.verdict]}, indent=2)}
    )
    tracker.describe(description(config, summary, tracker, evaluation))
    say("writing the report …")
    with _noting(say, "there is no report"):
        _report(config.name)


@contextmanager
def _noting(say: Say, what: str) -> Iterator[None]:
    """What fails in here is said, as `what` with its cause, and not raised."""
    try:
        yield
    except (BadInput, OSError) as fault:
        say(f"note: {what}: {fault}")


def _judge(config: SweepConfig, entries: Sequence[Entry], chosen: Entry, tracker: Tracker, say: Say) -> dict[str, Any] | None:
    """Measure the best and register it, and audit its classifiers; its evaluation, None where it cannot be exported."""
    settings, exported, audits = settings_of(config, chosen), None, None
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / f"{config.name}-trial-{chosen.number:04d}"
        with _noting(say, "the best is not exported"):
            exported = write_trial(config, entries, chosen, folder, ["torch"])
        if exported is None:
            return None
        inputs = tasks.obtain(settings, CLASSIFIERS)
        evaluation = {"trial": chosen.number} | scorecard(export.load(folder), inputs.images, inputs.classifiers)
        tracker.add_files({EVALUATION: json.dumps(evaluation, indent=2)})
        with _noting(say, "the best is not registered"):
            version = _register(config, chosen, folder, tracker)
            say(f"registered {version.words()}")
        with _noting(say, "the classifier is not audited"):
            audits = audits_of(settings, inputs)
        if audits:
            tracker.add_files({AUDIT: json.dumps(audits, indent=2)})
    return evaluation


def _register(config: SweepConfig, chosen: Entry, folder: Path, tracker: Tracker) -> registry.Version:
    assert chosen.value is not None
    return registry.register(
        folder, client_uri=tracker.uri, name=registry.model_name(config), run_id=tracker.parent, sweep=config.name,
        trial=chosen.number, objective=config.objective, score=chosen.value, missed=chosen.missed,
    )  # fmt: skip


def _report(name: str) -> None:
    """In a process of its own, which knows nothing of this package.

    Raises:
        BadInput: what it said.
    """
    out = folder_of(name) / REPORT
    done = subprocess.run(
        [sys.executable, str(_DASHBOARD), "--sweep", name, "--out", str(out)], capture_output=True, text=True, check=False
    )
    if done.returncode:
        lines = [line for line in done.stderr.splitlines() if line.strip()]
        raise BadInput((lines[-1] if lines else f"exit code {done.returncode}").removeprefix("error: "))
