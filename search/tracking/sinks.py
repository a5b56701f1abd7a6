"""Sinks beside MLflow: TensorBoard and Weights & Biases, which may be slow or fail without harm to the sweep.

MLflow is the record; a sink gets a copy of what MLflow has. Each has a thread of its own, so it holds up neither MLflow nor a
trial, and what makes it fail turns it off, which is said once.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from typing import Any, Final, Protocol

from gbc.errors import BadInput
from gbc.settings import flatten
from records.addresses import first_line, redacted
from search.spec.config import SweepConfig
from search.worker.messages import Progress

PATIENCE: Final = 30.0
"""Seconds that the end of a sweep waits for its sinks."""
_MOST_WAITING: Final = 5000  # calls; a picture takes 100 kB
_PACKAGES: Final = {"tensorboard": "tensorboardX", "wandb": "wandb"}


@dataclass
class Written:
    """The part of a trial that a sink has."""

    step: int = 0
    """The step of the last report, 0 before the first."""
    picture: int = 0
    """The step of the last picture."""
    ended: bool = False


@dataclass(frozen=True)
class EarlierTrial:
    """A trial as the study has it when a run of the sweep starts."""

    number: int
    settings: Mapping[str, Any]
    last_step: int
    outcome: str | None
    """None while it is open."""
    reason: str | None
    reports: Callable[[], Iterable[Progress]]
    """Reads what its files hold; asked only when a sink lacks some of it."""


class Sink(Protocol):
    """Writes the trials of one sweep. One thread makes all calls; they follow each other in the order of MLflow's."""

    def written(self, number: int) -> Written:
        """Read what an earlier run of the sweep left of a trial."""

    def begin_trial(self, number: int, settings: Mapping[str, Any]) -> Written:
        """Open a trial, or go on with it, and return what is there already; `settings` have dotted keys and no secrets."""

    def log(self, number: int, report: Progress) -> None:
        """Write the metrics of a step; steps grow."""

    def show(self, number: int, step: int, picture: bytes) -> None:
        """Write the picture of a step, a PNG; steps grow, and may be behind those of the metrics."""

    def end_trial(self, number: int, outcome: str, reason: str | None) -> None:
        """Write the end of a trial: complete, stopped or failed."""

    def close(self) -> None:
        """Bring everything to disk: this run of the sweep ends, and trials that are open may go on in another one."""


class SinkThread:
    """A sink, its queue, and the thread that works through it."""

    def __init__(self, name: str, make: Callable[[], Sink]) -> None:
        """`make` is called in the thread, with the first thing that there is to write."""
        self._name, self._make = name, make
        self._jobs: queue.Queue[Callable[[Sink], None] | None] = queue.Queue()
        self._open: dict[int, Written] = {}
        self._ended: dict[int, Written] = {}
        self._thread: threading.Thread | None = None
        self._fault: str | None = None
        self._off = self._told = False

    def begin_trial(self, number: int, settings: Mapping[str, Any]) -> None:
        """Queue `Sink.begin_trial`."""
        self._add(partial(self._begin, number, settings))

    def log(self, number: int, report: Progress) -> None:
        """Queue `Sink.log`; a step that was written is left out."""
        self._add(partial(self._log, number, report))

    def show(self, number: int, step: int, picture: bytes) -> None:
        """Queue `Sink.show`; a step that was written is left out."""
        self._add(partial(self._show, number, step, picture))

    def end_trial(self, number: int, outcome: str, reason: str | None) -> None:
        """Queue `Sink.end_trial`."""
        self._add(partial(self._end, number, outcome, reason))

    def catch_up(self, trial: EarlierTrial) -> None:
        """Queue what the sink lacks of a trial of an earlier run: it was killed, or the sink was off."""
        self._add(partial(self._catch_up, trial))

    def close(self, deadline: float) -> None:
        """Let the sink end, and wait for it until a moment of `time.monotonic`."""
        if self._thread is None:
            return
        self._jobs.put(None)
        self._thread.join(max(0.0, deadline - time.monotonic()))
        if self._thread.is_alive():
            self._turn_off("it does not come to its end")

    def news(self) -> str | None:
        """The reason why the sink is off, in a line, the first time that this is asked; else None."""
        if self._fault is None or self._told:
            return None
        self._told = True
        return self._fault

    def _add(self, job: Callable[[Sink], None]) -> None:
        if self._off:
            return
        if self._jobs.qsize() >= _MOST_WAITING:
            self._turn_off(f"it is {_MOST_WAITING} calls behind")
            return
        self._jobs.put(job)
        if self._thread is None:
            self._thread = threading.Thread(target=self._work, name=f"{self._name}-sink", daemon=True)
            self._thread.start()

    def _work(self) -> None:
        try:
            sink = self._make()
            while (job := self._jobs.get()) is not None:
                if self._off:
                    return
                job(sink)
            sink.close()
        except Exception as fault:  # of other libraries, disks and servers: there is no list of what they raise
            self._turn_off(f"{type(fault).__name__}: {first_line(fault, None)}")

    def _turn_off(self, reason: str) -> None:
        self._off = True
        self._fault = self._fault or f"--log-to {self._name} is off from here on ({reason}); trials and MLflow go on"
        while not self._jobs.empty():  # pictures take memory
            try:
                self._jobs.get_nowait()
            except queue.Empty:
                break
        self._jobs.put(None)

    def _begin(self, number: int, settings: Mapping[str, Any], sink: Sink) -> None:
        if number not in self._open:
            written, before = sink.begin_trial(number, settings), self._ended.pop(number, Written())  # before: it is retried
            self._open[number] = Written(max(written.step, before.step), max(written.picture, before.picture))

    def _log(self, number: int, report: Progress, sink: Sink) -> None:
        written = self._open.get(number)
        if written is not None and report.step > written.step:
            sink.log(number, report)
            written.step = report.step

    def _show(self, number: int, step: int, picture: bytes, sink: Sink) -> None:
        written = self._open.get(number)
        if written is not None and step > written.picture:
            sink.show(number, step, picture)
            written.picture = step

    def _end(self, number: int, outcome: str, reason: str | None, sink: Sink) -> None:
        if number in self._open:
            sink.end_trial(number, outcome, reason)
            self._ended[number] = self._open.pop(number)

    def _catch_up(self, trial: EarlierTrial, sink: Sink) -> None:
        written = sink.written(trial.number)
        if written.step >= trial.last_step and (written.ended or trial.outcome is None):
            return
        self._begin(trial.number, trial.settings, sink)
        for report in trial.reports():
            if report.step <= trial.last_step:
                self._log(trial.number, report, sink)
        if trial.outcome is not None:
            self._end(trial.number, trial.outcome, trial.reason, sink)


class Sinks:
    """All sinks of a sweep; without any, every call does nothing."""

    def __init__(self, threads: Sequence[SinkThread] = ()) -> None:
        self._threads = threads

    @classmethod
    def of(cls, config: SweepConfig) -> Sinks:
        """The sinks that `log_to` names."""
        return cls([SinkThread(name, partial(_make, name, config)) for name in config.log_to])

    def begin_trial(self, number: int, settings: Mapping[str, Any], repeats: int | None = None) -> None:
        """A worker took a trial, which repeats the trial with the number `repeats`."""
        if self._threads:
            shown = shown_settings(settings, repeats)
            for thread in self._threads:
                thread.begin_trial(number, shown)

    def log(self, number: int, reports: Iterable[Progress]) -> None:
        """A trial reported."""
        for report in reports if self._threads else ():
            for thread in self._threads:
                thread.log(number, report)

    def show(self, number: int, step: int, picture: bytes) -> None:
        """A trial drew the picture of a step."""
        for thread in self._threads:
            thread.show(number, step, picture)

    def end_trial(self, number: int, outcome: str, reason: str | None) -> None:
        """A trial ended."""
        for thread in self._threads:
            thread.end_trial(number, outcome, reason and redacted(reason))

    def catch_up(self, trial: EarlierTrial) -> None:
        """A run of the sweep starts, and there is a trial of an earlier one."""
        for thread in self._threads:
            thread.catch_up(trial)

    def news(self) -> list[str]:
        """A line for each sink that was turned off since this was last asked."""
        return [line for thread in self._threads if (line := thread.news()) is not None]

    def close(self, patience: float = PATIENCE) -> None:
        """The run of the sweep ends: wait for the sinks, all together for `patience` seconds."""
        deadline = time.monotonic() + patience
        for thread in self._threads:
            thread.close(deadline)

    def __bool__(self) -> bool:
        return bool(self._threads)


def shown_settings(settings: Mapping[str, Any], repeats: int | None = None) -> dict[str, Any]:
    """Settings of a trial with dotted keys, without passwords, keys and tokens."""
    data = {**settings} if repeats is None else {**settings, "repeats": repeats}
    return {key: redacted(value) if isinstance(value, str) else value for key, value in flatten(data).items()}


def check(config: SweepConfig) -> None:
    """Refuse a sink that cannot work.

    Raises:
        BadInput: its package is not installed, or W&B has no key and is not offline.
    """
    for name in config.log_to:
        if find_spec(_PACKAGES[name]) is None:
            raise BadInput(f"--log-to {name} needs the package {_PACKAGES[name]}; install it with `pip install '.[{name}]'`")
        if name == "wandb":
            from search.tracking.wandb_sink import check_login

            check_login()


def _make(name: str, config: SweepConfig) -> Sink:
    if name == "tensorboard":
        from search.tracking.tensorboard_sink import TensorBoardSink

        return TensorBoardSink(config)
    from search.tracking.wandb_sink import WandbSink

    return WandbSink(config)
