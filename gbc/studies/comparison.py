"""A comparison: rows with different settings and the same data, budget and seeds (`configs/results`)."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, model_validator

from gbc.classifier_config import DatasetConfig
from gbc.config import TrialConfig
from gbc.settings import Config, load_yaml
from gbc.studies import baselines


class Row(Config):
    """One line of the table."""

    about: str
    baseline: str | None = Field(None, description="a name of `gbc.studies.baselines`, whose settings come first")
    trial: dict[str, Any] = Field(default_factory=dict, description="settings of this row alone")


class Contrast(Config):
    """Two rows whose difference answers a question."""

    question: str
    row: str
    against: str


class Comparison(Config):
    """A file in `configs/results`."""

    name: str = Field(pattern=r"^[a-z0-9_-]+$")
    title: str
    about: str = ""
    seeds: tuple[Annotated[int, Field(ge=0, le=2**31)], ...] = Field(strict=False, min_length=1, max_length=1000)
    trial: dict[str, Any] = Field(default_factory=dict, description="settings that all rows share")
    rows: dict[str, Row] = Field(min_length=1)
    contrasts: tuple[Contrast, ...] = Field((), strict=False)
    judged_on: DatasetConfig | None = Field(
        None, description="images that all rows are scored against; default: those of the row's classifier"
    )
    ceilings: bool = Field(False, description="students of each row's own training images, in a table and a figure")
    notes: str = Field("", description="Markdown below the table")

    @model_validator(mode="after")
    def _contrasts_name_rows(self) -> Comparison:
        for contrast in self.contrasts:
            for name in (contrast.row, contrast.against):
                if name not in self.rows:
                    raise ValueError(f"contrast {contrast.question!r} names the row {name!r}, which does not exist")
        return self

    def settings(self, row: str, seed: int) -> TrialConfig:
        """Settings of one run. `seed` is added to every seed in them, so that classifiers differ as well as generators.

        Raises:
            BadInput: an unknown baseline or setting.
        """
        chosen, source = self.rows[row], f"{self.name}: row {row}"
        data = TrialConfig.shaped(self.trial, f"{self.name}: trial")
        if chosen.baseline:
            data = _merged(data, baselines.find(chosen.baseline).settings)
        data = _merged(data, TrialConfig.shaped(chosen.trial, source))
        return reseeded(TrialConfig.parse(data, source), seed)


def reseeded(config: TrialConfig, seed: int) -> TrialConfig:
    """`config` with `seed` added to its seed and to that of every classifier."""
    data = config.model_dump(mode="json")
    for part in (data, data["classifier"], *(expert["classifier"] for expert in data["experts"])):
        part["seed"] += seed
    return TrialConfig.parse(data, "seeds")


def load(path: Path) -> Comparison:
    """The comparison in a YAML file, after a check of every run's settings.

    Raises:
        BadInput: the file or the settings of a run cannot be used.
    """
    data = load_yaml(path)
    comparison = Comparison.parse({"name": path.stem, **data}, str(path))
    for row in comparison.rows:
        comparison.settings(row, 0)
    return comparison


def _merged(base: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """`base` with `changes`; mappings are merged, other values are replaced."""
    merged = dict(base)
    for key, value in changes.items():
        old = merged.get(key)
        merged[key] = _merged(old, value) if isinstance(old, dict) and isinstance(value, dict) else value
    return merged
