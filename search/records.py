"""Where sweeps lie and what they were started with."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from gbc.errors import BadInput
from gbc.settings import load_yaml, suggest
from search.config import SweepConfig
from search.ledger import STUDY_FILE

SWEEPS: Final = Path("mlruns") / "sweeps"
RECORD: Final = "sweep.yaml"


def folder_of(name: str) -> Path:
    """Where the sweep of this name lives."""
    return SWEEPS / name


def recorded(name: str) -> SweepConfig:
    """The settings of a sweep that was started.

    Raises:
        BadInput: there is none of this name, or its record cannot be read.
    """
    if not (folder_of(name) / STUDY_FILE).exists():
        known = [path.parent.name for path in SWEEPS.glob(f"*/{STUDY_FILE}")]
        raise BadInput(f"no sweep {name!r} here; {suggest(name, known) if known else 'start one with python search/run.py'}")
    record = folder_of(name) / RECORD
    return SweepConfig.parse(load_yaml(record), str(record))
