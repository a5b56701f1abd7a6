"""The order of points with two objectives."""

from __future__ import annotations

import math
import random

import pytest

from search.policy.fronts import Point, count_before, crowding_distances, fronts

WORST = (-math.inf, -math.inf)


def fronts_by_definition(points: list[Point]) -> list[list[Point]]:
    """Fronts by their definition."""
    left, layers = set(points), []
    while left:
        front = [
            point
            for point in left
            if not any(other != point and other[0] >= point[0] and other[1] >= point[1] for other in left)
        ]
        layers.append(sorted(front, reverse=True))
        left -= set(front)
    return layers


@pytest.mark.parametrize("seed", range(20))
def test_fronts_are_what_their_definition_says(seed: int) -> None:
    rng = random.Random(seed)
    points = [(float(rng.randint(0, 6)), float(rng.randint(0, 6))) for _ in range(25)]
    assert fronts(points) == fronts_by_definition(points)


def test_crowding_by_hand() -> None:
    """Sides of 4 and 8. The neighbours of (2, 4) are 3 and 6 apart, those of (4, 2) 3 and 4."""
    distances = crowding_distances([(5.0, 0.0), (4.0, 2.0), (2.0, 4.0), (1.0, 8.0)])
    assert distances == {(5.0, 0.0): math.inf, (4.0, 2.0): 3 / 4 + 4 / 8, (2.0, 4.0): 3 / 4 + 6 / 8, (1.0, 8.0): math.inf}


def test_earlier_fronts_come_before_then_the_ends_then_those_with_more_room() -> None:
    front = [(5.0, 0.0), (4.0, 2.0), (2.0, 4.0), (1.0, 8.0)]
    assert [count_before(point, [other for other in front if other != point]) for point in front] == [0, 3, 2, 0]
    assert count_before((1.0, 1.0), [*front, (0.0, 0.0)]) == 4
    assert count_before((6.0, 9.0), front) == 0
    assert count_before(WORST, [(0.0, 0.0), WORST]) == 1  # equals share their place
    assert count_before((0.0, 0.0), [WORST, (0.0, 0.0)]) == 0
    assert count_before((0.0, 0.0), [(1.0, 1.0), (1.0, 1.0)]) == 2
