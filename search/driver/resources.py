"""Computing resources of a sweep: this machine or a cluster, and how many trials fit on it at once."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace

from gbc.errors import BadInput
from search.driver import ray_runtime
from search.spec.config import Resources, SweepConfig


@dataclass(frozen=True)
class Machine:
    """The resources that this machine, or a cluster, gives to trials."""

    cpus: int
    gpus: int
    concurrency: int
    cpus_per_trial: float
    gpus_per_trial: float
    nodes: int | None = None
    """Number of nodes of a cluster, which may come and go; None for this machine."""
    bounded: bool = True
    """True if never more than `concurrency` trials run at once; else as many run as the cluster has room for at the time."""

    @property
    def threads(self) -> int:
        """Torch threads of one trial."""
        return max(1, int(self.cpus_per_trial))

    def slowest(self, speed: float) -> float:
        """The speed of a trial among its neighbours at worst, from that of one alone: trials on one GPU take turns."""
        return speed * min(1.0, self.gpus_per_trial or 1.0)

    def describe(self) -> str:
        """For people."""
        gpus = f" and {self.gpus} GPU{'s' if self.gpus > 1 else ''}" if self.gpus_per_trial else ""
        nodes = f" of {self.nodes} node{'s' * (self.nodes != 1)}" if self.nodes else ""
        return f"{self.cpus} CPU{'s' if self.cpus > 1 else ''}{gpus}{nodes}"

    @classmethod
    def for_sweep(cls, config: SweepConfig) -> Machine:
        """The machine that a sweep runs on: this one, or the cluster at its address, which is joined.

        Raises:
            BadInput: as `local`, or the cluster cannot be joined.
        """
        if config.places.address is None:
            return cls.local(config.resources)
        factories = [spec.classifier.factory for spec in config.trial.classifiers() if spec.classifier.factory]
        return cls.of_cluster(config.resources, ray_runtime.join(config.places.address, factories))

    @classmethod
    def of_cluster(cls, resources: Resources, nodes: Sequence[tuple[float, float]]) -> Machine:
        """Count how many trials fit on a cluster as it is now; `nodes` are (CPUs, GPUs) of each.

        Raises:
            BadInput: no node has room for one trial.
        """
        wanted = resources.gpus_per_trial
        # Its GPUs are not this machine's to measure, and need not be alike.
        share = wanted if wanted != "auto" else 0.25 if any(gpus for _, gpus in nodes) else 0.0
        fits = sum(_trials_that_fit(cpus, gpus, resources.cpus_per_trial, share) for cpus, gpus in nodes)
        asked = f"{resources.cpus_per_trial:g} CPU{f' and {share:g} GPU' if share else ''}"
        if not fits:
            raise BadInput(f"--address: none of the cluster's {len(nodes)} nodes has room for a trial of {asked}")
        cpus, gpus = (int(sum(amounts)) for amounts in zip(*nodes, strict=True))
        concurrency = resources.concurrency or fits
        bounded = resources.concurrency is not None
        return cls(cpus, gpus, concurrency, resources.cpus_per_trial, share, nodes=len(nodes), bounded=bounded)

    @classmethod
    def local(cls, resources: Resources, *, cpus: int | None = None, gpus: int | None = None) -> Machine:
        """Count how many trials fit on this machine at once. `cpus` and `gpus` replace what it has (tests).

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
        fits = _trials_that_fit(cpus, gpus, resources.cpus_per_trial, share)
        if resources.concurrency and resources.concurrency > fits:
            raise BadInput(
                f"--concurrency {resources.concurrency}: only {fits} trials of {resources.cpus_per_trial:g} CPU"
                f"{f' and {share:g} GPU' if share else ''} fit on this machine; lower it or --cpus-per-trial"
            )
        concurrency = resources.concurrency or fits
        if wanted == "auto" and gpus:  # as if memory had no end; `fitted` knows better once a trial was measured
            share = 1 / math.ceil(concurrency / gpus)
        return cls(cpus, gpus, concurrency, resources.cpus_per_trial, share)

    def fitted(self, resources: Resources, need: int, free: int) -> Machine:
        """This machine with as many trials on a GPU as its memory holds: each takes `need` bytes of the `free` ones.

        Raises:
            BadInput: not even one fits.
        """
        if resources.gpus_per_trial != "auto" or not self.gpus or self.nodes:
            return self
        on_each = min(free // need, math.ceil(self.concurrency / self.gpus))
        if not on_each:
            raise BadInput(
                f"a trial takes {need / 1e9:.1f} GB of a GPU's memory and {free / 1e9:.1f} GB are free; lower batch_size or "
                "width, or give --gpus-per-trial 1 to try all the same"
            )
        return replace(self, gpus_per_trial=1 / on_each, concurrency=min(self.concurrency, self.gpus * on_each))


def _trials_that_fit(cpus: float, gpus: float, cpus_each: float, gpus_each: float) -> int:
    """The number of trials that run at once on one machine. A share of a GPU lies on one GPU."""
    fits = int(cpus / cpus_each)
    if gpus_each:
        fits = min(fits, int(gpus / gpus_each) if gpus_each >= 1 else int(gpus) * int(1 / gpus_each))
    return fits
