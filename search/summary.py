"""How a sweep stands: the numbers at its end, and whether its budget is used up."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final

from gbc.checkpoint import write_atomic
from gbc.report import rank_correlation
from search.config import SweepConfig
from search.disk import footprint
from search.folder import LOG, PICTURE, trial_folder
from search.ledger import Entry, Ledger

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
    """Whether the budget is used up; otherwise the same command continues."""
    best_trial: int | None
    best_value: float | None
    best_metrics: dict[str, float]
    best_params: dict[str, Any]
    picture: str | None
    free_rank: float | None = None
    """Spearman's correlation of `free/score` and `tstr/1nn` over the complete trials: what a search without data is worth."""
    failures: list[dict[str, Any]] = field(default_factory=list)
    """Of each failed trial: `trial`, `reason`, `retries` and `log`, the file with the traceback."""
    bytes: int = 0
    """What the sweep's folder takes on disk."""

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
    count = {state: sum(entry.state == state for entry in entries) for state in ("complete", "stopped", "failed", "running")}
    picture = trial_folder(folder, best.number) / PICTURE if best else None
    last = {entry.number: metrics(entry.number) for entry in entries if entry.state == "complete"}
    return Summary(
        name=config.name,
        folder=str(folder),
        trials=len(entries),
        complete=count["complete"],
        stopped=count["stopped"],
        failed=count["failed"],
        open=count["running"],
        seconds=round(ledger.seconds, 1),
        finished=not count["running"] and used_up(config, len(entries), ledger.seconds),
        best_trial=best.number if best else None,
        best_value=best.value if best else None,
        best_metrics=(last.get(best.number) or metrics(best.number)) if best else {},
        best_params=best.params if best else {},
        picture=str(picture) if picture else None,
        free_rank=free_rank(list(last.values())),
        failures=[failure(entry, folder) for entry in entries if entry.state == "failed"],
        bytes=footprint(folder),
    )


def failure(entry: Entry, folder: Path) -> dict[str, Any]:
    """What is known of a failed trial."""
    log = trial_folder(folder, entry.number) / LOG
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


def used_up(config: SweepConfig, trials: int, seconds: float) -> bool:
    """Whether no further trial may start."""
    return trials >= config.trials or time_up(config, seconds)


def time_up(config: SweepConfig, seconds: float) -> bool:
    """Whether the time budget is spent."""
    # Ray stops a moment before or after the second.
    return config.time_budget is not None and seconds >= config.time_budget * 60 - 2


def work_left(config: SweepConfig, ledger: Ledger) -> bool:
    """Whether a trial is open or may still start."""
    entries = ledger.entries()
    still_open = any(not entry.finished for entry in entries)
    return not time_up(config, ledger.seconds) and (still_open or len(entries) < config.trials)
