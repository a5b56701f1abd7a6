"""Progress on the screen: a live table on a terminal, plain lines elsewhere."""

from __future__ import annotations

import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Final

from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from gbc.report import IMAGE_METRICS
from records.format import duration
from records.rungs import mean_steps, rungs
from search.driver.terminal_pictures import TerminalPicture
from search.files.storage import Location
from search.policy.early_stopping import bracket_costs
from search.spec.config import SweepConfig

_LIVE_ROWS: Final = 12
_COLUMNS: Final = {
    "kkt/rho": "ρ",
    "kkt/alpha": "α",
    "ssim/coverage": "SSIM coverage",
    "tstr/1nn": "1-NN TSTR",
    "time/steps_per_s": "steps/s",
}
_STYLES: Final = {"running": "cyan", "complete": "green", "stopped": "yellow", "failed": "red"}


@dataclass
class _Line:
    state: str = "running"
    step: int = 0
    began_at: int = 0
    metrics: dict[str, float] = field(default_factory=dict)
    reason: str | None = None
    repeats: int | None = None
    by_hand: bool = False


class ProgressDisplay:
    """Shows trials as they go. Use it as a context manager around the run."""

    def __init__(self, config: SweepConfig, console: Console, protocol: str | None = None, spent: float = 0.0) -> None:
        """`console` decides between a live table and plain lines, `protocol` whether pictures are drawn and how.

        `spent` are the seconds that earlier runs of the sweep took of its time budget.
        """
        self.config, self._console, self._protocol, self._spent = config, console, protocol, spent
        self._lines: dict[int, _Line] = {}
        self._began = time.monotonic()
        self._live = Live(get_renderable=self._render, console=console, refresh_per_second=4) if console.is_terminal else None

    def __enter__(self) -> ProgressDisplay:
        """Start drawing."""
        if self._live:
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Leave the last state of the table on the screen."""
        if self._live:
            self._live.stop()

    def add_earlier(
        self, number: int, state: str, step: int, reason: str | None, repeats: int | None = None, *, by_hand: bool = False
    ) -> None:
        """Add a trial of an earlier run of the same sweep; a plain console shows nothing."""
        self._lines[number] = _Line(state, step, step, reason=reason, repeats=repeats, by_hand=by_hand)

    def started(self, number: int, step: int, repeats: int | None = None, *, by_hand: bool = False) -> None:
        """Show that a worker took the trial, from `step`.

        As a repetition it has the number of the trial that it `repeats`; a setting given `by_hand` is none of those planned.
        """
        line = self._lines.setdefault(number, _Line())
        line.state, line.began_at, line.repeats, line.by_hand = "running", step, repeats, by_hand
        repetition = "" if repeats is None else f" (trial {repeats:04d} on a fresh seed)"
        self._say(f"trial {number:04d}  {'continues at step ' + str(step) if step else 'starts'}{repetition}")

    def reported(self, number: int, step: int, metrics: Mapping[str, float]) -> None:
        """Show a report."""
        line = self._lines.setdefault(number, _Line())
        line.step, line.metrics = step, dict(metrics)
        shown = "  ".join(f"{title} {_number(metrics.get(name))}" for name, title in self._columns().items())
        self._say(f"trial {number:04d}  step {step}/{self.config.trial.steps}  {shown}")

    def note(self, text: str) -> None:
        """Show a line about the sweep as a whole, above the live table."""
        self._console.print(text, highlight=False, markup=False, soft_wrap=True)

    def out_of_memory(self, number: int, reason: str, gpus: float) -> None:
        """Show that a trial ran out of a GPU's memory and goes on with a larger share of it."""
        self._say(f"trial {number:04d}  {reason}; goes on with {gpus:g} of a GPU")

    def ended(self, number: int, state: str, reason: str | None) -> None:
        """Show that a trial ended as complete, stopped or failed."""
        line = self._lines.setdefault(number, _Line())
        was, line.state, line.reason = line.state, state, reason
        if was != state:
            self._say(f"trial {number:04d}  {state}{': ' + reason if reason else ''}  ({self._overall()})")

    def new_best(self, number: int, value: float, picture: Location) -> None:
        """Show that a trial is the best so far, with the path of its picture, and the picture where the terminal draws it."""
        metric = self.config.objective.metric
        self.note(f"best so far: trial {number:04d}  {metric} {_number(value)}  {picture}")
        if self._protocol:
            with suppress(OSError):  # as when the storage does not answer; the path is there
                self._console.print(TerminalPicture(picture.read_bytes(), self._protocol))

    def seconds_left(self) -> float | None:
        """Estimate the seconds left from the steps that trials took so far; None before the first report."""
        done = [line for line in self._lines.values() if line.state != "running"]
        fresh = sum(line.step - line.began_at for line in self._lines.values())
        elapsed = time.monotonic() - self._began
        if not fresh:
            return None
        horizon = self.config.trial.steps
        # Weighing in one trial of the expected length keeps the first stopped trial from deciding all.
        mean = (expected_steps(self.config) + sum(line.step for line in done)) / (1 + len(done))
        repetitions = sum(line.repeats is not None for line in self._lines.values())
        waiting = max(0, self.config.trials + self._by_hand + repetitions - len(self._lines)) * mean
        waiting += max(0, self.config.finalists * self.config.seeds - repetitions) * horizon
        running = sum(
            max(mean, line.step + 0.5 * (horizon - line.step)) - line.step
            for line in self._lines.values()
            if line.state == "running"
        )
        left = (waiting + running) * elapsed / fresh
        if self.config.time_budget is not None:
            left = min(left, self.config.time_budget * 60 - self._spent - elapsed)
        if self.config.max_steps is not None:
            left = min(left, (self.config.max_steps - sum(line.step for line in self._lines.values())) * elapsed / fresh)
        return max(0.0, left)

    def _columns(self) -> dict[str, str]:
        objectives = [objective.metric for objective in self.config.objectives]
        usual = {
            metric: title for metric, title in _COLUMNS.items() if not (self.config.trial.data_free and metric in IMAGE_METRICS)
        }
        return {metric: metric for metric in objectives if metric not in usual} | usual

    def _overall(self) -> str:
        finished = sum(line.state != "running" for line in self._lines.values())
        left = self.seconds_left()
        text = f"{finished} of {self._total} trials, {duration(time.monotonic() - self._began)} so far"
        return text + (f", about {duration(left)} left" if left is not None and finished < self._total else "")

    @property
    def _total(self) -> int:
        return self.config.trials + self._by_hand + self.config.finalists * self.config.seeds

    @property
    def _by_hand(self) -> int:
        return sum(line.by_hand for line in self._lines.values())

    def _say(self, text: str) -> None:
        if not self._live:
            self._console.print(text, highlight=False, markup=False, soft_wrap=True)

    def _render(self) -> Group:
        table = Table(box=None, pad_edge=False, header_style="bold")
        table.add_column("trial", justify="right")
        table.add_column("step", justify="right")
        for title in self._columns().values():
            table.add_column(title, justify="right", no_wrap=True)
        table.add_column("state")
        running = [item for item in sorted(self._lines.items()) if item[1].state == "running"]
        ended = [item for item in sorted(self._lines.items()) if item[1].state != "running"]
        room = max(0, _LIVE_ROWS - len(running))
        if len(ended) > room:
            table.add_row("…", *[""] * (len(self._columns()) + 1), Text(f"{len(ended) - room} earlier trials", style="dim"))
        for number, line in [*ended[len(ended) - room :], *running]:
            values = [_number(line.metrics.get(name)) for name in self._columns()]
            state = Text(
                f"{line.state}{': ' + line.reason if line.reason else ''}",
                style=_STYLES[line.state],
                overflow="ellipsis",
                no_wrap=True,
            )
            table.add_row(f"{number:04d}", f"{line.step}/{self.config.trial.steps}", *values, state)
        finished = len(ended) + sum(line.step for _, line in running) / self.config.trial.steps
        bar = ProgressBar(total=self._total, completed=min(finished, self._total), width=40)
        overall = Table.grid(padding=(0, 2))
        overall.add_row(bar, self._overall())
        return Group(table, overall)


def expected_steps(config: SweepConfig) -> float:
    """Optimiser steps of an average trial, if one in `reduction_factor` passes each rung.

    The median rule lets about half of the trials pass, and stops the others anywhere after the grace period.
    """
    horizon, factor = config.trial.steps, config.scheduler.reduction_factor
    match config.scheduler.name:
        case "none":
            return float(horizon)
        case "median":
            return 0.75 * horizon + 0.25 * config.first_rung
        case "asha":
            mean = mean_steps(rungs(config.first_rung, factor, horizon), factor, horizon)
        case "hyperband":  # each bracket takes the same steps, so that cheap ones have more trials
            costs = bracket_costs(config)
            mean = len(costs) / sum(1 / cost for cost in costs)
    # The first trials to reach a rung have nobody to be worse than, and pass.
    return min(float(horizon), 1.3 * mean)


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}" if abs(value) < 100 else f"{value:.0f}"
