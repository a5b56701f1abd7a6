"""The form of a figure: plain plotly data with a title and a caption.

A colour is the name of a CSS variable, `--best`, which the page resolves when it draws: one figure serves light and dark. What
all figures share (fonts, grid, margins) is set there too.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from dashboards.settings import RecordedObjective

Json = dict[str, Any]

MARKS: Final = {"complete": "circle", "stopped": "circle-open", "failed": "x", "running": "diamond-open"}
"""Symbols of trials by state."""
SCALE: Final = [[0, "--scale-low"], [1, "--scale-high"]]
"""Colours of the objective, from worst to best."""
_FEW: Final = 8
"""Up to this number plotly would put ticks between whole numbers."""
_DECADES: Final = 1.5
"""A quantity that spans more powers of ten is drawn on a log axis."""


@dataclass(frozen=True)
class Panel:
    """One figure with its title and how to read it."""

    title: str
    caption: str
    figure: Json
    """plotly's `data` and `layout`; or `curve`, the name of a metric whose curves the page draws."""
    height: int = 320
    """In CSS pixels."""
    wide: bool = False
    """True if it takes the full width."""
    min_width: int = 0
    """Width in CSS pixels below which it is scrolled in its frame."""


def needs_log(values: Iterable[float]) -> bool:
    """True if these numbers suit a log axis: none is below 0; the positive ones span more than one and a half powers of ten."""
    finite = np.array([value for value in values if math.isfinite(value)])
    above = finite[finite > 0]
    if not len(above) or (finite < 0).any():
        return False
    return bool(np.log10(above.max() / above.min()) > _DECADES)


def whole_axis(title: str, largest: int) -> Json:
    """An axis of whole numbers from 0 to about `largest`, with ticks at whole numbers alone."""
    return {"title": {"text": title}} | ({"dtick": 1} if largest <= _FEW else {})


def better_direction(objective: RecordedObjective) -> str:
    """`Lower` or `Higher`: the better end of a metric."""
    return "Lower" if objective.sign < 0 else "Higher"
