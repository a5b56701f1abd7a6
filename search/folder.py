"""Where things lie: the folders of sweeps and trials, and the names in them. Imports nothing heavy."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from gbc.errors import BadInput
from gbc.settings import suggest

SWEEPS: Final = Path("mlruns") / "sweeps"
CLASSIFIERS: Final = Path("mlruns") / "classifiers"
RECORD: Final = "sweep.yaml"
STUDY_FILE: Final = "study.db"
SCRATCH: Final = ".ray"

CHECKPOINT: Final = "last.ckpt"
PREVIOUS: Final = "previous.ckpt"
"""The checkpoint before the last one, in case that is damaged."""
HISTORY: Final = "history.json"
"""What stays of a trial whose checkpoint is no longer needed: its settings and its reports."""
PICTURE: Final = "samples.png"
LOG: Final = "error.log"


def folder_of(name: str) -> Path:
    """Where the sweep of this name lives."""
    return SWEEPS / name


def trial_folder(sweep: Path, number: int) -> Path:
    """Where trial `number` keeps its checkpoint and picture."""
    return sweep / "trials" / f"{number:04d}"


def known() -> list[str]:
    """Names of the sweeps in this folder."""
    return sorted(path.parent.name for path in SWEEPS.glob(f"*/{STUDY_FILE}"))


def existing(name: str) -> Path:
    """The folder of a sweep that was started here.

    Raises:
        BadInput: there is none; the message suggests another name.
    """
    names = known()
    if name not in names:
        raise BadInput(f"no sweep {name!r} here; {suggest(name, names) if names else 'start one with python search/run.py'}")
    return folder_of(name)
