"""Where sweeps are recorded in this folder, and what the record of one says."""

from __future__ import annotations

import difflib
import os
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Final

import yaml

from dashboards.errors import BadInput

SWEEPS: Final = Path("mlruns") / "sweeps"
_RECORD: Final = "sweep.yaml"
_STUDY_FILE: Final = "study.db"


@dataclass(frozen=True)
class Objective:
    """A metric that a sweep improves."""

    metric: str
    direction: str
    """max or min."""

    @property
    def sign(self) -> float:
        """By which values are multiplied so that larger is better."""
        return -1.0 if self.direction == "min" else 1.0


@dataclass(frozen=True)
class Dimension:
    """One searched setting."""

    name: str
    log: bool = False
    choices: tuple[Any, ...] = ()
    """Empty for a range."""


@dataclass(frozen=True)
class Record:
    """`sweep.yaml`: the settings a sweep was started with."""

    name: str
    data: dict[str, Any]
    text: str
    """As it is written in the file."""

    @property
    def dataset(self) -> str:
        """Name of the data set; the MLflow experiment is `gbc-<dataset>`."""
        return str(self.trial.get("dataset", {}).get("name", "unknown"))

    @property
    def trial(self) -> dict[str, Any]:
        """Settings of every trial, where they are not searched."""
        return dict(self.data.get("trial") or {})

    @cached_property
    def objectives(self) -> tuple[Objective, ...]:
        """One, or the two of a Pareto front."""
        found = [self.data.get("objective") or {}, self.data.get("second_objective")]
        return tuple(
            Objective(str(one.get("metric", "ssim/coverage")), str(one.get("direction", "max")))
            for one in found
            if one is not None
        )

    @property
    def objective(self) -> Objective:
        """The one that ranks trials."""
        return self.objectives[0]

    @property
    def horizon(self) -> int:
        """Optimiser steps of a full trial."""
        return int(self.trial.get("steps", 0))

    @cached_property
    def space(self) -> tuple[Dimension, ...]:
        """What is searched, in the order of the file."""
        return tuple(
            Dimension(name, log="log10" in kind, choices=tuple(kind.get("choice") or ()))
            for name, kind in (self.data.get("space") or {}).items()
        )

    @property
    def scheduler(self) -> dict[str, Any]:
        """`name`, and for asha `reduction_factor` and `grace`."""
        return dict(self.data.get("scheduler") or {})

    @cached_property
    def rungs(self) -> tuple[int, ...]:
        """Optimiser steps at which ASHA may stop a trial; empty for other schedulers."""
        every, horizon = int(self.trial.get("report_every", 1)), self.horizon
        factor = int(self.scheduler.get("reduction_factor", 3))
        if self.scheduler.get("name") != "asha" or factor < 2:
            return ()
        rung, found = int(self.scheduler.get("grace") or max(1, round(horizon / 9 / every)) * every), list[int]()
        while 0 < rung < horizon:
            found.append(rung)
            rung *= factor
        return tuple(found)

    @property
    def study_url(self) -> str | None:
        """Of the database that holds the study; None: it is a file in the sweep's folder."""
        return (self.data.get("places") or {}).get("study_url")

    @property
    def study_file(self) -> Path:
        """The study, when no database holds it."""
        return SWEEPS / self.name / _STUDY_FILE

    @property
    def tracking_uri(self) -> str:
        """Of MLflow: what the record or the environment name, or the database in this folder."""
        named = (self.data.get("places") or {}).get("tracking_uri") or os.environ.get("MLFLOW_TRACKING_URI")
        return str(named or f"sqlite:///{Path('mlflow.db').resolve()}")


def known() -> list[str]:
    """Names of the sweeps in this folder."""
    return sorted(path.parent.name for path in SWEEPS.glob(f"*/{_RECORD}"))


def record_of(name: str) -> Record:
    """The record of a sweep.

    Raises:
        BadInput: there is no such sweep (near names are suggested), or its record cannot be read.
    """
    names = known()
    if name not in names:
        raise BadInput(f"no sweep {name!r} here; {_suggestion(name, names)}")
    path = SWEEPS / name / _RECORD
    try:
        text = path.read_text(encoding="utf-8")
        data = yaml.safe_load(text)
    except (OSError, UnicodeDecodeError) as fault:
        raise BadInput(f"{path}: cannot be read: {fault}") from None
    except yaml.YAMLError as fault:
        raise BadInput(f"{path}: not valid YAML: {' '.join(str(fault).split())}") from None
    if not isinstance(data, dict):
        raise BadInput(f"{path}: expected a mapping of settings, found {type(data).__name__}")
    return Record(name, data, text)


def _suggestion(name: str, names: list[str]) -> str:
    if not names:
        return "start one with python search/run.py"
    near = difflib.get_close_matches(name, names, n=3)
    return f"did you mean {' or '.join(map(repr, near))}?" if near else f"known: {', '.join(names)}"
