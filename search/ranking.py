"""Which trials are better: by one objective, or by two, where neither need be better (a Pareto front)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from search.config import SweepConfig

if TYPE_CHECKING:
    from search.ledger import Entry


def goodness(config: SweepConfig, entry: Entry) -> tuple[float, ...]:
    """Each objective of a full trial, turned so that larger is better."""
    signs = [1.0 if objective.direction == "max" else -1.0 for objective in config.objectives]
    return tuple(sign * value for sign, value in zip(signs, entry.objectives, strict=False))


def full_trials(entries: Sequence[Entry]) -> list[Entry]:
    """Trials that reached the full horizon."""
    return [entry for entry in entries if entry.state == "complete" and entry.value is not None]


def best(config: SweepConfig, entries: Sequence[Entry]) -> Entry | None:
    """The full trial that is best by the first objective, by the second among equals. It lies on the front."""
    return max(full_trials(entries), key=lambda entry: goodness(config, entry), default=None)


def front(config: SweepConfig, entries: Sequence[Entry]) -> list[Entry]:
    """Full trials that no other beats: none is as good in each objective and better in one. The best comes first."""
    ranked = sorted(full_trials(entries), key=lambda entry: goodness(config, entry), reverse=True)
    scores = [goodness(config, entry) for entry in ranked]
    return [entry for entry, score in zip(ranked, scores, strict=True) if not any(_beats(other, score) for other in scores)]


def trials_without_gain(config: SweepConfig, entries: Sequence[Entry]) -> int:
    """Full trials since the last that none before it equalled, in the order in which they ended."""
    count, leaders = 0, list[tuple[float, ...]]()
    for entry in sorted(full_trials(entries), key=lambda entry: entry.ended or 0.0):
        score = goodness(config, entry)
        if any(_reaches(leader, score) for leader in leaders):
            count += 1
        else:
            count = 0
            leaders = [leader for leader in leaders if not _reaches(score, leader)] + [score]
    return count


def _reaches(one: tuple[float, ...], other: tuple[float, ...]) -> bool:
    return all(mine >= its for mine, its in zip(one, other, strict=True))


def _beats(one: tuple[float, ...], other: tuple[float, ...]) -> bool:
    return one != other and _reaches(one, other)
