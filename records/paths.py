"""Places of the records in the folder where sweeps are started."""

from __future__ import annotations

from pathlib import Path
from typing import Final

SWEEPS: Final = Path("mlruns") / "sweeps"
"""A folder for each sweep."""
RECORD: Final = "sweep.yaml"
"""The settings it was started with."""
STUDY_FILE: Final = "study.db"
REPORT: Final = "report.html"


def where_sweeps_are() -> str:
    """The remedy, in words, for a folder without sweeps: it may be the wrong one."""
    return f"{SWEEPS.absolute()} holds none; go to the folder they were started in, or start one with python search/run.py"
