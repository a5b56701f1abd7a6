"""What a trainer says about itself. Nothing here needs torch, so that commands can name metrics at once."""

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
"""The metric that trains a network at each report (`gbc.metrics.student`): measured only where `student_steps` asks for it."""
STUDENT_STEPS: Final = 50
"""Of that network, where a sweep improves the metric and names no number."""

# Every metric a trial reports, and which way is better; None where neither is.
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


@dataclass(frozen=True)
class Report:
    """State of a training run after `step` optimiser steps."""

    step: int
    metrics: Mapping[str, float]
    images: NDArray[np.uint8] | None = field(default=None, repr=False)
    """The picture of section 5.2, [height, width] grey or [height, width, 3]: odd rows generated, even rows nearest."""


def free_score(confidence: float, bn: float | None, rho: float | None) -> float:
    """One number in [0, 1] for a search that has no data, larger is better: confidence / ((1 + bn)(1 + ρ)).

    `confidence` is the mean softmax probability of the label, `bn` the BatchNorm distance (None, and then 0: the classifier
    has no such layer), `rho` the relative stationarity residual ρ (None, and then 1: without multipliers the samples
    explain nothing). ρ counts least on purpose: it moves between 1 and the little less that real images reach, and a
    factor of 1 − ρ would reward multipliers that fit the residual and samples that do not look like anything.
    """
    return confidence / ((1 + (0.0 if bn is None else bn)) * (1 + (1.0 if rho is None else rho)))


def rank_correlation(frame: pd.DataFrame, metric: str, target: str) -> float:
    """Spearman's rank correlation of two columns of `frame` (a row a trial): how well `metric` ranks by `target`.

    1: the same order; −1: the reverse. Rows that lack one of the two are left out; NaN for fewer than two rows or
    a column that is constant. For example `rank_correlation(frame, "free/score", "tstr/1nn")`.

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
