"""Running trials on Ray: each run of a sweep starts a new Tuner for the trials that the study says are left."""

from __future__ import annotations

import logging
import math
import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from records.addresses import first_line
from records.trial import TrialRecord
from search.driver import processes, ray_runtime
from search.driver.recorder import Recorder
from search.driver.resources import Machine
from search.files.paths import SCRATCH
from search.spec.config import SweepConfig
from search.spec.faults import Clock, Halted, HaltMonitor, RayAbandoned
from search.study.ledger import Ledger
from search.worker.messages import Assignment
from search.worker.trial import run_trial

if TYPE_CHECKING:
    from search.driver.tune_adapter import TuneAdapter


class RayStart:
    """Start of Ray on this machine in a thread, beside the other preparations of a sweep: both take seconds.

    If a cluster was joined before, nothing is started. If `take` is never called, the context manager shuts Ray down. The
    thread lives as long as the context: to the kernel Ray's processes are its children, and go when it goes.
    """

    def __init__(self, config: SweepConfig, machine: Machine, folder: Path) -> None:
        """Start at once. The caller holds the sweep's lock."""
        ray_runtime.quiet_environment()
        self._machine, self._folder = machine, folder
        self._fault: Halted | None = None
        self._ready, self._over, self._taken = threading.Event(), threading.Event(), config.places.address is not None
        if self._taken:
            self._ready.set()
            return
        processes.delete_session(folder / SCRATCH)
        threading.Thread(target=self._start, name="ray-start", daemon=True).start()

    def __enter__(self) -> RayStart:
        return self

    def __exit__(self, *_: object) -> None:
        if not self._taken:
            self._ready.wait()
            ray_runtime.leave()
            processes.kill_processes(self._folder)
            processes.delete_session(self._folder / SCRATCH)
        self._over.set()

    def take(self) -> None:
        """Wait until Ray runs. From here on the caller shuts it down.

        Raises:
            Halted: Ray did not start.
        """
        self.wait()
        self._taken = True

    def wait(self) -> None:
        """Wait until Ray runs; raises as `take`."""
        self._ready.wait()
        if self._fault is not None:
            raise self._fault

    def _start(self) -> None:
        try:
            session = processes.private_folder()
            processes.remember_session(self._folder / SCRATCH, session)
            with processes.tag_processes(self._folder):
                ray_runtime.start(self._machine.cpus, self._machine.gpus, session)
        except Exception as fault:  # of many kinds: no room for its files, no answer within half a minute from a busy machine
            self._fault = Halted(f"Ray did not start: {first_line(fault, None)}")
        self._ready.set()
        self._over.wait()


def run_ray(
    config: SweepConfig,
    machine: Machine,
    ledger: Ledger,
    recorder: Recorder,
    assign: Callable[[TrialRecord], Assignment],
    folder: Path,
    halt: HaltMonitor,
    trainable: Callable[[dict[str, Any]], None] = run_trial,
    start: RayStart | None = None,
) -> None:
    """Run trials until a budget is used up, the process is told to stop (SIGINT, SIGTERM), or `halt` has a reason.

    Ray is started here, unless that was begun by `start`. In another thread than the main one signals are left alone: there
    Python lets nobody answer them, and an order ends the run.
    """
    start = start or RayStart(config, machine, folder)
    start.wait()
    from search.driver.tune_adapter import TuneAdapter  # a second or two, in which a Ctrl-C leaves Ray to `start`

    adapter = TuneAdapter(ledger, recorder, assign, halt, nodes_may_die=machine.nodes is not None)
    start.take()
    with _ray_watched(halt, folder), _signals_stop_tune():
        try:
            _tuner(config, machine, adapter, trainable, folder / SCRATCH).fit()
        except (RayAbandoned, Exception):
            if halt.reason is None:
                raise
        finally:
            if halt.reason is None or halt.records_fail:  # else Ray would wait for what is dead
                ray_runtime.leave()


def _tuner(
    config: SweepConfig, machine: Machine, adapter: TuneAdapter, trainable: Callable[[dict[str, Any]], None], scratch: Path
) -> Any:
    """A Tuner that runs what `adapter` gives it, and keeps its own files in `scratch`."""
    from ray import tune

    logging.getLogger("ray.tune").setLevel(logging.CRITICAL)  # a trial's traceback goes to its own log
    # Not in the assignments: Ray writes those down.
    if config.places.storage:
        trainable = tune.with_parameters(trainable, storage_url=config.places.storage)

    def resources(assignment: dict[str, Any]) -> Any:
        gpus = math.floor(assignment["gpus"] * 10_000) / 10_000  # as fine as Ray counts: three thirds must fit
        return tune.PlacementGroupFactory([{"CPU": machine.cpus_per_trial, "GPU": gpus}])

    return tune.Tuner(
        tune.with_resources(trainable, resources),
        tune_config=tune.TuneConfig(
            num_samples=-1,  # the searcher says when it is over
            # Without a bound Ray has one trial waiting for room, so that a node that joins is used at once.
            max_concurrent_trials=machine.concurrency if machine.bounded else None,
            reuse_actors=True,
            search_alg=adapter.searcher,
            scheduler=adapter.scheduler,
        ),
        run_config=tune.RunConfig(
            name="run",
            storage_path=str(scratch.resolve()),
            verbose=0,
            callbacks=[adapter.callback],
            stop=adapter.stopper,
            failure_config=tune.FailureConfig(max_failures=max(config.retries, 1) if machine.nodes else config.retries),
        ),
    )


@contextmanager
def _ray_watched(halt: HaltMonitor, folder: Path) -> Iterator[None]:
    """Let `halt` know of faults of Ray, whose processes are gone at the end, and exit where a call into Ray never returns."""
    daemons, clock = processes.ray_daemons(), Clock()

    def ray_fault() -> str | None:
        return processes.death_of_daemons(daemons) or clock.set_back()

    halt.watch(ray_fault)
    out_of_ray = processes.exit_when_stuck(ray_fault)
    try:
        yield
    finally:
        out_of_ray.set()
        halt.watch(lambda: None)
        processes.kill_processes(folder)
        processes.delete_session(folder / SCRATCH)


@contextmanager
def _signals_stop_tune() -> Iterator[None]:
    """Let SIGINT and SIGTERM stop Tune in good order; afterwards signals are answered as before.

    Ray's C++ handler aborts on SIGTERM; Tune's own answer to SIGUSR1 is to stop in good order.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)}
    signal.signal(signal.SIGUSR1, handlers[signal.SIGTERM])  # until Tune has its own
    signal.signal(signal.SIGTERM, lambda *_: os.kill(os.getpid(), signal.SIGUSR1))
    try:
        yield
    finally:
        for number, handler in handlers.items():  # Tune leaves its own, which only notes that it was called
            signal.signal(number, handler)
