"""Where things lie: the folders of sweeps and trials, the names in them, and what a sweep was started with."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

from gbc.errors import BadInput
from gbc.settings import load_yaml, suggest
from records.paths import RECORD, STUDY_FILE, SWEEPS
from search.files.storage import Place, open_storage
from search.spec.config import SweepConfig

CLASSIFIERS: Final = Path("mlruns") / "classifiers"
WARM_START: Final = "warm_start.json"
"""What a warm start took from another sweep."""
SCRATCH: Final = ".ray"

CHECKPOINT: Final = "last.ckpt"
PREVIOUS: Final = "previous.ckpt"
"""The checkpoint before the last one, in case that is damaged."""
HISTORY: Final = "history.json"
"""What stays of a trial whose checkpoint is no longer needed: its settings and its reports."""
PICTURE: Final = "samples.png"
LOG: Final = "error.log"

_STEP_PICTURE: Final = re.compile(r"samples-(\d+)\.png")


def folder_of(name: str) -> Path:
    """Where the sweep of this name lives."""
    return SWEEPS / name


def home_of(config: SweepConfig) -> Place:
    """Where the trials of a sweep keep their files: its folder, or one of its name in `--storage`.

    Raises:
        BadInput: the storage cannot be used.
    """
    return folder_of(config.name) if config.places.storage is None else open_storage(config.places.storage) / config.name


def trial_folder(home: Place, number: int) -> Place:
    """Where trial `number` of the sweep at home here keeps its checkpoint and picture."""
    return home / "trials" / f"{number:04d}"


def step_picture(step: int) -> str:
    """The name of the picture of a step, which lies in its trial's folder until MLflow has it."""
    return f"samples-{step:06d}.png"


def step_of(name: str) -> int | None:
    """The step whose picture has this name; None when it is no such name."""
    match = _STEP_PICTURE.fullmatch(name)
    return int(match.group(1)) if match else None


def started(config: SweepConfig) -> bool:
    """Whether there is a study of this sweep, as far as its folder knows."""
    folder = folder_of(config.name)
    return (folder / (RECORD if config.places.study_url else STUDY_FILE)).exists()


def hang_note(sweep: Path, number: int) -> Path:
    """Where the worker of a trial leaves word when it ends itself for being silent too long."""
    return sweep / SCRATCH / f"hang-{number:04d}"


def known() -> list[str]:
    """Names of the sweeps in this folder."""
    return sorted(path.name for path in SWEEPS.glob("*") if (path / STUDY_FILE).exists() or _study_is_far(path))


def existing(name: str) -> Path:
    """The folder of a sweep that was started here.

    Raises:
        BadInput: there is none; the message suggests another name.
    """
    names = known()
    if name not in names:
        raise BadInput(f"no sweep {name!r} here; {suggest(name, names) if names else 'start one with python search/run.py'}")
    return folder_of(name)


def recorded(sweep: Path) -> SweepConfig:
    """The settings of the sweep in this folder, as it was started or last continued.

    Raises:
        BadInput: its record is missing or damaged.
    """
    path = sweep / RECORD
    return SweepConfig.parse(load_yaml(path), str(path))


def _study_is_far(sweep: Path) -> bool:
    try:
        return bool(load_yaml(sweep / RECORD).get("places", {}).get("study_url"))
    except (BadInput, AttributeError):
        return False
