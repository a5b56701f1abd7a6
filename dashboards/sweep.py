"""A sweep as a report needs it: study and MLflow joined by trial number, ranked, with its evaluation."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import pandas as pd

from dashboards.errors import ReportError
from dashboards.evaluation import RecordedEvaluation
from dashboards.mlflow_runs import RecordedRun, SweepRuns
from dashboards.settings import RecordedObjective, SweepSettings, read_settings
from records.repetitions import Repeated, repeated
from records.trial import STATES, TrialRecord


@dataclass(frozen=True)
class Trial(TrialRecord):
    """One trial, from both records."""

    run: RecordedRun = field(default_factory=RecordedRun)
    """Its MLflow run."""

    @property
    def value(self) -> float | None:
        """The first objective at the last step; None where it has none, or one that is not finite."""
        return _finite(self.values.get(self.last_step))

    def curve(self, metric: str) -> pd.Series:
        """A metric by optimiser step, in order; empty where it was not logged."""
        points = self.run.curves.get(metric, {})
        return pd.Series({step: points[step] for step in sorted(points)}, dtype=float)

    def score(self, metric: str) -> float | None:
        """The last value of a metric; None where it was not logged or is not finite."""
        return _finite(self.run.last.get(metric))


@dataclass(frozen=True)
class Sweep:
    """Everything a report shows of one sweep."""

    settings: SweepSettings
    trials: list[Trial]
    """By number; without repetitions."""
    seconds: float
    """Wall time, all runs of the sweep together."""
    runs: SweepRuns
    evaluation: RecordedEvaluation | None = None
    audits: list[dict[str, Any]] = field(default_factory=list)
    """The audit of each classifier."""
    regimes: dict[str, Any] = field(default_factory=dict)
    """The progress of each classifier's training, and its class names, by its name."""
    verdict: Any = None
    """`verdict.json`: the number of the best `trial`, and the verdict on it, a sentence each, in `lines`."""
    repetitions: list[Trial] = field(default_factory=list)
    """Trials that ran settings of others again, on fresh seeds."""

    @property
    def name(self) -> str:
        """The name of the sweep."""
        return self.settings.name

    @property
    def objective(self) -> RecordedObjective:
        """The one that ranks trials."""
        return self.settings.objective

    @property
    def class_names(self) -> list[str]:
        """The generator's labels in their order: the classes of its classifiers, each once. Empty in older records."""
        known = [regime.get("class_names") for regime in self.regimes.values() if isinstance(regime, dict)]
        return list(dict.fromkeys(str(name) for names in known if isinstance(names, list) for name in names))

    def trials_in(self, *states: str) -> list[Trial]:
        """Trials in these states."""
        return [trial for trial in self.trials if trial.state in states]

    @cached_property
    def ranked(self) -> list[Trial]:
        """Full trials that have a score, best by the first objective first; the earlier among equals.

        Those that miss what the sweep requires come after all others.
        """
        scored = [(trial.value, trial) for trial in self.trials_in("complete") if trial.value is not None]
        return [trial for _, trial in sorted(scored, key=lambda pair: (bool(pair[1].missed), -self.objective.sign * pair[0]))]

    @property
    def contenders(self) -> list[Trial]:
        """Full trials that may be the best: those that meet what the sweep requires, or all where none does."""
        full = self.trials_in("complete")
        return [trial for trial in full if not trial.missed] or full

    @cached_property
    def ranked_all(self) -> list[Trial]:
        """Full trials best first, then those that were stopped, are open or failed, each by how far they came and how well."""
        full = {trial.number for trial in self.ranked}
        rest = [trial for trial in self.trials if trial.number not in full]

        def key(trial: Trial) -> tuple[int, float]:
            return trial.last_step, -math.inf if trial.value is None else self.objective.sign * trial.value

        return self.ranked + sorted(rest, key=key, reverse=True)

    @property
    def best(self) -> Trial:
        """The best full trial, where settings ran again by their means; `read_sweep` makes sure that there is one."""
        number = self.repeated[0].trial if self.repeated else self.ranked[0].number
        return next(trial for trial in self.trials if trial.number == number)

    @cached_property
    def repeated(self) -> list[Repeated]:
        """Settings that ran again on fresh seeds, the best mean first."""
        return repeated(self.repetitions, self.objective.sign)

    @property
    def verdict_lines(self) -> list[str]:
        """The verdict on the best trial, a sentence each; empty where the sweep has none on this trial."""
        known = isinstance(self.verdict, dict) and self.verdict.get("trial") == self.best.number
        lines = self.verdict.get("lines") if known else None
        return [str(line) for line in lines] if isinstance(lines, list) else []

    @property
    def finished(self) -> bool:
        """True if a budget is used up; otherwise the sweep is running or interrupted."""
        return self.runs.status == "FINISHED"


def read_sweep(name: str) -> Sweep:
    """The sweep of this name, from its settings, its study and MLflow.

    Raises:
        ReportError: there is no such sweep here, no trial has come to its end, or MLflow does not know it.
        Unreadable: a record cannot be read.
    """
    settings = read_settings(name)
    entries, seconds = settings.study.trials()
    if not any(trial.state == "complete" for trial in entries):
        raise ReportError(f"sweep {name!r} has no finished trial yet; there is nothing to show ({_counts(entries)})")
    runs = SweepRuns(settings)
    by_number = runs.trials(*(objective.metric for objective in settings.objectives))
    all_trials = [Trial(**vars(trial), run=by_number.get(trial.number, RecordedRun())) for trial in entries]
    audits, regimes = runs.document("audit.json"), runs.document("classifier.json")
    sweep = Sweep(
        settings,
        [trial for trial in all_trials if trial.repeats is None],
        seconds,
        runs,
        RecordedEvaluation.of(runs.document("evaluation.json")),
        [audit for audit in audits if isinstance(audit, dict)] if isinstance(audits, list) else [],
        regimes if isinstance(regimes, dict) else {},
        runs.document("verdict.json"),
        [trial for trial in all_trials if trial.repeats is not None],
    )
    if not sweep.ranked:
        raise ReportError(f"sweep {name!r}: no full trial has a finite {settings.objective.metric}; there is nothing to show")
    return sweep


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None


def _counts(entries: list[TrialRecord]) -> str:
    states = [trial.state for trial in entries]
    return ", ".join(f"{states.count(state)} {state}" for state in STATES if state in states) or "no trials"
