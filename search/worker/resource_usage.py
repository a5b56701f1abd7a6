"""Resource usage of a trial's process, under the names that MLflow's pages show as system metrics."""

from __future__ import annotations

import time
from typing import Final

PREFIX: Final = "system/"


class ResourceUsage:
    """Measures this process; CPU time counts from the last measurement."""

    def __init__(self) -> None:
        import torch

        self._wall, self._busy = time.perf_counter(), time.process_time()
        if torch.cuda.is_initialized():  # a trial before this one may have taken more
            torch.cuda.reset_peak_memory_stats()

    def measure(self) -> dict[str, float]:
        """CPU time per wall time in per cent of one core, resident memory and the most of the GPU's, in 10⁶ bytes."""
        import psutil
        import torch

        wall, busy = time.perf_counter(), time.process_time()
        share = (busy - self._busy) / max(wall - self._wall, 1e-9)
        self._wall, self._busy = wall, busy
        usage = {
            f"{PREFIX}cpu_utilization_percentage": 100 * share,
            f"{PREFIX}system_memory_usage_megabytes": psutil.Process().memory_info().rss / 1e6,
        }
        if torch.cuda.is_available() and torch.cuda.is_initialized():
            usage[f"{PREFIX}gpu_0_memory_usage_megabytes"] = torch.cuda.max_memory_allocated() / 1e6
        return usage


def without_resource_usage(metrics: dict[str, float]) -> dict[str, float]:
    """The metrics that say something of the trial, not of its machine."""
    return {name: value for name, value in metrics.items() if not name.startswith(PREFIX)}
