"""Paths: the folders of sweeps and trials, the names in them, and the settings that a sweep was started with."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

from gbc.errors import BadInput
from gbc.settings import load_yaml, suggest
from records.paths import RECORD, STUDY_FILE, SWEEPS, where_sweeps_are
from search.files.storage import Location, open_storage
from search.spec.config import SweepConfig

CLASSIFIERS: Final = Path("mlruns") / "classifiers"
WARM_START: Final = "warm_start.json"
"""The note of what a warm start took from another sweep."""
SCRATCH: Final = ".ray"

CHECKPOINT: Final = "last.ckpt"
PREVIOUS: Final = "previous.ckpt"
"""The checkpoint before the last one, in case that is damaged."""
HISTORY: Final = "history.json"
"""The file that stays of a trial whose checkpoint is no longer needed: its settings and its reports."""
PICTURE: Final = "samples.png"
LOG: Final = "error.log"

_STEP_PICTURE: Final = re.compile(r"samples-(\d+)\.png")


def sweep_folder(name: str) -> Path:
    """The folder of the sweep of this name."""
    return SWEEPS / name


def files_folder(config: SweepConfig) -> Location:
    """The folder below which the trials of a sweep keep their files: the sweep's own, or one of its name in `--storage`.

    Raises:
        BadInput: the storage cannot be used.
    """
    return sweep_folder(config.name) if config.places.storage is None else open_storage(config.places.storage) / config.name


def trial_folder(home: Location, number: int) -> Location:
    """The folder with checkpoint and picture of trial `number`, below the sweep's `files_folder`."""
    return home / "trials" / f"{number:04d}"


def step_picture(step: int) -> str:
    """The name of the picture of a step, which lies in its trial's folder until MLflow has it."""
    return f"samples-{step:06d}.png"


def step_of_picture(name: str) -> int | None:
    """The step whose picture has this name; None when it is no such name."""
    match = _STEP_PICTURE.fullmatch(name)
    return int(match.group(1)) if match else None


def has_study(config: SweepConfig) -> bool:
    """True if there is a study of this sweep, as far as its folder knows."""
    folder = sweep_folder(config.name)
    return (folder / (RECORD if config.places.study_url else STUDY_FILE)).exists()


def hang_report_file(sweep: Path, number: int) -> Path:
    """The file that a trial's worker writes when it ends itself for being silent too long."""
    return sweep / SCRATCH / f"hang-{number:04d}"


def sweep_names() -> list[str]:
    """Names of the sweeps in this folder."""
    return sorted(path.name for path in SWEEPS.glob("*") if (path / STUDY_FILE).exists() or _has_database_study(path))


def existing_sweep(name: str) -> Path:
    """The folder of a sweep that was started here.

    Raises:
        BadInput: there is none; the message suggests another name.
    """
    names, folder = sweep_names(), sweep_folder(name)
    if name not in names:
        if (folder / "trials").is_dir():
            raise BadInput(
                f"{folder / STUDY_FILE}: missing, and {folder} has trials of it; restore it, or choose another --name"
            )
        raise BadInput(f"no sweep {name!r} here; {suggest(name, names) if names else where_sweeps_are()}")
    return sweep_folder(name)


def lost_study(sweep: Path) -> BadInput:
    """The error for trials whose study is gone."""
    return BadInput(f"{sweep / STUDY_FILE}: missing, and there are trials of it; restore it, or choose another --name")


def recorded_config(sweep: Path) -> SweepConfig:
    """The settings of the sweep in this folder, as it was started or last continued.

    Raises:
        BadInput: its record is missing or damaged.
    """
    path = sweep / RECORD
    return SweepConfig.parse(load_yaml(path), str(path))


def _has_database_study(sweep: Path) -> bool:
    try:
        return bool(load_yaml(sweep / RECORD).get("places", {}).get("study_url"))
    except (BadInput, AttributeError):
        return False
