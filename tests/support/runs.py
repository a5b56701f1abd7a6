"""Runs of the sweep `tiny` up to where Ray Tune would call: a real study, a real store, and no Ray."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any, Final

import yaml
from rich.console import Console

from records.paths import RECORD
from search.driver.pending_orders import PendingOrders
from search.driver.progress import ProgressDisplay
from search.driver.recorder import Recorder
from search.driver.tune_adapter import TuneAdapter
from search.policy.early_stopping import Decision
from search.spec.config import SweepConfig
from search.spec.faults import HaltMonitor
from search.study import warm_start
from search.study.ledger import Ledger
from search.study.orders import Order, give, recorded_orders
from search.tracking.tracker import Tracker
from search.worker.messages import Progress
from search.worker.trial import assignment_of
from tests.search.conftest import tiny_sweep

FOLDER: Final = Path("mlruns/sweeps/tiny")


class Run:
    """A run of the sweep `tiny` in this folder, of which a test makes the calls that Ray Tune makes."""

    def __init__(self, **changes: Any) -> None:
        self.config = SweepConfig.parse(tiny_sweep(**changes), "test")
        (FOLDER / RECORD).write_text(yaml.safe_dump(self.config.record()))
        stale = recorded_orders(self.config, FOLDER, []) if (FOLDER / "study.db").exists() else []
        self.ledger, self.tracker, self.screen = (
            Ledger(self.config, FOLDER, warm_start.load(self.config)),
            Tracker(self.config, {}),
            io.StringIO(),
        )
        display = ProgressDisplay(self.config, Console(file=self.screen, width=200))
        self.orders = PendingOrders(self.ledger, display, stale)
        self.recorder = Recorder(self.ledger, self.tracker, display, FOLDER, orders=self.orders)
        self.adapter = TuneAdapter(self.ledger, self.recorder, self._assign, HaltMonitor(FOLDER))

    def _assign(self, trial: Any) -> Any:
        return assignment_of(self.config, trial, Path("cache"), 1)

    def order(self, order: Order) -> None:
        give(self.config, FOLDER, order)
        self.poll()

    def poll(self) -> None:
        self.orders._asked = float("-inf")  # a second has passed
        self.recorder.tick()

    def start(self) -> Any:
        """The assignment of the next trial, which has started; else what the searcher answers Tune."""
        suggested = self.adapter.searcher.suggest("any")
        if isinstance(suggested, dict):
            self.recorder.started(suggested)  # type: ignore[arg-type]
            self.adapter.searcher.on_trial_complete("any")
        return suggested

    def report(self, assignment: Any, step: int, value: float = 0.0) -> Decision:
        return self.recorder.reported(assignment, Progress(step, {"ssim/coverage": value, "loss/total": 1.0}))

    def finish(self) -> None:
        self.recorder.finish()
        self.orders.close()
        self.ledger.close()

    def play(self, *values: float) -> None:
        """Start trials one after the other; each reports a value at every step, to the end."""
        for value in values:
            assignment = self.start()
            for step in (3, 6, 9, 12):
                if self.report(assignment, step, value) is Decision.STOP:
                    break
            self.recorder.ended(assignment["number"])
