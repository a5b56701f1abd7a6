"""The share of a trial that its reports take: judging, free scores, picture and checkpoint against the steps between them.

    python tests/benchmarks/report_cost.py [--quick] [--threads N] [--device cpu|cuda] [--json FILE]

A trial of the default preset at batch 128 as a worker runs it (`search.worker.trial.train`), without Ray: the seconds from one
row to the next are the steps, whose time the trainer says itself, and one report. A report must stay within 5% of a trial.
The parts of a report are timed by wrapping the functions below; what they leave is the rest.
"""

from __future__ import annotations

import importlib
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Final
from unittest import mock

if __package__ in (None, ""):
    sys.path[0] = str(Path(__file__).resolve().parents[2])

from gbc.config import TrialConfig
from gbc.training import tasks
from search.worker import trial
from search.worker.messages import Assignment, Progress
from tests.benchmarks.harness import Column, Options, Row, settings_of

NAME: Final = "report_cost"
ABOUT: Final = "share of a trial that its reports take (default preset, batch 128)"
COLUMNS: Final = (
    Column("part", "part"),
    Column("share", "share of the trial", ".2%"),
    Column("of_report", "of a report", ".0%"),
    Column("ms", "ms", ".1f"),
    Column("verdict", "verdict"),
)
PARTS: Final = {
    "judging (real images)": ("gbc.metrics.scores:ScoredSamples.scores", "gbc.metrics.scores:ScoredSamples.__init__"),
    "samples": ("gbc.training.trainer:Trainer.sample",),
    "free scores": ("gbc.training.trainer:data_free_metrics",),
    "share of the KKT conditions": ("gbc.training.trainer:Trainer._gradient_shares",),
    "picture": ("gbc.pictures:pair_grid", "gbc.pictures:png"),
    "checkpoint": ("search.files.storage:save_checkpoint", "gbc.training.trainer:Trainer.state_dict"),
}
"""Functions that are wrapped, by the name of their part."""

_MOST: Final = 0.05
_CLASSIFIER: Final = 200  # steps of its training: its weights change no time


def rows(options: Options) -> Iterator[Row]:
    """The whole report, then its parts, the largest first, then what is left."""
    every = 50 if options.quick else 150
    reports = 3 if options.quick else 8
    changes = {"batch_size": 128, "report_every": every, "steps": reports * every, "classifier.steps": _CLASSIFIER}
    yield from rows_of(settings_of("default", options, **changes), settings_of("default", options).report_every, options)


def rows_of(settings: TrialConfig, usual: int, options: Options) -> Iterator[Row]:
    """The rows of a trial with these settings, in shares of one that reports every `usual` steps."""
    every = settings.report_every
    spent: dict[str, float] = dict.fromkeys(PARTS, 0.0)
    with tempfile.TemporaryDirectory() as folder, ExitStack() as wrapped:
        tasks.obtain(settings, Path(folder, "cache"))
        assignment = Assignment(
            number=0, acknowledged=0, settings=settings.model_dump(mode="json"), folder=str(Path(folder, "trial")),
            cache=str(Path(folder, "cache")), storage=None, threads=options.threads, gpus=0.0, hang_limit=None, note="",
        )  # fmt: skip
        for part, functions in PARTS.items():
            for function in functions:
                _wrap(wrapped, function, part, spent)
        training, reports_seen = trial.train(assignment), []
        first = next(training)  # the first report finds caches empty, and the trainer was made before it
        assert isinstance(first, Progress), first
        spent.update(dict.fromkeys(spent, 0.0))
        began = time.perf_counter()
        for message in training:
            assert isinstance(message, Progress), message
            steps = every / message.metrics["time/steps_per_s"]
            now = time.perf_counter()
            reports_seen.append((steps, now - began - steps, dict(spent)))
            spent.update(dict.fromkeys(spent, 0.0))
            began = now
    shares = [report / (steps * usual / every + report) for steps, report, _ in reports_seen]
    report = statistics.median(report for _, report, _ in reports_seen)
    share = statistics.median(shares)
    verdict = f"{'within' if share <= _MOST else 'ABOVE'} {_MOST:.0%}"
    yield {"part": "a report", "share": share, "of_report": 1.0, "ms": 1e3 * report, "verdict": verdict}
    parts = {part: statistics.median(spent[part] for _, _, spent in reports_seen) for part in PARTS}
    parts = dict(sorted(parts.items(), key=lambda part: -part[1])) | {"the rest": report - sum(parts.values())}
    largest = max(parts, key=lambda part: parts[part])
    for part, seconds in parts.items():
        of_report = seconds / report
        dominant = "largest" if part == largest else ""
        yield {"part": part, "share": share * of_report, "of_report": of_report, "ms": 1e3 * seconds, "verdict": dominant}


def _wrap(stack: ExitStack, function_path: str, part: str, spent: dict[str, float]) -> None:
    """Make calls of the function at `function_path`, module:name, add their seconds to a part from now on."""
    module, _, path = function_path.partition(":")
    *owners, name = path.split(".")
    owner: Any = importlib.import_module(module)
    for step in owners:
        owner = getattr(owner, step)
    function: Callable[..., Any] = getattr(owner, name)

    def timed(*given: Any, **named: Any) -> Any:
        began = time.perf_counter()
        try:
            return function(*given, **named)
        finally:
            spent[part] += time.perf_counter() - began

    stack.enter_context(mock.patch.object(owner, name, timed))


if __name__ == "__main__":
    from tests.benchmarks.run import main

    sys.exit(main(["--only", NAME, *sys.argv[1:]]))
