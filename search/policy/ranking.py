"""Which trials are better: by one objective, or by two, where neither need be better (a Pareto front).

A trial that meets what the sweep requires is better than any that does not.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from search.spec.config import SweepConfig

if TYPE_CHECKING:
    from records.trial import Entry


Standing = tuple[bool, tuple[float, ...]]
"""Whether a trial meets what is required, and its objectives; larger is better."""


def goodness(config: SweepConfig, entry: Entry) -> tuple[float, ...]:
    """Each objective of a full trial, turned so that larger is better."""
    signs = [1.0 if objective.direction == "max" else -1.0 for objective in config.objectives]
    return tuple(sign * value for sign, value in zip(signs, entry.objectives, strict=True))


def standing(config: SweepConfig, entry: Entry) -> Standing:
    """How good a full trial is."""
    return not entry.missed, goodness(config, entry)


def full_trials(config: SweepConfig, entries: Sequence[Entry]) -> list[Entry]:
    """Trials that reached the full horizon, with a value of each objective."""
    return [entry for entry in entries if entry.state == "complete" and len(entry.objectives) == len(config.objectives)]


def best(config: SweepConfig, entries: Sequence[Entry]) -> Entry | None:
    """The full trial that is best by the first objective, by the second among equals. It lies on the front.

    Where none meets what is required, it is the best of all.
    """
    return max(full_trials(config, entries), key=lambda entry: standing(config, entry), default=None)


def front(config: SweepConfig, entries: Sequence[Entry]) -> list[Entry]:
    """Full trials that no other beats: none is as good in each objective and better in one. The best comes first."""
    ranked = sorted(full_trials(config, entries), key=lambda entry: standing(config, entry), reverse=True)
    scores = [standing(config, entry) for entry in ranked]
    return [entry for entry, score in zip(ranked, scores, strict=True) if not any(_beats(other, score) for other in scores)]


def ranked(config: SweepConfig, entries: Sequence[Entry]) -> list[Entry]:
    """Full trials, best first: the front, then the others, both by the first objective; the earlier among equals."""
    leaders = {entry.number for entry in front(config, entries)}

    def key(entry: Entry) -> tuple[bool, Standing]:
        return entry.number in leaders, standing(config, entry)

    return sorted(full_trials(config, entries), key=key, reverse=True)


def worth_keeping(config: SweepConfig, entries: Sequence[Entry]) -> list[Entry]:
    """The `keep` best, and with two objectives the whole front however long it is: each of it is a result."""
    count = config.keep
    if config.second_objective is not None:
        count = max(count, len(front(config, entries)))
    return ranked(config, entries)[:count]


def results(config: SweepConfig, entries: Sequence[Entry]) -> list[Entry]:
    """What a sweep is run for: the best trial, with two objectives the front. The best comes first."""
    found = front(config, entries)
    return found if config.second_objective is not None else found[:1]


def trials_without_gain(config: SweepConfig, entries: Sequence[Entry]) -> int:
    """Full trials since the last that none before it equalled, in the order in which they ended."""
    count, leaders = 0, list[Standing]()
    for entry in sorted(full_trials(config, entries), key=lambda entry: entry.ended or 0.0):
        score = standing(config, entry)
        if any(_reaches(leader, score) for leader in leaders):
            count += 1
        else:
            count = 0
            leaders = [leader for leader in leaders if not _reaches(score, leader)] + [score]
    return count


def _reaches(one: Standing, other: Standing) -> bool:
    if one[0] != other[0]:
        return one[0]
    return all(mine >= its for mine, its in zip(one[1], other[1], strict=True))


def _beats(one: Standing, other: Standing) -> bool:
    return one != other and _reaches(one, other)
