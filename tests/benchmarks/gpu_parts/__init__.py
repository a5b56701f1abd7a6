"""The parts of `gpu_proof.py`: modules with `ABOUT`, `COLUMNS`, `LIMIT` (seconds) and `rows(options)`, each run by itself."""

from __future__ import annotations

from typing import Final

PARTS: Final = (
    "marked_tests",
    "graphs",
    "steps",
    "reports",
    "sampling",
    "exports",
    "memory",
    "out_of_memory",
    "sweeps",
    "compiled",
)
"""Modules of this package, in the order in which they run: what says most comes before what takes long."""
