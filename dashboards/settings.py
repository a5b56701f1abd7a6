"""The settings with which a sweep was started, as its `sweep.yaml` has them."""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final

import yaml

from dashboards.errors import ReportError
from records.mlflow_store import default_address
from records.paths import RECORD, STUDY_FILE, SWEEPS, where_sweeps_are
from records.rungs import first_rung, rungs
from records.study import Study

_LARGEST: Final = 256 * 1024  # characters
_MOST_BRACKETS: Final = 1000  # a sweep writes its record in lines, almost without; to read a deep one takes minutes


@dataclass(frozen=True)
class RecordedObjective:
    """A metric that a sweep improves."""

    metric: str
    direction: str
    """max or min."""

    @property
    def sign(self) -> float:
        """The factor on values after which larger is better."""
        return -1.0 if self.direction == "min" else 1.0


@dataclass(frozen=True)
class RecordedDimension:
    """One searched setting."""

    name: str
    log: bool = False
    choices: tuple[Any, ...] = ()
    """Empty for a range."""


@dataclass(frozen=True)
class SweepSettings:
    """The content of `sweep.yaml`; what a sweep of another version lacks has a default."""

    name: str
    data: dict[str, Any]
    text: str
    """The text of the file."""

    @property
    def dataset(self) -> str:
        """Name of the data set."""
        return str(self.trial.get("dataset", {}).get("name", "unknown"))

    @property
    def data_free(self) -> bool:
        """True if there were no images: samples were compared with none."""
        return self.dataset == "none"

    @property
    def trial(self) -> dict[str, Any]:
        """Settings of every trial, where they are not searched."""
        return dict(self.data.get("trial") or {})

    @cached_property
    def objectives(self) -> tuple[RecordedObjective, ...]:
        """One, or the two of a Pareto front."""
        both = [self.data.get("objective") or {}, self.data.get("second_objective")]
        return tuple(
            RecordedObjective(str(settings.get("metric", "ssim/coverage")), str(settings.get("direction", "max")))
            for settings in both
            if settings is not None
        )

    @property
    def objective(self) -> RecordedObjective:
        """The one that ranks trials."""
        return self.objectives[0]

    @property
    def full_steps(self) -> int:
        """Optimiser steps of a full trial."""
        return int(self.trial.get("steps", 0))

    @cached_property
    def space(self) -> tuple[RecordedDimension, ...]:
        """The searched settings, in the order of the file."""
        return tuple(
            RecordedDimension(name, log="log10" in kind or bool(kind.get("log")), choices=tuple(kind.get("choice") or ()))
            for name, kind in (self.data.get("space") or {}).items()
        )

    @property
    def scheduler(self) -> dict[str, Any]:
        """`name`, and for asha and hyperband `reduction_factor` and `grace`."""
        return dict(self.data.get("scheduler") or {})

    @cached_property
    def rungs(self) -> list[int]:
        """Optimiser steps at which ASHA or Hyperband may stop a trial; empty for other schedulers."""
        factor = int(self.scheduler.get("reduction_factor", 3))
        if self.scheduler.get("name") not in ("asha", "hyperband") or factor < 2:
            return []
        first = first_rung(self.full_steps, int(self.trial.get("report_every", 1)), self.scheduler.get("grace"))
        return rungs(first, factor, self.full_steps)

    @property
    def study(self) -> Study:
        """The place of its study."""
        url = self._places.get("study_url")
        return Study(self.name, url and str(url), SWEEPS / self.name / STUDY_FILE)

    @property
    def tracking_uri(self) -> str:
        """The address of MLflow: the one on record, or the usual one."""
        return str(self._places.get("tracking_uri") or default_address())

    @property
    def _places(self) -> dict[str, Any]:
        return self.data.get("places") or {}


def read_settings(name: str) -> SweepSettings:
    """The settings of the sweep of this name.

    Raises:
        ReportError: there is no such sweep (near names are suggested), or its record cannot be read.
    """
    names = sorted(path.parent.name for path in SWEEPS.glob(f"*/{RECORD}"))
    if name not in names:
        raise ReportError(f"no sweep {name!r} here; {_suggestion(name, names)}")
    path = SWEEPS / name / RECORD
    try:
        text = path.read_text(encoding="utf-8")
        if len(text) > _LARGEST or text.count("[") + text.count("{") > _MOST_BRACKETS:
            raise ReportError(f"{path}: not the record of a sweep: too large, or nested too deep")
        if any(isinstance(event, yaml.AliasEvent) for event in yaml.parse(text)):  # which may stand for any number of values
            raise ReportError(f"{path}: not the record of a sweep: it has aliases")
        data = yaml.safe_load(text)
    except UnicodeDecodeError:
        raise ReportError(f"{path}: cannot be read: not UTF-8 text") from None
    except OSError as fault:
        raise ReportError(f"{path}: cannot be read: {fault.strerror}") from None
    except (yaml.YAMLError, ValueError) as fault:  # ValueError: a number or date that is none
        raise ReportError(f"{path}: not valid YAML: {' '.join(str(fault).split())}") from None
    except RecursionError:
        raise ReportError(f"{path}: not the record of a sweep: nested too deep") from None
    if not isinstance(data, dict):
        raise ReportError(f"{path}: expected a mapping of settings, found {type(data).__name__}")
    settings = SweepSettings(name, data, text)
    try:
        _ = settings.dataset, settings.objectives, settings.space, settings.rungs, settings.full_steps, settings.tracking_uri
    except (AttributeError, TypeError, ValueError) as fault:
        raise ReportError(f"{path}: not the record of a sweep: {fault}") from None
    return settings


def _suggestion(name: str, names: list[str]) -> str:
    if not names:
        return where_sweeps_are()
    near = difflib.get_close_matches(name, names, n=3)
    return f"did you mean {' or '.join(map(repr, near))}?" if near else f"known: {', '.join(names)}"
