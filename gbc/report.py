"""Reports of a trainer and their metrics. Nothing here needs torch, so commands can list metrics without a delay."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, Literal

from gbc.config import LOSS_WEIGHTS
from gbc.errors import BadInput

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
    from numpy.typing import NDArray

Direction = Literal["min", "max"]

STUDENT_METRIC: Final = "tstr/cnn"
"""Metric that trains a network at each report (`gbc.metrics.student`). It is measured only if `student_steps` is above 0."""
STUDENT_STEPS: Final = 50
"""Training steps of that network if a sweep optimises the metric and does not set `student_steps`."""
IMAGE_METRICS: Final = ("ssim/nearest", "ssim/coverage", "tstr/1nn", STUDENT_METRIC)
"""Metrics that compare samples with real images; a trial without images does not report them."""
DATA_FREE_OBJECTIVE: Final = "free/score"
"""Metric that a sweep without images optimises unless it is told otherwise."""

# Every metric that a trial reports, and its better direction. None: neither direction is better.
METRIC_DIRECTIONS: Final[dict[str, Direction | None]] = {
    "loss/total": "min",
    **{f"loss/{name}": "min" for name in LOSS_WEIGHTS},
    "kkt/rho": "min",
    "kkt/alpha": None,
    "kkt/mu_mean": None,
    "kkt/mu_active": None,
    "kkt/active": None,
    "kkt/active_stationarity": None,
    "kkt/active_duality": None,
    "kkt/active_closed": None,
    "kkt/active_reconstruction": None,
    "kkt/active_row_space": None,
    "margin/q05": "max",
    "margin/q50": "max",
    "margin/q95": "max",
    "classifier/accuracy": "max",
    "free/rho": "min",
    "free/bn": "min",
    "free/confidence": "max",
    "free/score": "max",
    "ssim/nearest": "max",
    "ssim/coverage": "max",
    "tstr/1nn": "max",
    STUDENT_METRIC: "max",
    "grad/generator": None,
    "grad/multipliers": None,
    "time/steps_per_s": "max",
}

DISTILLATION_DIRECTIONS: Final[dict[str, Direction]] = {"distil/teacher": "max", "distil/student": "max"}
"""Metrics of the full evaluation that need the classifiers, and their better direction. Trials do not report them."""


@dataclass(frozen=True)
class Report:
    """State of a training run after `step` optimiser steps."""

    step: int
    metrics: Mapping[str, float]
    images: NDArray[np.uint8] | None = field(default=None, repr=False)
    """Picture as in section 5.2, [height, width] or [height, width, 3]: odd rows generated, even rows nearest real images.

    Without real images all rows are generated.
    """


def free_score(confidence: float, bn: float | None, rho: float | None) -> float:
    """Score in [0, 1] for a search without data, larger is better: confidence / ((1 + bn)(1 + ρ)).

    `confidence` is the mean softmax probability of the label. `bn` is the BatchNorm distance; None, for a classifier without
    BatchNorm, counts as 0. `rho` is the relative stationarity residual ρ; None, for a trial without multipliers, counts as 1.
    ρ has the smallest influence on purpose: even real images reach only a little less than 1. A factor of 1 − ρ would reward
    multipliers that fit the residual with samples that do not look like anything.
    """
    return confidence / ((1 + (0.0 if bn is None else bn)) * (1 + (1.0 if rho is None else rho)))


def rank_correlation(frame: pd.DataFrame, metric: str, target: str) -> float:
    """Spearman's rank correlation of two columns of `frame`, which has one row for each trial.

    1 means that `metric` ranks the trials as `target` does, −1 the reverse order. Rows that lack one of the two are left out.
    The result is NaN for fewer than two rows or a constant column. For example
    `rank_correlation(frame, "free/score", "tstr/1nn")`.

    Raises:
        BadInput: there is no such column.
    """
    for column in (metric, target):
        if column not in frame:
            raise BadInput(f"no column {column!r} in the frame; it has {', '.join(map(str, frame.columns))}")
    pairs = frame[[metric, target]].dropna()
    ranks = pairs.rank()  # ties share their mean rank
    if (ranks.nunique() < 2).any():
        return float("nan")
    return float(ranks[metric].corr(ranks[target]))
