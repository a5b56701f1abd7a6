"""Ray, used and thrown away: each run of a sweep starts a new Tuner for what the ledger says is left."""

from __future__ import annotations

import logging
import os
import signal
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gbc.errors import BadInput
from search import processes
from search.config import Resources, SweepConfig
from search.faults import Abandon, Clock, Halt
from search.folder import SCRATCH
from search.ledger import Entry, Ledger
from search.recorder import Recorder
from search.trial import Assignment


@dataclass(frozen=True)
class Machine:
    """What this machine gives to trials."""

    cpus: int
    gpus: int
    concurrency: int
    cpus_per_trial: float
    gpus_per_trial: float

    @property
    def threads(self) -> int:
        """Torch threads of one trial."""
        return max(1, int(self.cpus_per_trial))

    def words(self) -> str:
        """For people."""
        gpus = f" and {self.gpus} GPU{'s' if self.gpus > 1 else ''}" if self.gpus_per_trial else ""
        return f"{self.cpus} CPU{'s' if self.cpus > 1 else ''}{gpus}"

    @classmethod
    def of(cls, resources: Resources, *, cpus: int | None = None, gpus: int | None = None) -> Machine:
        """How many trials fit here at once. `cpus` and `gpus` replace what the machine has (tests).

        Raises:
            BadInput: one trial, or the trials asked for, need more than there is.
        """
        if cpus is None:
            cpus = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        if gpus is None:
            import torch

            gpus = torch.cuda.device_count()
        wanted = resources.gpus_per_trial
        share = wanted if wanted is not None else 0.25 if gpus else 0.0
        if share > gpus:
            raise BadInput(f"--gpus-per-trial {share:g}: this machine has {gpus} GPU{'s' * (gpus != 1)}; use at most {gpus}")
        if resources.cpus_per_trial > cpus:
            raise BadInput(f"--cpus-per-trial {resources.cpus_per_trial:g}: this machine has {cpus} CPUs; use at most {cpus}")
        fits = int(cpus / resources.cpus_per_trial)
        if share:
            fits = min(fits, int(gpus / share) if share >= 1 else gpus * int(1 / share))
        if resources.concurrency and resources.concurrency > fits:
            raise BadInput(
                f"--concurrency {resources.concurrency}: only {fits} trials of {resources.cpus_per_trial:g} CPU"
                f"{f' and {share:g} GPU' if share else ''} fit on this machine; lower it or --cpus-per-trial"
            )
        return cls(cpus, gpus, resources.concurrency or fits, resources.cpus_per_trial, share)


def quiet_environment() -> None:
    """What Ray must find in the environment before it is imported."""
    root = str(Path(__file__).resolve().parents[1])
    os.environ.update(
        RAY_AIR_NEW_OUTPUT="0",  # no panels of Ray's own
        RAY_USAGE_STATS_ENABLED="0",
        RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO="1",
        TUNE_DISABLE_AUTO_CALLBACK_LOGGERS="1",
        TUNE_DISABLE_STRICT_METRIC_CHECKING="1",  # a failed trial's last word has no metrics
        TUNE_GLOBAL_CHECKPOINT_S="86400",  # Ray's own record is never read
        PYTHONPATH=os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH")])),
    )


def run_ray(
    config: SweepConfig,
    machine: Machine,
    ledger: Ledger,
    recorder: Recorder,
    assign: Callable[[Entry], Assignment],
    folder: Path,
    halt: Halt,
) -> None:
    """Run trials until a budget is used up, the process is told to stop (SIGINT, SIGTERM), or `halt` has a reason."""
    quiet_environment()
    import ray
    from ray import tune

    from search.scheduler import make_scheduler
    from search.searcher import LedgerSearcher
    from search.shield import Shield
    from search.stopper import LedgerStopper
    from search.trial import run_trial

    for name in ("ray", "ray.data"):
        logging.getLogger(name).setLevel(logging.ERROR)
    logging.getLogger("ray.tune").setLevel(logging.CRITICAL)  # a trial's traceback goes to its own log
    # What Ray says of its own death goes past every logger, to the place where `--json` prints; our last line says it.
    ray._private.worker.print_to_stdstream = lambda *_, **__: None
    scratch = folder / SCRATCH
    processes.forget_session(scratch)
    with processes.marked(folder):
        context = ray.init(
            address="local",  # not whatever cluster somebody started on this machine
            num_cpus=machine.cpus,
            num_gpus=machine.gpus,
            include_dashboard=False,
            log_to_driver=False,
            logging_level=logging.ERROR,
            object_store_memory=100 * 2**20,
        )
    processes.note_session(scratch, context.address_info["session_dir"])
    daemons = processes.daemons()
    clock = Clock()

    def whole() -> str | None:
        return processes.dead(daemons) or clock.set_back()

    halt.watch(whole)
    out_of_ray = processes.leave_anyway(whole)
    # Ray's C++ handler aborts on SIGTERM; Tune's own answer to SIGUSR1 is to stop in good order.
    signal.signal(signal.SIGTERM, lambda *_: os.kill(os.getpid(), signal.SIGUSR1))
    entries = ledger.entries()
    # Open trials run to their end whatever `trials` says: there may be more of them than it leaves (`--retry-failed`).
    todo = max(config.trials, len(entries)) - sum(entry.finished for entry in entries)
    resources = {"cpu": machine.cpus_per_trial, "gpu": machine.gpus_per_trial}
    try:
        tuner = tune.Tuner(
            tune.with_resources(run_trial, resources),
            tune_config=tune.TuneConfig(
                num_samples=todo,
                max_concurrent_trials=machine.concurrency,
                reuse_actors=True,
                search_alg=LedgerSearcher(ledger, assign, halt),
                scheduler=make_scheduler(config, ledger),
            ),
            run_config=tune.RunConfig(
                name="run",
                storage_path=str(scratch.resolve()),
                verbose=0,
                callbacks=[Shield(recorder, halt)],
                stop=LedgerStopper(ledger, recorder.elapsed, halt),
                failure_config=tune.FailureConfig(max_failures=config.retries),
            ),
        )
        results: Any = tuner.fit()
        del results
    except (Abandon, Exception):
        if halt.reason is None:
            raise
    finally:
        if halt.reason is None or halt.records_fail:  # else Ray would wait for what is dead
            ray.shutdown()
        out_of_ray.set()
        halt.watch(lambda: None)
        processes.end(folder)
        processes.forget_session(scratch)
