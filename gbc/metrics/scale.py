"""The scale of a score: its position between noise and real images."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Self

from gbc import cache as caches
from gbc.data.samples import ImageDataset
from gbc.errors import CorruptFile
from gbc.metrics.scores import CEILING, FLOOR, MEANS, METRICS, controls
from gbc.settings import digest

_SCHEMA: Final = 1  # raise when a change of the metrics or the control sets makes cached scores differ
_FILE: Final = "controls.json"


@dataclass(frozen=True)
class Scale:
    """The scores of the control sets of one data set."""

    scores: Mapping[str, Mapping[str, float]]
    """Scores by set and metric, as `gbc.metrics.scores.controls`; without `CEILING` if there are too few test images."""

    @classmethod
    def obtain(cls, data: ImageDataset, per_class: int, cache: Path) -> Self:
        """The scale for sets of `per_class` images of each class, from `cache`; measured first if it is not there, in seconds.

        Raises:
            BadInput: the cache cannot be written.
            CorruptFile: the cached file is damaged.
        """
        identity = digest({"schema": _SCHEMA, "data": data.digest(), "per_class": per_class, "metrics": sorted(METRICS)})
        folder = cache / f"{data.name}-controls-{identity}"
        caches.fill_once(folder, lambda: {_FILE: json.dumps(controls(data, per_class), indent=2).encode()})
        try:
            scores = {str(name): {key: float(row[key]) for key in METRICS} for name, row in _read(folder).items()}
            return cls({name: scores[name] for name in (FLOOR, MEANS, CEILING) if name in scores or name != CEILING})
        except (OSError, ValueError, TypeError, KeyError, AttributeError):
            raise CorruptFile(f"{folder}: the cached scores are damaged; delete the folder to obtain them again") from None

    def share(self, metric: str, value: float) -> float | None:
        """The score on a scale from uniform noise (0) to other real images (1); None if one of the two is not known."""
        floor, ceiling = self.scores[FLOOR].get(metric), self.scores.get(CEILING, {}).get(metric)
        if floor is None or ceiling is None or ceiling <= floor:
            return None
        return (value - floor) / (ceiling - floor)

    def sentence(self, metric: str, value: float) -> str | None:
        """The position of a score among the controls, in one line; None for a metric that does not compare images."""
        if metric not in self.scores[FLOOR]:
            return None
        floor, means = self.scores[FLOOR][metric], self.scores[MEANS][metric]
        side = "above" if value > means else "not above"
        line = f"{metric} {value:.3f}: {side} {MEANS} ({means:.3f}), "
        share = self.share(metric, value)
        if share is not None and share < 0:
            return line + f"and below {FLOOR} ({floor:.3f}); {CEILING} have {self.scores[CEILING][metric]:.3f}"
        if share is None:
            return line + f"where {FLOOR} has {floor:.3f}; there are too few test images to score real ones"
        return line + f"{share:.0%} of the way from {FLOOR} ({floor:.3f}) to {CEILING} ({self.scores[CEILING][metric]:.3f})"

    def position(self, metric: str, value: float) -> dict[str, Any]:
        """The position as plain data: `value`, the scores of the controls by name, and `share`."""
        controls = {name: row[metric] for name, row in self.scores.items()}
        return {"value": value, **controls, "share": self.share(metric, value)}


def _read(folder: Path) -> dict[str, Any]:
    rows: dict[str, Any] = json.loads((folder / _FILE).read_text())
    return rows
