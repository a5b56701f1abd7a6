"""What a trainer says about itself. Nothing here needs torch, so that commands can name metrics at once."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, Literal

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

Direction = Literal["min", "max"]

# Every metric a trial reports, and which way is better; None where neither is.
METRIC_DIRECTIONS: Final[dict[str, Direction | None]] = {
    "loss/total": "min",
    "loss/stationarity": "min",
    "loss/duality": "min",
    "loss/tv": "min",
    "loss/bn": "min",
    "loss/ce": "min",
    "loss/closed": "min",
    "loss/diversity": "min",
    "kkt/rho": "min",
    "kkt/alpha": None,
    "kkt/mu_mean": None,
    "kkt/mu_active": None,
    "margin/q05": "max",
    "margin/q50": "max",
    "margin/q95": "max",
    "classifier/accuracy": "max",
    "ssim/nearest": "max",
    "ssim/coverage": "max",
    "tstr/1nn": "max",
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
