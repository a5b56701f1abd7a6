"""The summary of a sweep: its numbers, and whether a budget is used up."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from gbc.checkpoint import write_atomic
from gbc.report import rank_correlation
from records import repetitions
from records.trial import TrialRecord
from search.driver.retention import bytes_on_disk
from search.files.paths import LOG, PICTURE, files_folder, trial_folder
from search.files.storage import Location
from search.policy.budget import ended_by
from search.policy.finalists import finalist_results
from search.policy.ranking import pareto_front
from search.policy.verdict import data_free_verdict, kkt_verdict, requirements_verdict
from search.spec.config import SweepConfig
from search.study.ledger import Ledger

if TYPE_CHECKING:
    from gbc.metrics.scale import Scale

_SUMMARY_FILE: Final = "summary.json"


@dataclass(frozen=True)
class Summary:
    """The state of a sweep when a run of it ends."""

    name: str
    folder: str
    trials: int
    complete: int
    stopped: int
    failed: int
    open: int
    seconds: float
    finished: bool
    """True if a budget is used up; otherwise the same command continues the sweep."""
    best_trial: int | None
    best_value: float | None
    best_metrics: dict[str, float]
    best_params: dict[str, Any]
    picture: str | None
    free_rank: float | None = None
    """Spearman's correlation of `free/score` and `tstr/1nn` over the complete trials: what a search without data is worth."""
    ended_by: str | None = None
    """The budget that is used up: `trials`, `time`, `steps`, `patience` or `grid`; None when it can be continued as it is."""
    front: list[dict[str, Any]] = field(default_factory=list)
    """With two objectives the trials that no other beats, best by the first one first: `trial`, `values`, `params`."""
    finalists: list[dict[str, Any]] = field(default_factory=list)
    """Settings that ran again on fresh seeds, the best mean first: `trial`, `values`, `mean`, `deviation`, `lost`, `missed`."""
    extra: int = 0
    """Trials that do not count as one of the sweep's: repetitions, and settings given by hand."""
    failures: list[dict[str, Any]] = field(default_factory=list)
    """The failed trials, each with `trial`, `reason`, `retries` and `log`, the file with the traceback."""
    bytes: int = 0
    """Bytes that the sweep takes on disk."""
    verdict: list[str] = field(default_factory=list)
    """The verdict on the best, a line each."""
    scale: dict[str, dict[str, Any]] = field(default_factory=dict)
    """The position of the best, by metric: its `value`, those of control sets by name, and its `share` of the way."""
    concluded: bool = False
    """True if the best is measured and registered and the report is written, as happens at the end of a sweep."""

    def to_json(self) -> str:
        """For `--json`."""
        return json.dumps(asdict(self), indent=2)

    def write(self, sweep: Path) -> None:
        """Put it into the sweep's folder."""
        write_atomic(sweep / _SUMMARY_FILE, self.to_json().encode())

    @classmethod
    def read(cls, sweep: Path) -> Summary | None:
        """The last one of the sweep in this folder; None when there is none that can be read."""
        try:
            return cls(**json.loads((sweep / _SUMMARY_FILE).read_text()))
        except (OSError, ValueError, TypeError):
            return None


def summarise(config: SweepConfig, ledger: Ledger, metrics: Callable[[int], dict[str, float]], folder: Path) -> Summary:
    """The summary of a sweep whose ledger is open; `metrics` gives a trial's last values."""
    trials, best = ledger.entries(), ledger.best()
    reason = ended_by(config, trials, ledger.seconds, waiting=ledger.settings_wait())
    own = [trial for trial in trials if trial.repeats is None]
    count = {state: sum(trial.state == state for trial in own) for state in ("complete", "stopped", "failed", "running")}
    home = files_folder(config)
    picture = trial_folder(home, best.number) / PICTURE if best else None
    last = {trial.number: metrics(trial.number) for trial in own if trial.state == "complete"}
    best_metrics = (last.get(best.number) or metrics(best.number)) if best else {}
    on_seeds = repetitions.verdict(config.objective.metric, finalist_results(config, trials))
    return Summary(
        name=config.name,
        folder=str(folder),
        trials=len(trials),
        extra=sum(not trial.counts for trial in trials),
        complete=count["complete"],
        stopped=count["stopped"],
        failed=count["failed"],
        open=sum(not trial.finished for trial in trials),
        seconds=round(ledger.seconds, 1),
        finished=reason is not None,
        best_trial=best.number if best else None,
        best_value=best.value if best else None,
        best_metrics=best_metrics,
        best_params=best.params if best else {},
        picture=str(picture) if picture else None,
        free_rank=free_rank(list(last.values())),
        ended_by=reason,
        front=front_view(config, trials),
        finalists=finalists_view(config, trials),
        failures=[failure_view(trial, home) for trial in trials if trial.state == "failed"],
        bytes=bytes_on_disk(folder, config),
        verdict=[
            line
            for line in (
                kkt_verdict(best_metrics),
                requirements_verdict(config, trials),
                data_free_verdict(config) if best else None,
            )
            if line
        ]
        + on_seeds,
    )


def with_scale(summary: Summary, config: SweepConfig, scale: Scale) -> Summary:
    """The summary with the position of its best between worthless and real images, by the objectives and `tstr/1nn`."""
    metrics = dict.fromkeys([*(objective.metric for objective in config.objectives), "tstr/1nn"])
    values = {metric: summary.best_metrics[metric] for metric in metrics if metric in summary.best_metrics}
    lines = {metric: line for metric, value in values.items() if (line := scale.sentence(metric, value))}
    return replace(
        summary,
        verdict=[*summary.verdict, *lines.values()],
        scale={metric: scale.position(metric, values[metric]) for metric in lines},
    )


def front_view(config: SweepConfig, trials: Sequence[TrialRecord]) -> list[dict[str, Any]]:
    """The Pareto front for people and programs; empty with one objective."""
    if config.second_objective is None:
        return []
    metrics = [objective.metric for objective in config.objectives]
    return [
        {"trial": trial.number, "values": dict(zip(metrics, trial.objectives, strict=True)), "params": trial.params}
        for trial in pareto_front(config, trials)
    ]


def finalists_view(config: SweepConfig, trials: Sequence[TrialRecord]) -> list[dict[str, Any]]:
    """The settings that ran again, for people and programs; the best mean first."""
    results = finalist_results(config, trials)
    return [asdict(result) | {"mean": result.mean, "deviation": result.deviation} for result in results]


def failure_view(trial: TrialRecord, home: Location) -> dict[str, Any]:
    """The view of a failed trial for people and programs; `home` holds the files of the sweep's trials."""
    log = trial_folder(home, trial.number) / LOG
    return {
        "trial": trial.number,
        "reason": trial.reason,
        "retries": trial.lost + trial.retried,
        "log": str(log) if log.exists() else None,
    }


def free_rank(trials: list[dict[str, float]]) -> float | None:
    """Spearman's correlation of `free/score` and `tstr/1nn` over trials; None for fewer than three, or one that is constant."""
    import pandas as pd

    frame = pd.DataFrame(trials)
    if len(frame) < 3 or not {"free/score", "tstr/1nn"} <= set(frame):
        return None
    correlation = rank_correlation(frame, "free/score", "tstr/1nn")
    return None if math.isnan(correlation) else correlation
