"""What a figure is: plain plotly data with a title and words on how to read it.

A colour is the name of a CSS variable, `--best`, which the page resolves when it draws: one figure serves light and dark. What
all figures share (fonts, grid, margins) is set there too.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from dashboards.place import Objective

Json = dict[str, Any]

MARKS: Final = {"complete": "circle", "stopped": "circle-open", "failed": "x", "running": "diamond-open"}
"""Symbols of trials by outcome."""
SCALE: Final = [[0, "--scale-low"], [1, "--scale-high"]]
"""Colours of the objective, from worst to best."""
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
    """Whether it takes the full width."""
    least: int = 0
    """Width in CSS pixels below which it is scrolled in its frame."""


def needs_log(values: Iterable[float]) -> bool:
    """Whether numbers are drawn on a log axis: none below 0, and those above span more than one and a half powers of ten."""
    found = np.array([value for value in values if math.isfinite(value)])
    above = found[found > 0]
    if not len(above) or (found < 0).any():
        return False
    return bool(np.log10(above.max() / above.min()) > _DECADES)


def better(objective: Objective) -> str:
    """Which way is better."""
    return "Lower" if objective.sign < 0 else "Higher"


def short(value: float) -> float:
    """With five significant digits: what a figure can show."""
    return float(f"{value:.5g}")


def shorts(values: Iterable[float]) -> list[float | None]:
    """The same of several; None for what is not finite."""
    return [short(value) if math.isfinite(value) else None for value in values]
