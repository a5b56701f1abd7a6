"""The order of points with two objectives: non-dominated sorting, and crowding within a front (Deb et al. 2002)."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections import Counter
from collections.abc import Iterable, Sequence

Point = tuple[float, float]
"""Two objectives, finite or both −∞; larger is better in each."""


def count_before(point: Point, others: Iterable[Point]) -> int:
    """Count those of `others` that come before `point`: in an earlier front, or in the same one with more room around them."""
    counts = Counter([point, *others])
    before = 0
    for front in fronts(counts):
        if point in front:
            room = crowding_distances(front)
            return before + sum(counts[other] for other in front if room[other] > room[point])
        before += sum(counts[other] for other in front)
    raise AssertionError("the point is among those that were sorted")


def fronts(points: Iterable[Point]) -> list[list[Point]]:
    """Different points by front, the best front first: no point left is as good as one of it and better in one objective."""
    sorted_fronts, lasts = list[list[Point]](), list[float]()
    for point in sorted(set(points), reverse=True):
        # Earlier points are as good in the first objective. Within a front the second one rises, so its last point decides;
        # from front to front that of the last points falls, so that halving finds the first without a better point.
        index = bisect_right(lasts, -point[1])
        if index == len(sorted_fronts):
            sorted_fronts.append([])
            lasts.append(0.0)
        sorted_fronts[index].append(point)
        lasts[index] = -point[1]
    return sorted_fronts


def crowding_distances(front: Sequence[Point]) -> dict[Point, float]:
    """The crowding distance of each point of a front, which is in order; infinite at its two ends."""
    distances = dict.fromkeys(front, math.inf)
    width, height = front[0][0] - front[-1][0], front[-1][1] - front[0][1]
    for before, point, after in zip(front, front[1:], front[2:], strict=False):
        distances[point] = (before[0] - after[0]) / width + (after[1] - before[1]) / height
    return distances
