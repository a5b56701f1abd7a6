"""The settings of a sweep: a space, a budget, a sampler, a scheduler, resources and an objective. See configs/ for examples."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Annotated, Any, Final, Literal

from pydantic import Field, field_validator, model_validator

from gbc.classifier_config import MOST_STEPS
from gbc.config import LOSS_WEIGHTS, TrialConfig
from gbc.errors import BadInput
from gbc.report import DATA_FREE_OBJECTIVE, IMAGE_METRICS, METRIC_DIRECTIONS, STUDENT_METRIC, STUDENT_STEPS, Direction
from gbc.settings import Config, flatten, suggest
from records.rungs import first_rung, rungs
from search.spec.locations import Places
from search.spec.search_space import SearchSpace
from search.spec.space import Dimension, Value

MAY_CHANGE: Final = (
    "trials",
    "time_budget",
    "max_steps",
    "patience",
    "retries",
    "hang_limit",
    "keep",
    "finalists",
    "seeds",
    "finalist_time",
    "log_to",
    "report_every",
)
"""Settings of a sweep that may change when it is continued. They stay as they were when no new value is given."""
NEGLIGIBLE: Final = 2.0
"""Seconds of a time budget that are not worth starting Ray or a trial for."""
MOST_TRIALS: Final = 1_000_000
_CENTURY: Final = 60 * 24 * 36525.0  # minutes
_WEIGHT_OF: Final = {f"loss/{loss}": weight for loss, weight in LOSS_WEIGHTS.items()} | {"kkt/rho": "stationarity_weight"}
"""The setting without which a trial does not report a metric."""


class SchedulerConfig(Config):
    """ASHA (Li et al. 2020), Hyperband (Li et al. 2018) or the median stopping rule (Golovin et al. 2017), or `none`."""

    name: Literal["asha", "hyperband", "median", "none"] = "asha"
    reduction_factor: int = Field(3, ge=2, le=16, description="asha, hyperband: one trial in this many passes a rung")
    grace: int | None = Field(None, ge=1, le=MOST_STEPS, description="steps before a trial may be stopped; a ninth by default")

    @classmethod
    def named(cls, text: str) -> dict[str, Any]:
        """A scheduler by its name alone."""
        return {"name": text}


class Resources(Config):
    """Resources of one trial, and the number of trials that run at once; `None` means: as the machine allows."""

    concurrency: int | None = Field(None, ge=1)
    cpus_per_trial: float = Field(1.0, ge=0.001)
    gpus_per_trial: Annotated[float, Field(ge=0)] | Literal["auto"] = Field(
        "auto",
        description="auto: as many trials as a GPU's memory holds, measured (not yet run on a GPU); 0 where there is no GPU",
    )

    @field_validator("gpus_per_trial")
    @classmethod
    def _a_share_can_be_counted(cls, share: float | str) -> float | str:
        if isinstance(share, float) and 0 < share < 0.001:  # Ray counts in ten-thousandths
            raise ValueError("must be 0 or at least 0.001")
        return share

    @model_validator(mode="before")
    @classmethod
    def _without_packs(cls, data: Any) -> Any:
        """Recorded sweeps may name `pack`, which was 1 unless somebody asked for packs (docs/log.md)."""
        if not isinstance(data, dict) or "pack" not in data:
            return data
        if data["pack"] != 1:
            raise ValueError(f"pack {data['pack']}: trials no longer train in packs (docs/log.md); leave it out")
        return {key: value for key, value in data.items() if key != "pack"}


class Objective(Config):
    """The metric the sweep improves, by its value at a trial's last report."""

    metric: str = "ssim/coverage"
    direction: Direction = "max"
    require: dict[str, Annotated[float, Field(allow_inf_nan=False)]] | None = Field(
        None, description="bounds of other metrics at the last report: at least, or at most where smaller is better"
    )

    @classmethod
    def from_text(cls, text: str) -> Objective:
        """`METRIC` or `METRIC:min|max`.

        Raises:
            BadInput: an unknown metric or direction, or a metric that has no better end and none was given.
        """
        metric, colon, direction = text.partition(":")
        if metric not in METRIC_DIRECTIONS:
            raise BadInput(f"--objective: unknown metric {metric!r}; {suggest(metric, list(METRIC_DIRECTIONS))}")
        if not colon:
            natural = METRIC_DIRECTIONS[metric]
            if natural is None:
                raise BadInput(f"--objective: {metric} has no better end; write {metric}:min or {metric}:max")
            direction = natural
        return cls.parse({"metric": metric, "direction": direction}, "--objective")

    @model_validator(mode="after")
    def _metrics_are_known(self) -> Objective:
        for metric in (self.metric, *(self.require or {})):
            if metric not in METRIC_DIRECTIONS:
                raise ValueError(f"unknown metric {metric!r}; {suggest(metric, list(METRIC_DIRECTIONS))}")
        return self

    @property
    def sign(self) -> float:
        """The factor on values after which larger is better."""
        return 1.0 if self.direction == "max" else -1.0

    @property
    def required(self) -> str:
        """The requirements, in words; empty if there are none."""
        return " and ".join(f"{metric} {'≤' if _at_most(metric) else '≥'} {b:g}" for metric, b in (self.require or {}).items())

    def missed(self, metrics: Mapping[str, float]) -> list[str]:
        """Requirements that a report does not meet, in words; a metric that the report lacks counts as not met."""
        bounds_missed = []
        for metric, bound in (self.require or {}).items():
            value = metrics.get(metric, math.nan)
            if not (value <= bound if _at_most(metric) else value >= bound):
                shown = "missing" if math.isnan(value) else f"{value:.3g}"
                bounds_missed.append(f"{metric} {shown} (required: at {'most' if _at_most(metric) else 'least'} {bound:g})")
        return bounds_missed


def _at_most(metric: str) -> bool:
    return METRIC_DIRECTIONS[metric] == "min"


class SweepConfig(Config):
    """One sweep, resolved: what `mlruns/sweeps/NAME/sweep.yaml` holds and a resumed run must match."""

    name: str = Field(max_length=100, description="of the folder, the study and the MLflow run")
    preset: str = Field("quick", max_length=100)
    trial: TrialConfig = TrialConfig()
    space: dict[str, Dimension] = Field(default_factory=dict)
    constraints: tuple[str, ...] = Field((), description="comparisons of settings that every trial keeps")
    objective: Objective = Objective()
    second_objective: Objective | None = Field(None, description="the result is then a Pareto front")
    sampler: Literal["tpe", "bohb", "random", "cmaes", "gp", "qmc", "grid"] = "tpe"
    scheduler: SchedulerConfig = SchedulerConfig()
    seed: int = Field(0, ge=0, le=2**31)
    first_trials: tuple[dict[str, Value], ...] = Field((), description="settings to try before any is sampled; may be partial")
    warm_start: str | None = Field(None, description="another sweep, whose best settings are tried first")
    warm_start_trials: int | None = Field(None, ge=1, le=1000, description="how many of them; 5 by default")

    places: Places = Field(Places(), description="where it runs and where its records are; only `address` may change freely")

    # From here on settings may change when a sweep is continued (`MAY_CHANGE`, and resources).
    trials: int = Field(32, ge=1, le=MOST_TRIALS)
    time_budget: float | None = Field(
        None, gt=0, le=_CENTURY, description="minutes of wall time, all runs of the sweep together"
    )
    max_steps: int | None = Field(None, ge=1, le=10**18, description="optimiser steps of all trials together")
    patience: int | None = Field(
        None, ge=1, le=10**6, description="full trials without a better one, after which the sweep ends"
    )
    resources: Resources = Resources()
    retries: int = Field(2, ge=0, le=100, description="how often a trial whose worker died goes on with another one")
    hang_limit: float | None = Field(
        None, ge=0.01, le=_CENTURY, description="minutes without a report until a worker is replaced"
    )
    keep: int = Field(5, ge=1, le=10**9, description="how many of the best generators stay on disk")
    finalists: int = Field(0, ge=0, le=1000, description="how many of the best settings run again at the end, on fresh seeds")
    seeds: int = Field(3, ge=2, le=1000, description="how often each of them runs again")
    finalist_time: float | None = Field(
        None, gt=0, le=_CENTURY, description="minutes of the time budget kept for them; measured at the start"
    )
    log_to: tuple[Literal["tensorboard", "wandb"], ...] = Field((), description="where metrics and pictures go beside MLflow")
    report_every: float | None = Field(
        None, ge=0, le=_CENTURY, description="minutes after which the report is written again while the sweep runs; 0: not then"
    )

    @field_validator("name", "preset")
    @classmethod
    def _name_is_a_folder(cls, name: str) -> str:
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", name):
            raise ValueError("must start with a letter or digit and hold only letters, digits, '.', '_' and '-'")
        return name

    @model_validator(mode="after")
    def _fits_together(self) -> SweepConfig:
        self._check_search()
        self._check_device()
        self._check_finalists()
        self._check_metrics()
        if self.second_objective is not None:
            self._check_two_objectives()
        return self

    def _check_search(self) -> None:
        space = self.search_space
        space.check(self.first_trials)
        if self.sampler == "grid":
            space.check_grid(MOST_TRIALS)
        if self.sampler == "cmaes" and all(dimension.choice is not None or dimension.when for dimension in self.space.values()):
            raise ValueError(
                "sampler cmaes needs a range in the space (log10, uniform or int) without a condition; use tpe, random or grid"
            )
        every, grace = self.trial.report_every, self.first_rung
        if self.scheduler.name != "none" and (grace % every or grace > self.trial.steps):
            raise ValueError(
                f"scheduler.grace ({grace}) must be a multiple of trial.report_every ({every}) "
                f"and at most trial.steps ({self.trial.steps})"
            )
        if self.warm_start_trials and not self.warm_start:
            raise ValueError("warm_start_trials is for a warm start; name the other sweep as well")

    def _check_finalists(self) -> None:
        if self.finalists > self.keep:
            raise ValueError(f"finalists {self.finalists}: only the best {self.keep} keep their generator; raise keep to that")
        if self.finalists and self.second_objective:
            raise ValueError("finalists are for one objective, whose mean can be compared; leave them out with two")
        if self.max_steps is not None and self.finalists and self.max_steps <= self.finalist_steps:
            raise ValueError(
                f"max_steps {self.max_steps} leaves nothing for the search: the repetitions of {self.finalists} finalists "
                f"take {self.finalist_steps}"
            )
        if self.time_budget is not None and self.finalist_time is not None and self.finalist_time >= self.time_budget:
            raise ValueError(f"finalist_time {self.finalist_time:g} must be below time_budget {self.time_budget:g}")

    def _check_metrics(self) -> None:
        """Refuse objectives and requirements that no trial would report."""
        metrics = [objective.metric for objective in self.objectives]
        wanted = [*metrics, *(self.objective.require or {})]
        if self.second_objective and self.second_objective.require:
            raise ValueError("second_objective.require: what is required belongs to the first; write objective.require")
        compared = [metric for metric in wanted if metric in IMAGE_METRICS]
        if self.trial.data_free and compared:
            raise ValueError(
                f"metric {compared[0]} compares with images, and dataset none has none; "
                f"use another, for example {DATA_FREE_OBJECTIVE}"
            )
        if STUDENT_METRIC in wanted and not self.trial.student_steps:
            raise ValueError(f"{STUDENT_METRIC} is measured only when student_steps is above 0, for example {STUDENT_STEPS}")
        always_searched = self.space.keys() - self.search_space.conditional
        for metric in metrics:
            weight = _WEIGHT_OF.get(metric)
            if weight and not getattr(self.trial, weight) and weight not in always_searched:
                raise ValueError(f"objective {metric} is reported only when {weight} is above 0")

    def _check_two_objectives(self) -> None:
        first, second = (objective.metric for objective in self.objectives)
        if first == second:
            raise ValueError(f"both objectives are {first}; name two metrics, or one")
        if self.scheduler.name == "median":
            raise ValueError("scheduler median cannot weigh two objectives; use asha, hyperband or none, or one metric")
        if self.sampler in ("cmaes", "bohb"):
            raise ValueError(f"sampler {self.sampler} takes one objective; for two use tpe, gp, random, qmc or grid")

    def _check_device(self) -> None:
        """Ray gives each trial its share of GPUs, and a trial sees no others."""
        device, share = self.trial.device, self.resources.gpus_per_trial
        if device.startswith("cuda") and share == 0:
            raise ValueError(
                f"device {device} needs a GPU, and gpus_per_trial is 0; leave it out, or set device to cpu or auto"
            )
        if device.partition(":")[2] not in ("", "0"):
            number = device.partition(":")[2]
            raise ValueError(
                f"device {device}: each trial sees the GPU that it is given as the first; set device to cuda, and "
                f"CUDA_VISIBLE_DEVICES={number} in the environment to use that one alone"
            )

    @property
    def objectives(self) -> tuple[Objective, ...]:
        """The objectives of the sweep: one or two."""
        return (self.objective, self.second_objective) if self.second_objective else (self.objective,)

    @property
    def planned(self) -> int:
        """Trials, if no other budget ends the sweep first: a grid may hold fewer than `trials`."""
        if self.sampler != "grid":
            return self.trials
        return min(self.trials, self.search_space.grid_size + self.not_sampled)

    @property
    def search_space(self) -> SearchSpace:
        """The searched settings over the fixed ones, with conditions and constraints."""
        return SearchSpace(self.space, self.constraints, self.trial)

    @property
    def finalist_steps(self) -> int:
        """Optimiser steps of all repetitions of the finalists."""
        return self.finalists * self.seeds * self.trial.steps

    @property
    def borrowed(self) -> int:
        """The largest number of trials that take their settings from a warm start."""
        return (self.warm_start_trials or 5) if self.warm_start else 0

    @property
    def not_sampled(self) -> int:
        """The largest number of trials that begin with given settings: those in `first_trials`, or those of another sweep."""
        return len(self.first_trials) + self.borrowed

    @property
    def dataset(self) -> str:
        """Name of the data set; the MLflow experiment is `gbc-<dataset>`."""
        return self.trial.dataset.name

    @property
    def first_rung(self) -> int:
        """Optimiser steps before a trial may be stopped, in whole reports."""
        return first_rung(self.trial.steps, self.trial.report_every, self.scheduler.grace)

    @property
    def rungs(self) -> list[int]:
        """Optimiser steps at which ASHA or Hyperband compares trials; empty for other schedulers."""
        if self.scheduler.name not in ("asha", "hyperband"):
            return []
        return rungs(self.first_rung, self.scheduler.reduction_factor, self.trial.steps)

    def record(self) -> dict[str, Any]:
        """The settings as plain data for a file, without passwords and without those that are not set."""
        data = self.model_dump(mode="json", exclude_none=True)
        return {key: value for key, value in data.items() if key not in ("places", "log_to", "constraints") or value}

    def differences(self, other: SweepConfig) -> dict[str, tuple[Any, Any]]:
        """Settings that may not change when a sweep is continued: {key: (mine, other's)}."""
        mine, theirs = self._identity(), other._identity()
        missing = object()
        return {
            key: (mine.get(key), theirs.get(key))
            for key in sorted(mine.keys() | theirs.keys())
            if mine.get(key, missing) != theirs.get(key, missing)
        }

    def _identity(self) -> dict[str, Any]:
        identity = self.model_dump(mode="json", exclude={*MAY_CHANGE, "resources"})
        del identity["trial"]["device"]
        for key in ("address", "tracking_uri"):
            del identity["places"][key]
        return {key: value for key, value in flatten(identity).items() if value is not None}
