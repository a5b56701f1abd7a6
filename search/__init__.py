"""The sweep: proposes settings, runs trials, remembers what happened. `sweep` starts one from Python."""

from search.library import Interrupted, sweep
from search.sweep_result import BestTrial, SweepResult, read_sweep

__all__ = ["BestTrial", "Interrupted", "SweepResult", "read_sweep", "sweep"]
