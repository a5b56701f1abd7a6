"""The settings that a sweep was started with, in `sweep.yaml` and again in the study: is one of them lost or changed?"""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import Any

from gbc.errors import BadInput
from records.paths import RECORD, STUDY_FILE
from records.study import settings_in_file
from search.files import storage
from search.files.paths import files_folder, lost_study, recorded_config
from search.spec.config import SweepConfig
from search.spec.faults import readable


def check_study(config: SweepConfig, folder: Path) -> None:
    """Refuse a study that is damaged, or gone while files of its trials are there. Nothing is created.

    Raises:
        BadInput: with the mend.
    """
    path, locations = folder / STUDY_FILE, config.places
    with suppress(BadInput):
        locations = locations.over(recorded_config(folder).places)
    if locations.study_url is not None:
        return
    if path.exists():
        _settings_in_study(path)
    elif storage.list_folder(files_folder(config.model_copy(update={"places": locations})) / "trials"):
        raise lost_study(folder)


def settings_on_record(folder: Path) -> tuple[SweepConfig, str | None]:
    """The settings of the sweep in this folder, and what is wrong with `sweep.yaml`, in words; None when nothing is.

    Where the two copies differ, or `sweep.yaml` cannot be read, they are the study's.

    Raises:
        BadInput: neither can be read.
    """
    copy = _copy_in_study(folder)
    try:
        record = recorded_config(folder)
    except BadInput as fault:
        if copy is None:
            raise
        path = folder / RECORD
        return copy, f"{path}: missing" if not path.exists() else str(fault).splitlines()[0]
    if copy is None or not (differences := record.differences(copy)):
        return record, None
    shown = "; ".join(f"{key} {ours}, not {theirs}" for key, (ours, theirs) in differences.items())
    return copy, f"{folder / RECORD}: not what the study was started with: {shown}"


def _copy_in_study(folder: Path) -> SweepConfig | None:
    path = folder / STUDY_FILE
    if not path.exists() or (settings := _settings_in_study(path)) is None:
        return None
    try:
        return SweepConfig.parse(settings, str(path))
    except BadInput:  # an earlier version's, with a setting that is no more
        return None


@readable()
def _settings_in_study(path: Path) -> dict[str, Any] | None:
    return settings_in_file(path)
