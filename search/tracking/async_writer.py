"""A queue in front of MLflow, so that no trial waits for the store.

Order is kept for each trial. While the store is slow, the reports of a trial gather and go in one batch. Sinks beside MLflow
(`search.tracking.sinks`) get what MLflow has, in the same order.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, Final

from search.files.storage import Location
from search.tracking.sinks import EarlierTrial, Sinks
from search.tracking.tracker import Tracker
from search.worker.messages import Progress

_PAUSES: Final = (0.2, 0.5, 1.0, 2.0, 5.0)  # seconds between attempts at a store that refuses; the last one repeats
_CLOSE_TIMEOUT: Final = 1.0  # seconds for a call that is under way; one that hangs in a store ends when that answers
_Job = Callable[[], None]


class AsyncWriter:
    """A queue in front of a `Tracker`, and the thread that works through it."""

    def __init__(self, tracker: Tracker, sinks: Sinks | None = None) -> None:
        """The driver asks `tracker` itself only while nothing waits here: before the first job and after `drain`."""
        self._tracker, self._sinks = tracker, sinks or Sinks()
        self._jobs: dict[int, list[Progress | _Job]] = {}  # by trial, those that waited longest first
        self._changed = threading.Condition()
        self._at_work: int | None = None
        self._given_up = threading.Event()
        self._thread: threading.Thread | None = None
        self.fault: Exception | None = None
        """The reason why the store refuses what is to be written next; None while it does not."""
        self.since = 0.0
        """The moment of `time.monotonic` since which it refuses."""

    def open_trial(self, number: int, settings: Mapping[str, Any], repeats: int | None = None) -> None:
        """Queue `Tracker.open_trial`."""
        self._add(number, partial(self._tracker.open_trial, number, settings, repeats))
        self._add(number, partial(self._sinks.begin_trial, number, settings, repeats))

    def log(self, number: int, report: Progress) -> None:
        """Queue `Tracker.log` for one report."""
        self._add(number, report)

    def show(self, number: int, folder: Location) -> None:
        """Queue `Tracker.show`."""
        self._add(number, partial(self._tracker.show, number, folder, partial(self._sinks.show, number)))

    def close_trial(
        self, number: int, outcome: str, reason: str | None, picture: Location, log: Location, retries: int
    ) -> None:
        """Queue `Tracker.close_trial`."""
        self._add(number, partial(self._tracker.close_trial, number, outcome, reason, picture, log, retries))
        self._add(number, partial(self._sinks.end_trial, number, outcome, reason))

    def catch_up(self, trial: EarlierTrial) -> None:
        """Queue what sinks lack of a trial of an earlier run."""
        self._add(trial.number, partial(self._sinks.catch_up, trial))

    @property
    def waiting(self) -> int:
        """The number of trials about which something is still to be written."""
        with self._changed:
            return len({*self._jobs, self._at_work} - {None})

    def drain(self, patience: float) -> None:
        """Wait until everything is written.

        Raises:
            Exception: what the store said, when it has refused for `patience` seconds; the rest stays unwritten, and a later
                run of the sweep finds that out.
        """
        with self._changed:
            while self._jobs or self._at_work is not None:
                if self.fault is not None and time.monotonic() - self.since >= patience:
                    self._given_up.set()
                    raise self.fault
                self._changed.wait(0.2)

    def close(self) -> None:
        """End the thread; what still waits stays unwritten, as after a `drain` that fails."""
        self._given_up.set()
        with self._changed:
            self._changed.notify_all()
        if self._thread is not None:
            self._thread.join(_CLOSE_TIMEOUT)

    def _add(self, number: int, job: Progress | _Job) -> None:
        with self._changed:
            self._jobs.setdefault(number, []).append(job)
            if self._thread is None:
                # A daemon: when the driver dies of something else, nobody should wait for this.
                self._thread = threading.Thread(target=self._work, name="mlflow-writer", daemon=True)
                self._thread.start()
            self._changed.notify_all()

    def _work(self) -> None:
        while not self._given_up.is_set():
            with self._changed:
                while not self._jobs:
                    if self._given_up.is_set():
                        return
                    self._changed.wait()
                number = next(iter(self._jobs))
                self._at_work, jobs = number, self._jobs.pop(number)
            for job in _batched(jobs):
                self._retry(job if callable(job) else partial(self._log, number, job))
            with self._changed:
                self._at_work = None
                self._changed.notify_all()

    def _log(self, number: int, reports: list[Progress]) -> None:
        self._tracker.log(number, reports)
        self._sinks.log(number, reports)

    def _retry(self, job: _Job) -> None:
        """Repeat a job until it succeeds: every call of a tracker may be repeated."""
        attempt = 0
        while not self._given_up.is_set():
            try:
                job()
            except Exception as fault:  # of MLflow, its database or its server: there is no list of what they raise
                if self.fault is None:
                    self.since = time.monotonic()
                self.fault = fault
                self._given_up.wait(_PAUSES[min(attempt, len(_PAUSES) - 1)])
                attempt += 1
            else:
                self.fault = None
                return


def _batched(jobs: list[Progress | _Job]) -> list[list[Progress] | _Job]:
    """The jobs of one trial in order, with reports that follow each other in one list."""
    batches: list[list[Progress] | _Job] = []
    for job in jobs:
        if not isinstance(job, Progress):
            batches.append(job)
        elif batches and isinstance(batches[-1], list):
            batches[-1].append(job)
        else:
            batches.append([job])
    return batches
