"""What follows a sweep that has ended: its best is measured between controls and registered, and a report is written.

The records are whole before this begins. It may be interrupted, fail and be repeated; nothing in it is there twice.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

from rich.console import Console

from gbc import datasets, export, tasks
from gbc.audit import audit
from gbc.checkpoint import write_atomic
from gbc.config import TrialConfig
from gbc.errors import BadInput
from gbc.samples import ImageDataset
from gbc.scorecard import scorecard
from gbc.tasks import World
from search import registry
from search.config import SweepConfig
from search.describe import description
from search.entry import Entry
from search.export import write_trial
from search.folder import CLASSIFIERS, REPORT, folder_of
from search.ranking import best
from search.summary import Summary
from search.tracking import Tracker
from search.trial import settings_of

EVALUATION: Final = "evaluation.json"
AUDIT: Final = "audit.json"
_AUDITS: Final = Path("mlruns") / "audits"
_AUDITED: Final = 2  # classifiers of a sweep; each takes about half a minute, once
_DASHBOARD: Final = Path(__file__).resolve().parents[1] / "dashboards" / "report.py"


def conclude(config: SweepConfig, entries: Sequence[Entry], tracker: Tracker, summary: Summary, console: Console) -> None:
    """Put the verdict on the best trial into MLflow, register its generator and write `report.html` into the sweep's folder.

    What cannot be done is said in a line, and the rest is done.
    """

    def attempt(what: str, step: Callable[[], Any]) -> Any:
        try:
            return step()
        except (BadInput, OSError) as fault:
            say(f"note: {what}: {fault}")
            return None

    def say(text: str) -> None:
        console.print(text, highlight=False, markup=False, soft_wrap=True)

    chosen, evaluation = best(config, entries), None
    if chosen is not None and settings_of(config, chosen).generator != "pixels":
        say("measuring and registering the best …")
        settings = settings_of(config, chosen)
        with tempfile.TemporaryDirectory() as scratch:
            folder = Path(scratch) / f"{config.name}-trial-{chosen.number:04d}"
            if attempt("the best is not exported", lambda: write_trial(config, entries, chosen, folder, ["torch"])):
                world = tasks.obtain(settings, CLASSIFIERS)
                evaluation = {"trial": chosen.number} | scorecard(export.load(folder), world.images, world.classifiers)
                tracker.add_files({EVALUATION: json.dumps(evaluation, indent=2)})
                version = attempt("the best is not registered", lambda: _register(config, chosen, folder, tracker))
                if version is not None:
                    say(f"registered {version.words()}")
                if audits := attempt("the classifier is not audited", lambda: _audits(settings, world)):
                    tracker.add_files({AUDIT: json.dumps(audits, indent=2)})
    tracker.describe(description(config, summary, tracker, evaluation))
    say("writing the report …")
    attempt("there is no report", lambda: _report(config.name))


def _register(config: SweepConfig, chosen: Entry, folder: Path, tracker: Tracker) -> registry.Version:
    assert chosen.value is not None
    return registry.register(
        folder, client_uri=tracker.uri, name=registry.model_name(config), run_id=tracker.parent, sweep=config.name,
        trial=chosen.number, objective=config.objective, score=chosen.value,
    )  # fmt: skip


def _audits(settings: TrialConfig, world: World) -> list[dict[str, Any]]:
    """Which conditions each classifier satisfies, the first ones at least; measured once for a classifier."""
    found = []
    for subject, classifier, regime, folder in list(
        zip(settings.subjects(), world.classifiers, world.regimes, world.folders, strict=True)
    )[:_AUDITED]:
        path = _AUDITS / f"{folder.name}.json"
        if not path.exists():
            data = datasets.load_any(subject.dataset)
            assert isinstance(data, ImageDataset)
            seen = audit(
                classifier.module, data, subject.classifier.weight_decay, regime,
                shape=classifier.shape, loss=subject.classifier.loss,
            )  # fmt: skip
            path.parent.mkdir(parents=True, exist_ok=True)
            write_atomic(path, json.dumps({"classifier": folder.name, **seen.to_json()}).encode())
        found.append(json.loads(path.read_text()))
    return found


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
