"""A sweep as a report needs it: study and MLflow joined by trial number, ranked, with its controls."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from datetime import datetime
from functools import cached_property
from typing import TYPE_CHECKING, Any, Final

import pandas as pd

from dashboards import study
from dashboards.errors import BadInput
from dashboards.place import Objective, Record, record_of
from dashboards.store import Logged, Store

if TYPE_CHECKING:
    from optuna.trial import FrozenTrial

CEILING: Final = "other real images"
"""How an evaluation calls the set of images that no generator is expected to beat."""
OUTCOMES: Final = ("complete", "stopped", "failed", "running")
_STATES: Final = {"RUNNING": "running", "WAITING": "running", "COMPLETE": "complete", "PRUNED": "stopped", "FAIL": "failed"}


@dataclass(frozen=True)
class Trial:
    """One trial, from both records."""

    number: int
    outcome: str
    """complete, stopped (early), failed or running."""
    params: dict[str, Any]
    """What was sampled."""
    values: dict[int, float]
    """The first objective by optimiser step."""
    second: float | None = None
    """The second objective at the last step, in a sweep that has two."""
    reason: str | None = None
    """Why it failed."""
    missed: tuple[str, ...] = ()
    """The requirements of the sweep that its last report misses, a line each."""
    origin: str | None = None
    """The trial of another sweep whose settings it took."""
    lost: int = 0
    """How often its worker was replaced."""
    started: float | None = None
    ended: float | None = None
    """Both in seconds since 1970."""
    logged: Logged = field(default_factory=lambda: Logged("", {}, {}, {}))
    """Its MLflow run; empty where there is none."""

    @property
    def name(self) -> str:
        """As MLflow calls its run."""
        return f"trial-{self.number:04d}"

    @property
    def last_step(self) -> int:
        """The last step it reported, 0 before the first."""
        return max(self.values, default=0)

    @property
    def value(self) -> float | None:
        """The first objective at the last step; None where it has none, or one that is not finite."""
        value = self.values.get(self.last_step)
        return value if value is not None and math.isfinite(value) else None

    def curve(self, metric: str) -> pd.Series:
        """A metric by optimiser step, in order; empty where it was not logged."""
        points = self.logged.curves.get(metric, {})
        return pd.Series({step: points[step] for step in sorted(points)}, dtype=float)

    def score(self, metric: str) -> float | None:
        """The last value of a metric; None where it was not logged or is not finite."""
        value = self.logged.last.get(metric)
        return value if value is not None and math.isfinite(value) else None


@dataclass(frozen=True)
class Evaluation:
    """The scores of a sweep's best generator beside what worthless and real images get."""

    trial: int
    scores: dict[str, dict[str, float]]
    """By set of images and metric: the generator first, then the controls; real images last, where there are enough."""
    by_class: dict[str, dict[str, dict[str, float]]]
    """By set of images, metric and class."""

    @property
    def generator(self) -> str:
        """The set that is judged."""
        return next(iter(self.scores))

    @property
    def controls(self) -> list[str]:
        """Sets of worthless images: a score that does not beat them says nothing."""
        return [name for name in self.scores if name not in (self.generator, CEILING)]

    def level(self, metric: str) -> float | None:
        """The score of other real images, as good as can be hoped for; None where there are too few of them to tell."""
        return self.scores.get(CEILING, {}).get(metric)

    def floor(self, metric: str) -> tuple[str, float] | None:
        """The control that is best by a metric (larger is better), with its score."""
        found = [(name, self.scores[name][metric]) for name in self.controls if metric in self.scores[name]]
        return max(found, key=lambda pair: pair[1], default=None)

    def share(self, metric: str, value: float) -> float | None:
        """How far of the way from the best control (0) to real images (1) a score is; None where that is not known."""
        floor, ceiling = self.floor(metric), self.level(metric)
        if floor is None or ceiling is None or ceiling <= floor[1]:
            return None
        return (value - floor[1]) / (ceiling - floor[1])

    @classmethod
    def of(cls, data: Any) -> Evaluation | None:
        """From `evaluation.json`; None where that is missing or holds no controls."""
        try:
            scores = {str(name): dict(values) for name, values in data["scores"].items()}
            if len(scores) < 2:
                return None
            return cls(int(data["trial"]), scores, dict(data.get("by_class") or {}))
        except (TypeError, KeyError, ValueError, AttributeError):
            return None


@dataclass(frozen=True)
class Sweep:
    """Everything a report shows of one sweep."""

    record: Record
    trials: list[Trial]
    """By number."""
    seconds: float
    """Wall time, all runs of the sweep together."""
    ledger: study.Ledger
    store: Store
    evaluation: Evaluation | None = None
    audits: list[dict[str, Any]] = field(default_factory=list)
    """Of each classifier."""
    regimes: dict[str, Any] = field(default_factory=dict)
    """How far each classifier's training came, by its name."""
    verdict: Any = None
    """`verdict.json`: the number of the best `trial`, and the verdict on it, a sentence each, in `lines`."""

    @property
    def name(self) -> str:
        """Of the sweep."""
        return self.record.name

    @property
    def objective(self) -> Objective:
        """By which trials are ranked."""
        return self.record.objective

    def of(self, *outcomes: str) -> list[Trial]:
        """Trials that ended so."""
        return [trial for trial in self.trials if trial.outcome in outcomes]

    @cached_property
    def ranked(self) -> list[Trial]:
        """Full trials that have a score, best by the first objective first; the earlier among equals.

        Those that miss what the sweep requires come after all others.
        """
        return self._by_value(self.of("complete"))

    @property
    def contenders(self) -> list[Trial]:
        """Full trials that may be the best: those that meet what the sweep requires, or all where none does."""
        full = self.of("complete")
        return [trial for trial in full if not trial.missed] or full

    @cached_property
    def ranked_all(self) -> list[Trial]:
        """Full trials best first, then those that were stopped, are open or failed, each by how far they came and how well."""
        full = {trial.number for trial in self.ranked}
        rest = [trial for trial in self.trials if trial.number not in full]
        sign = self.objective.sign

        def key(trial: Trial) -> tuple[int, float]:
            return trial.last_step, -math.inf if trial.value is None else sign * trial.value

        return self.ranked + sorted(rest, key=key, reverse=True)

    @property
    def best(self) -> Trial:
        """The best full trial; `read` makes sure that there is one."""
        return self.ranked[0]

    @property
    def verdict_lines(self) -> list[str]:
        """The verdict on the best trial, a sentence each; empty where the sweep has none on this trial."""
        known = isinstance(self.verdict, dict) and self.verdict.get("trial") == self.best.number
        lines = self.verdict.get("lines") if known else None
        return [str(line) for line in lines] if isinstance(lines, list) else []

    @property
    def front(self) -> list[int]:
        """Numbers of the trials on the Pareto front of a sweep with two objectives."""
        return [int(number) for number in self.store.tags.get("sweep.front", "").split() if number.isdigit()]

    @property
    def finished(self) -> bool:
        """Whether a budget is used up; otherwise it is running or interrupted."""
        return self.store.status == "FINISHED"

    @property
    def table(self) -> pd.DataFrame:
        """A row a trial: `outcome`, `value`, `steps`, and every searched setting."""
        rows = [
            {"number": t.number, "outcome": t.outcome, "value": t.value, "steps": t.last_step, **t.params} for t in self.trials
        ]
        return pd.DataFrame(rows).set_index("number")

    def _by_value(self, trials: list[Trial]) -> list[Trial]:
        sign = self.objective.sign
        scored = [(trial.value, trial) for trial in trials if trial.value is not None]
        return [trial for _, trial in sorted(scored, key=lambda pair: (bool(pair[1].missed), -sign * pair[0]))]


def read(name: str) -> Sweep:
    """The sweep of this name, from its record, its study and MLflow.

    Raises:
        BadInput: one of them cannot be read, or no trial has come to its end.
    """
    record = record_of(name)
    ledger = study.read(record)
    stored = ledger.study.get_trials(deepcopy=False)
    if not any(trial.state.name == "COMPLETE" for trial in stored):
        raise BadInput(f"sweep {name!r} has no finished trial yet; there is nothing to show ({_counts(stored)})")
    store = Store(record)
    logged = store.trials(*(objective.metric for objective in record.objectives))
    audits, regimes = store.document("audit.json"), store.document("classifier.json")
    sweep = Sweep(
        record,
        [_trial(one, logged.get(one.number)) for one in stored],
        ledger.seconds,
        ledger,
        store,
        Evaluation.of(store.document("evaluation.json")),
        [one for one in audits if isinstance(one, dict)] if isinstance(audits, list) else [],
        regimes if isinstance(regimes, dict) else {},
        store.document("verdict.json"),
    )
    if not sweep.ranked:
        raise BadInput(f"sweep {name!r}: no full trial has a finite {record.objective.metric}; there is nothing to show")
    return sweep


def _trial(stored: FrozenTrial, logged: Logged | None) -> Trial:
    notes = stored.user_attrs
    return Trial(
        number=stored.number,
        outcome=_STATES[stored.state.name],
        params=dict(stored.params),
        values=dict(sorted(stored.intermediate_values.items())),
        second=notes.get(study.SECOND),
        missed=tuple(map(str, notes.get(study.MISSED, ()))),
        reason=notes.get(study.REASON),
        origin=str(notes[study.ORIGIN]) if study.ORIGIN in notes else None,
        lost=int(notes.get(study.LOST, 0)),
        started=_seconds(stored.datetime_start),
        ended=_seconds(stored.datetime_complete),
        **({"logged": logged} if logged else {}),
    )


def _seconds(moment: datetime | None) -> float | None:
    """Optuna's local time, without a zone."""
    return moment.timestamp() if moment else None


def _counts(stored: list[FrozenTrial]) -> str:
    outcomes = [_STATES[trial.state.name] for trial in stored]
    found = [f"{outcomes.count(outcome)} {outcome}" for outcome in OUTCOMES if outcome in outcomes]
    return ", ".join(found) if found else "no trials"
