"""The evaluation of a sweep's best generator between control sets of images."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

CEILING: Final = "other real images"
"""The name in evaluations of the set of images that no generator is expected to beat."""


@dataclass(frozen=True)
class RecordedEvaluation:
    """The scores of a sweep's best generator beside those of worthless and of real images."""

    trial: int
    scores: dict[str, dict[str, float]]
    """By set of images and metric: the generator first, then the controls; real images last, where there are enough."""
    by_class: dict[str, dict[str, dict[str, float]]]
    """By set of images, metric and class."""

    @property
    def generator(self) -> str:
        """The set that is judged."""
        return next(iter(self.scores))

    @property
    def controls(self) -> list[str]:
        """Sets of worthless images: a score that does not beat them says nothing."""
        return [name for name in self.scores if name not in (self.generator, CEILING)]

    def level(self, metric: str) -> float | None:
        """The score of other real images, as good as can be hoped for; None where there are too few of them to tell."""
        return self.scores.get(CEILING, {}).get(metric)

    def floor(self, metric: str) -> tuple[str, float] | None:
        """The control that is best by a metric (larger is better), with its score."""
        scores = [(name, self.scores[name][metric]) for name in self.controls if metric in self.scores[name]]
        return max(scores, key=lambda pair: pair[1], default=None)

    def share(self, metric: str, value: float) -> float | None:
        """Position of a score between the best control (0) and real images (1); None where that is not known."""
        floor, ceiling = self.floor(metric), self.level(metric)
        if floor is None or ceiling is None or ceiling <= floor[1]:
            return None
        return (value - floor[1]) / (ceiling - floor[1])

    @classmethod
    def of(cls, data: Any) -> RecordedEvaluation | None:
        """From `evaluation.json`; None where that is missing or holds no controls."""
        try:
            scores = {str(name): dict(values) for name, values in data["scores"].items()}
            if len(scores) < 2:
                return None
            return cls(int(data["trial"]), scores, dict(data.get("by_class") or {}))
        except (TypeError, KeyError, ValueError, AttributeError):
            return None
