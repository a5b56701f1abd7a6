"""Show the state of sweeps from another terminal: `--list` and `--status`. Only reads, and disturbs nobody.

The study is read without Optuna (`records/study.py`), whose storage would open it for writing.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from gbc.errors import BadInput
from records import repetitions
from records.addresses import public
from records.format import duration, size
from records.paths import where_sweeps_are
from records.trial import ENQUEUED, LISTED
from search.driver.retention import bytes_on_disk
from search.driver.summary import Summary, failure_view, finalists_view, front_view
from search.files.paths import existing_sweep, files_folder, recorded_config, sweep_folder, sweep_names
from search.policy.budget import ended_by, remedy
from search.policy.finalists import finalist_results, repetitions_left
from search.policy.ranking import best_trial, trials_since_improvement
from search.study.orders import recorded_orders, setting_waits
from search.study.store import recorded_trials, running_driver


@dataclass(frozen=True)
class Overview:
    """The state of one sweep."""

    name: str
    folder: str
    state: str
    """`running`, `interrupted` (the same command continues it), `finished`, or `damaged`."""
    trials: int
    """The budget of trials; -1 when it cannot be read."""
    complete: int = 0
    stopped: int = 0
    failed: int = 0
    open: int = 0
    ended_by: str | None = None
    """The budget that a finished sweep used up: `trials`, `time`, `steps`, `patience` or `grid`."""
    mend: str | None = None
    """The way to continue a finished sweep, in words."""
    objective: str = ""
    second_objective: str | None = None
    best_trial: int | None = None
    best_value: float | None = None
    best_second: float | None = None
    best_params: dict[str, Any] = field(default_factory=dict)
    front: list[dict[str, Any]] = field(default_factory=list)
    """With two objectives the trials that no other beats: `trial`, `values`, `params`."""
    warm_start: str | None = None
    """The sweep whose best settings were tried first."""
    borrowed: int = 0
    """The number of trials that took settings from that sweep."""
    steps: int = 0
    """Optimiser steps of all trials together, as far as they were reported."""
    seconds: float = 0.0
    """Wall time used, as noted by the driver every ten seconds."""
    seconds_left: float | None = None
    """Seconds left of the time budget, if there is one."""
    steps_left: int | None = None
    """Steps left of `max_steps`, if that is set."""
    patience_left: int | None = None
    """Full trials without a better one that may still follow, if `patience` is set."""
    trials_left: int = 0
    by_hand: int = 0
    """The number of trials, beyond `trials`, whose settings were given by hand."""
    finalists: list[dict[str, Any]] = field(default_factory=list)
    """Settings that ran again on fresh seeds, as in the summary."""
    seeds: list[str] = field(default_factory=list)
    """The verdict on them, in words."""
    repetitions: int = 0
    """The number of repetitions that have ended."""
    repetitions_left: int = 0
    """The number of repetitions to begin when the search is over; as long as it is not, of those that are finalists now."""
    orders: list[str] = field(default_factory=list)
    """The orders that are not carried out, in words."""
    bytes: int = 0
    driver: dict[str, Any] | None = None
    """Process, host and start of the one that runs it."""
    running: list[dict[str, Any]] = field(default_factory=list)
    """Open trials: `trial`, `step`, `steps`, `value`, and `second` where there are two objectives."""
    failures: list[dict[str, Any]] = field(default_factory=list)
    storage: str | None = None
    """The address at which its trials keep their files, if not in `folder`."""
    study: str | None = None
    """The database that holds its study, if that is not in `folder`."""
    fault: str | None = None
    """The reason why it cannot be read."""


def read_overview(name: str) -> Overview:
    """The state of the sweep of this name.

    Raises:
        BadInput: there is none, or it cannot be read.
    """
    sweep = existing_sweep(name)
    config = recorded_config(sweep)
    driver, home = running_driver(config, sweep), files_folder(config)
    entries, seconds = recorded_trials(config, sweep)
    orders = [recorded for recorded in recorded_orders(config, sweep, entries) if driver or not recorded.to_driver]
    own = [trial for trial in entries if trial.repeats is None]
    count = {state: sum(trial.state == state for trial in own) for state in ("complete", "stopped", "failed", "running")}
    reason, leader = ended_by(config, entries, seconds, waiting=setting_waits(orders)), best_trial(config, entries)
    if driver:  # it may raise a budget, and writes its record first
        reason = None
    budget = None if config.time_budget is None else config.time_budget * 60
    steps, patience = sum(trial.last_step for trial in entries), config.patience
    second = config.second_objective
    return Overview(
        name=name,
        folder=str(sweep),
        storage=None if home == sweep else str(home),
        study=config.places.study_url and public(config.places.study_url),
        state="running" if driver else "finished" if reason else "interrupted",
        trials=config.trials,
        complete=count["complete"],
        stopped=count["stopped"],
        failed=count["failed"],
        open=count["running"],
        ended_by=reason,
        mend=remedy(config, reason) if reason else None,
        objective=config.objective.metric,
        second_objective=second.metric if second else None,
        best_trial=leader.number if leader else None,
        best_value=leader.value if leader else None,
        best_second=leader.second if leader else None,
        best_params=leader.params if leader else {},
        front=front_view(config, entries),
        warm_start=config.warm_start,
        borrowed=sum(trial.origin not in (None, LISTED, ENQUEUED) for trial in entries),
        steps=steps,
        seconds=round(seconds, 1),
        seconds_left=None if budget is None else round(max(0.0, budget - seconds), 1),
        steps_left=None if config.max_steps is None else max(0, config.max_steps - steps),
        patience_left=None if patience is None else max(0, patience - trials_since_improvement(config, entries)),
        by_hand=sum(trial.by_hand for trial in own),
        finalists=finalists_view(config, entries),
        seeds=repetitions.verdict(config.objective.metric, finalist_results(config, entries)),
        repetitions=sum(trial.repeats is not None and trial.finished for trial in entries),
        repetitions_left=repetitions_left(config, entries),
        orders=[order.describe() for order in orders],
        trials_left=max(0, config.trials - sum(trial.counts for trial in entries)),
        bytes=bytes_on_disk(sweep, config),
        driver=asdict(driver) if driver else None,
        running=[
            {"trial": trial.number, "step": trial.last_step, "steps": config.trial.steps, "value": trial.value}
            | ({"second": trial.second} if second else {})
            for trial in entries
            if not trial.finished
        ],
        failures=[failure_view(trial, home) for trial in entries if trial.state == "failed"],
    )


def read_overviews() -> list[Overview]:
    """Every sweep in this folder, by name; one that cannot be read is `damaged` and says why."""
    overviews = []
    for name in sweep_names():
        try:
            overviews.append(read_overview(name))
        except BadInput as fault:
            sweep = sweep_folder(name)
            overviews.append(Overview(name, str(sweep), "damaged", -1, bytes=bytes_on_disk(sweep), fault=str(fault)))
    return overviews


def show_list(*, as_json: bool) -> int:
    """Print every sweep, a line each. Returns the exit code."""
    overviews = read_overviews()
    if as_json:
        keys = ("running", "failures", "best_params", "front")
        short = [{key: value for key, value in asdict(sweep).items() if key not in keys} for sweep in overviews]
        print(json.dumps(short, indent=2))
    elif not overviews:
        print(f"no sweeps here; {where_sweeps_are()}")
    else:
        rows = [("sweep", "state", "trials", "best", "time", "on disk")]
        rows += [
            (sweep.name, sweep.state, _counts(sweep), _best(sweep), duration(sweep.seconds), size(sweep.bytes))
            if sweep.fault is None
            else (sweep.name, sweep.state, sweep.fault, "", "", size(sweep.bytes))
            for sweep in overviews
        ]
        print("\n".join(_columns(rows)))
    return 0


def show_status(name: str, *, as_json: bool) -> int:
    """Print how one sweep stands. Returns the exit code.

    Raises:
        BadInput: there is none, or it cannot be read.
    """
    overview = read_overview(name)
    if as_json:
        print(json.dumps(asdict(overview), indent=2))
        return 0
    driver = " ({host}, pid {pid}, since {since})".format(**overview.driver) if overview.driver else ""
    print(f"sweep {overview.name}: {overview.state}{driver}")
    print(f"trials    {_counts(overview)}; {'; '.join(_left(overview))}")
    print(f"time      {duration(overview.seconds)} used")
    if overview.mend:
        print(f"ended     {overview.mend}")
    for order in overview.orders:
        print(f"order     {order}")
    if overview.warm_start:
        print(f"warm      {overview.borrowed} of the trials took settings of sweep {overview.warm_start}")
    print(f"best      {_best(overview)}")
    if overview.best_params:
        print(f"          {_assignments(overview.best_params)}")
    for line in overview.seeds:
        print(f"          {line}")
    for line in front_lines(overview.front):
        print(line)
    print(f"on disk   {size(overview.bytes)} in {overview.folder}" + (f" and {overview.storage}" if overview.storage else ""))
    if overview.study:
        print(f"study     {overview.study}")
    rows = [
        (
            f"{trial['trial']:04d}",
            f"step {trial['step']}/{trial['steps']}",
            _values(overview, trial["value"], trial.get("second")) or "–",
        )
        for trial in overview.running
    ]
    for line in _columns(rows):
        print(f"{'running' if overview.driver else 'open':<10}{line}")
    for line in failure_lines(overview.failures):
        print(line)
    return 0


def front_lines(front: Sequence[dict[str, Any]]) -> list[str]:
    """A line for each trial of a front, under a heading; nothing where there is none."""
    lines = ["front: trials that no other beats in both objectives"] if front else []
    for point in front:
        values = "  ".join(f"{metric} {value:.3f}" for metric, value in point["values"].items())
        lines.append(f"      trial-{point['trial']:04d}  {values}")
    return lines


def failure_lines(failures: Iterable[dict[str, Any]]) -> list[str]:
    """A line for each failed trial: why, after how many retries, and where the traceback lies."""
    return [
        f"failed    {failure['trial']:04d}  {failure['reason'] or 'no reason on record'}"
        + (f"  after {failure['retries']} {'retry' if failure['retries'] == 1 else 'retries'}" if failure["retries"] else "")
        + (f"  {failure['log']}" if failure["log"] else "")
        for failure in failures
    ]


def summary_lines(summary: Summary) -> list[str]:
    """The lines with which a run of a sweep ends: its trials, its best and the verdict on it."""
    lines = [
        f"sweep {summary.name}: {summary.complete} complete, {summary.stopped} stopped early, {summary.failed} failed"
        f"{f', {summary.open} open' if summary.open else ''} in {duration(summary.seconds)}, {size(summary.bytes)} on disk",
        *failure_lines(summary.failures),
    ]
    if summary.best_trial is not None:
        has_images = "ssim/coverage" in summary.best_metrics
        first = ("ssim/coverage", "tstr/1nn", "ssim/nearest") if has_images else ("free/score", "free/confidence", "free/bn")
        scores = (*first, "classifier/accuracy", "kkt/rho")
        shown = [f"{key} {summary.best_metrics[key]:.3f}" for key in scores if key in summary.best_metrics]
        lines += ["  ".join([f"best: trial-{summary.best_trial:04d}", *shown]), f"      {_assignments(summary.best_params)}"]
        lines += [f"      {line}" for line in summary.verdict]
        lines.append(f"picture: {summary.picture}")
    lines += front_lines(summary.front)
    if summary.free_rank is not None:
        lines.append(
            f"without data: free/score and tstr/1nn rank the complete trials alike to {summary.free_rank:.2f} (Spearman)"
        )
    return lines


def _assignments(params: Mapping[str, Any]) -> str:
    shown = {key: f"{value:.3g}" if isinstance(value, float) else value for key, value in params.items()}
    return "  ".join(f"{key}={value}" for key, value in shown.items())


def _counts(overview: Overview) -> str:
    done = overview.complete + overview.stopped + overview.failed
    parts = [f"{overview.complete} complete", f"{overview.stopped} stopped early", f"{overview.failed} failed"]
    if overview.open:
        parts.append(f"{overview.open} {'running' if overview.driver else 'open'}")
    return f"{done} of {overview.trials + overview.by_hand} ({', '.join(parts)})"


def _left(overview: Overview) -> list[str]:
    """The rest of each budget, in words for people."""
    left = [f"{overview.trials_left} trials to start" if overview.state != "finished" else "no trial left"]
    if overview.repetitions or overview.repetitions_left:
        left.append(f"{overview.repetitions} repetitions of finalists ended, {overview.repetitions_left} to start")
    if overview.steps_left is not None:
        left.append(f"{overview.steps_left} steps left")
    if overview.patience_left is not None:
        left.append(f"ends after {overview.patience_left} more full trials without a better one")
    if overview.seconds_left is not None:
        left.append(f"{duration(overview.seconds_left)} of the time budget left")
    return left


def _best(overview: Overview) -> str:
    values = _values(overview, overview.best_value, overview.best_second)
    if not values:
        return "none yet"
    return f"{values} (trial {overview.best_trial}" + (f", {len(overview.front)} on the front)" if overview.front else ")")


def _values(overview: Overview, first: float | None, second: float | None) -> str:
    named = ((overview.objective, first), (overview.second_objective, second))
    return "  ".join(f"{metric} {value:.4g}" for metric, value in named if value is not None)


def _columns(rows: Sequence[tuple[str, ...]]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
