"""Ray, used and thrown away: each run of a sweep starts a new Tuner for what the ledger says is left."""

from __future__ import annotations

import logging
import math
import os
import shutil
import signal
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from gbc.errors import BadInput
from search.config import Resources, SweepConfig
from search.folder import SCRATCH
from search.ledger import Entry, Ledger
from search.recorder import Recorder
from search.trial import Assignment, run_trial


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
        share = wanted if wanted != "auto" else 0.0
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
        concurrency = resources.concurrency or fits
        if wanted == "auto" and gpus:  # as if memory had no end; `packed` knows better once a trial was measured
            share = 1 / math.ceil(concurrency / gpus)
        return cls(cpus, gpus, concurrency, resources.cpus_per_trial, share)

    def packed(self, resources: Resources, need: int, free: int) -> Machine:
        """With as many trials on a GPU as its memory holds: each takes `need` bytes of the `free` ones.

        Raises:
            BadInput: not even one fits.
        """
        if resources.gpus_per_trial != "auto" or not self.gpus:
            return self
        on_each = min(free // need, math.ceil(self.concurrency / self.gpus))
        if not on_each:
            raise BadInput(
                f"a trial takes {need / 1e9:.1f} GB of a GPU's memory and {free / 1e9:.1f} GB are free; lower batch_size or "
                "width, or give --gpus-per-trial 1 to try all the same"
            )
        return replace(self, gpus_per_trial=1 / on_each, concurrency=min(self.concurrency, self.gpus * on_each))


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
    trainable: Callable[[dict[str, Any]], None] = run_trial,
) -> None:
    """Run trials until a budget is used up or the process is told to stop (SIGINT, SIGTERM)."""
    quiet_environment()
    import ray
    from ray import tune

    from search.scheduler import make_scheduler
    from search.searcher import LedgerSearcher
    from search.stopper import LedgerStopper

    for name in ("ray", "ray.data"):
        logging.getLogger(name).setLevel(logging.ERROR)
    logging.getLogger("ray.tune").setLevel(logging.CRITICAL)  # a trial's traceback goes to its own log
    ray.init(
        address="local",  # not a cluster that somebody runs on this machine
        num_cpus=machine.cpus,
        num_gpus=machine.gpus,
        include_dashboard=False,
        log_to_driver=False,
        logging_level=logging.ERROR,
        object_store_memory=100 * 2**20,
    )
    # Ray's C++ handler aborts on SIGTERM; Tune's own answer to SIGUSR1 is to stop in good order.
    signal.signal(signal.SIGTERM, lambda *_: os.kill(os.getpid(), signal.SIGUSR1))
    scratch = folder / SCRATCH
    shutil.rmtree(scratch, ignore_errors=True)

    def resources(assignment: dict[str, Any]) -> Any:
        return tune.PlacementGroupFactory([{"CPU": machine.cpus_per_trial, "GPU": assignment["gpus"]}])

    try:
        tuner = tune.Tuner(
            tune.with_resources(trainable, resources),
            tune_config=tune.TuneConfig(
                num_samples=-1,  # the searcher says when it is over
                max_concurrent_trials=machine.concurrency,
                reuse_actors=True,
                search_alg=LedgerSearcher(ledger, assign),
                scheduler=make_scheduler(config, ledger),
            ),
            run_config=tune.RunConfig(
                name="run",
                storage_path=str(scratch.resolve()),
                verbose=0,
                callbacks=[recorder],
                stop=LedgerStopper(ledger, recorder.elapsed),
                failure_config=tune.FailureConfig(max_failures=config.retries),
            ),
        )
        results: Any = tuner.fit()
        del results
    finally:
        ray.shutdown()
        shutil.rmtree(scratch, ignore_errors=True)
