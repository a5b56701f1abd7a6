"""How a sweep stands: the numbers at its end, and whether its budget is used up."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from gbc.checkpoint import write_atomic
from gbc.report import rank_correlation
from records.trial import Entry
from search.driver.retention import footprint
from search.files.paths import LOG, PICTURE, home_of, trial_folder
from search.files.storage import Place
from search.policy.budget import used_up
from search.policy.ranking import front
from search.policy.verdict import conditions, requirements
from search.spec.config import SweepConfig
from search.study.ledger import Ledger

if TYPE_CHECKING:
    from gbc.metrics.scale import Scale

_FILE: Final = "summary.json"


@dataclass(frozen=True)
class Summary:
    """How a sweep stands when a run of it ends."""

    name: str
    folder: str
    trials: int
    complete: int
    stopped: int
    failed: int
    open: int
    seconds: float
    finished: bool
    """Whether a budget is used up; otherwise the same command continues."""
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
    failures: list[dict[str, Any]] = field(default_factory=list)
    """Of each failed trial: `trial`, `reason`, `retries` and `log`, the file with the traceback."""
    bytes: int = 0
    """What the sweep's folder takes on disk."""
    verdict: list[str] = field(default_factory=list)
    """The verdict on the best, a line each."""
    scale: dict[str, dict[str, Any]] = field(default_factory=dict)
    """The position of the best, by metric: its `value`, those of control sets by name, and its `share` of the way."""
    concluded: bool = False
    """Whether the best is measured and registered and the report written, as follows the end of a sweep."""

    def to_json(self) -> str:
        """For `--json`."""
        return json.dumps(asdict(self), indent=2)

    def write(self, sweep: Path) -> None:
        """Put it into the sweep's folder."""
        write_atomic(sweep / _FILE, self.to_json().encode())

    @classmethod
    def read(cls, sweep: Path) -> Summary | None:
        """The last one of the sweep in this folder; None when there is none that can be read."""
        try:
            return cls(**json.loads((sweep / _FILE).read_text()))
        except (OSError, ValueError, TypeError):
            return None


def sum_up(config: SweepConfig, ledger: Ledger, metrics: Callable[[int], dict[str, float]], folder: Path) -> Summary:
    """The summary of a sweep whose ledger is open; `metrics` gives a trial's last values."""
    entries, best = ledger.entries(), ledger.best()
    reason = ended_by(config, entries, ledger.seconds)
    count = {state: sum(entry.state == state for entry in entries) for state in ("complete", "stopped", "failed", "running")}
    home = home_of(config)
    picture = trial_folder(home, best.number) / PICTURE if best else None
    last = {entry.number: metrics(entry.number) for entry in entries if entry.state == "complete"}
    found = (last.get(best.number) or metrics(best.number)) if best else {}
    return Summary(
        name=config.name,
        folder=str(folder),
        trials=len(entries),
        complete=count["complete"],
        stopped=count["stopped"],
        failed=count["failed"],
        open=count["running"],
        seconds=round(ledger.seconds, 1),
        finished=reason is not None,
        best_trial=best.number if best else None,
        best_value=best.value if best else None,
        best_metrics=found,
        best_params=best.params if best else {},
        picture=str(picture) if picture else None,
        free_rank=free_rank(list(last.values())),
        ended_by=reason,
        front=front_of(config, entries),
        failures=[failure(entry, home) for entry in entries if entry.state == "failed"],
        bytes=footprint(folder, config),
        verdict=[line for line in (conditions(found), requirements(config, entries)) if line],
    )


def with_scale(summary: Summary, config: SweepConfig, scale: Scale) -> Summary:
    """The summary with the position of its best between worthless and real images, by the objectives and `tstr/1nn`."""
    metrics = dict.fromkeys([*(objective.metric for objective in config.objectives), "tstr/1nn"])
    found = {metric: summary.best_metrics[metric] for metric in metrics if metric in summary.best_metrics}
    lines = {metric: line for metric, value in found.items() if (line := scale.sentence(metric, value))}
    return replace(
        summary,
        verdict=[*summary.verdict, *lines.values()],
        scale={metric: scale.position(metric, found[metric]) for metric in lines},
    )


def ended_by(config: SweepConfig, entries: Sequence[Entry], seconds: float) -> str | None:
    """The budget that is used up; None while there is one left, or a trial open."""
    return None if any(not entry.finished for entry in entries) else used_up(config, entries, seconds)


def front_of(config: SweepConfig, entries: Sequence[Entry]) -> list[dict[str, Any]]:
    """With two objectives the front, for people and programs; empty with one."""
    if config.second_objective is None:
        return []
    metrics = [objective.metric for objective in config.objectives]
    return [
        {"trial": entry.number, "values": dict(zip(metrics, entry.objectives, strict=True)), "params": entry.params}
        for entry in front(config, entries)
    ]


def failure(entry: Entry, home: Place) -> dict[str, Any]:
    """What is known of a failed trial of the sweep at home here."""
    log = trial_folder(home, entry.number) / LOG
    return {
        "trial": entry.number,
        "reason": entry.reason,
        "retries": entry.lost + entry.retried,
        "log": str(log) if log.exists() else None,
    }


def free_rank(trials: list[dict[str, float]]) -> float | None:
    """Spearman's correlation of `free/score` and `tstr/1nn` over trials; None for fewer than three, or one that is constant."""
    import pandas as pd

    frame = pd.DataFrame(trials)
    if len(frame) < 3 or not {"free/score", "tstr/1nn"} <= set(frame):
        return None
    found = rank_correlation(frame, "free/score", "tstr/1nn")
    return None if math.isnan(found) else found
