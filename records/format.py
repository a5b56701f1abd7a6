"""Durations and sizes as people read them."""

from __future__ import annotations

import math
from collections.abc import Iterable


def duration(seconds: float) -> str:
    """For people: 45 s, 12 min, 3 h 20 min; – for NaN, an unknown one."""
    if math.isnan(seconds):
        return "–"
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60} min"


def size(count: float) -> str:
    """Bytes, for people."""
    for unit in ("B", "kB", "MB"):
        if count < 1000:
            return f"{count:.0f} {unit}"
        count /= 1000
    return f"{count:.1f} GB"


def listed(values: Iterable[object]) -> str:
    """Steps or names, for people: of many the first three and the last."""
    shown = [str(value) for value in values]
    return ", ".join(shown) if len(shown) <= 6 else f"{', '.join(shown[:3])}, … {shown[-1]}"
