"""Ray, used and thrown away: each run of a sweep starts a new Tuner for what the ledger says is left."""

from __future__ import annotations

import logging
import math
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

from search import cluster, processes
from search.config import SweepConfig
from search.entry import Entry
from search.faults import Abandon, Clock, Halt
from search.folder import SCRATCH
from search.ledger import Ledger
from search.machine import Machine
from search.recorder import Recorder
from search.trial import Assignment, run_trial


def run_ray(
    config: SweepConfig,
    machine: Machine,
    ledger: Ledger,
    recorder: Recorder,
    assign: Callable[[Entry], Assignment],
    folder: Path,
    halt: Halt,
    trainable: Callable[[dict[str, Any]], None] = run_trial,
) -> None:
    """Run trials until a budget is used up, the process is told to stop (SIGINT, SIGTERM), or `halt` has a reason."""
    cluster.quiet_environment()
    from ray import tune

    from search.node_deaths import NodeDeaths
    from search.scheduler import make_scheduler
    from search.searcher import LedgerSearcher
    from search.shield import Shield
    from search.stopper import LedgerStopper

    logging.getLogger("ray.tune").setLevel(logging.CRITICAL)  # a trial's traceback goes to its own log
    scratch = folder / SCRATCH
    processes.forget_session(scratch)
    if config.places.address is None:
        with processes.marked(folder):
            processes.note_session(scratch, cluster.start(machine.cpus, machine.gpus))
    daemons = processes.daemons()
    clock = Clock()

    def whole() -> str | None:
        return processes.dead(daemons) or clock.set_back()

    halt.watch(whole)
    out_of_ray = processes.leave_anyway(whole)
    # Ray's C++ handler aborts on SIGTERM; Tune's own answer to SIGUSR1 is to stop in good order.
    signal.signal(signal.SIGTERM, lambda *_: os.kill(os.getpid(), signal.SIGUSR1))
    # Not in the assignments: Ray writes those down.
    if config.places.storage:
        trainable = tune.with_parameters(trainable, storage_url=config.places.storage)

    def resources(assignment: dict[str, Any]) -> Any:
        gpus = math.floor(assignment["gpus"] * 10_000) / 10_000  # as fine as Ray counts: three thirds must fit
        return tune.PlacementGroupFactory([{"CPU": machine.cpus_per_trial, "GPU": gpus}])

    try:
        tuner = tune.Tuner(
            tune.with_resources(trainable, resources),
            tune_config=tune.TuneConfig(
                num_samples=-1,  # the searcher says when it is over
                # Without a bound Ray has one trial waiting for room, so that a node that joins is used at once.
                max_concurrent_trials=machine.concurrency if machine.bounded else None,
                reuse_actors=True,
                search_alg=LedgerSearcher(ledger, assign, halt),
                scheduler=make_scheduler(config, ledger),
            ),
            run_config=tune.RunConfig(
                name="run",
                storage_path=str(scratch.resolve()),
                verbose=0,
                callbacks=[Shield(recorder, halt), *([NodeDeaths()] if machine.nodes else [])],
                stop=LedgerStopper(ledger, recorder.elapsed, halt),
                failure_config=tune.FailureConfig(max_failures=max(config.retries, 1) if machine.nodes else config.retries),
            ),
        )
        results: Any = tuner.fit()
        del results
    except (Abandon, Exception):
        if halt.reason is None:
            raise
    finally:
        if halt.reason is None or halt.records_fail:  # else Ray would wait for what is dead
            cluster.leave()
        out_of_ray.set()
        halt.watch(lambda: None)
        processes.end(folder)
        processes.forget_session(scratch)
