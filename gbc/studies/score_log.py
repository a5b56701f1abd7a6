"""Scores by name in a comparison's log: those of its control sets, and the ceilings of its rows."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from pydantic import Field, TypeAdapter

from gbc.checkpoint import write_atomic
from gbc.classifier_config import DatasetConfig
from gbc.errors import BadInput, CorruptFile
from gbc.settings import Config


class MeasuredOn(Config):
    """The settings that logged scores depend on."""

    dataset: DatasetConfig
    """Images that are measured."""
    judged_on: DatasetConfig | None = None
    """Images that they are measured against; None: the same."""
    per_class: int = 0
    """Number of images of each class in a control set; 0: all."""


class ScoreLog(Config):
    """Scores by name and measure."""

    scores: dict[str, dict[str, float]]
    measured_on: dict[str, MeasuredOn] = Field(default_factory=dict)
    """By name; a log without it was written before this was recorded, and counts as it is."""

    def are_of(self, wanted: Mapping[str, MeasuredOn]) -> bool:
        """True if these are the scores of the names in `wanted`, measured with those settings."""
        return set(self.scores) == set(wanted) and all(self.measured_on.get(name, on) == on for name, on in wanted.items())


def read(path: Path) -> ScoreLog:
    """The scores in that file; none if there is no file yet.

    Raises:
        CorruptFile: it cannot be read.
    """
    if not path.exists():
        return ScoreLog(scores={})
    try:
        content = path.read_bytes()
        data = TypeAdapter(dict[str, dict[str, object]]).validate_json(content)
        return ScoreLog.parse(data if set(data) == set(ScoreLog.model_fields) else {"scores": data}, str(path))
    except (OSError, ValueError, BadInput) as fault:
        raise CorruptFile(f"{path}: damaged ({str(fault).splitlines()[0]}); remove it to measure them again") from None


def write(path: Path, log: ScoreLog) -> None:
    """Log the scores, so that nobody ever sees part of them."""
    write_atomic(path, json.dumps(log.model_dump(mode="json"), indent=1).encode())
