"""The verdict on the best trial, in words."""

from __future__ import annotations

import re

import pytest

from search.policy.verdict import ACTIVE_FLOOR, enumeration, kkt_verdict

OTHERS = {"loss/bn": 0.3, "loss/ce": 0.1, "loss/tv": 0.2}


def test_conditions_that_took_part_are_named_the_strongest_first() -> None:
    shares = {"kkt/active_stationarity": 0.04, "kkt/active_duality": 0.001, "kkt/active_row_space": 0.28}
    verdict = kkt_verdict({"kkt/active": 0.31, **shares, **OTHERS})
    assert verdict is not None and "31%" in verdict and verdict.endswith("(row space, stationarity)")


@pytest.mark.parametrize(
    ("metrics", "message"),
    [
        ({"kkt/active": 0.0, **OTHERS}, r"took no .*kkt/active 0\.00; .* BatchNorm statistics and cross-entropy$"),
        ({"kkt/active": 0.03, "loss/ce": 0.1}, r"next to no .*kkt/active 0\.03; .* cross-entropy$"),
        ({"kkt/active": 0.0}, r"took no .*kkt/active 0\.00$"),
    ],
)
def test_conditions_that_took_no_part_are_a_warning(metrics: dict[str, float], message: str) -> None:
    assert re.search(message, kkt_verdict(metrics) or "")


def test_the_floor_itself_counts_as_part() -> None:
    assert "made 5%" in str(kkt_verdict({"kkt/active": ACTIVE_FLOOR, "kkt/active_closed": ACTIVE_FLOOR}))


def test_nothing_is_said_where_there_is_no_report() -> None:
    assert kkt_verdict({}) is None


def test_enumerations_of_names() -> None:
    assert [enumeration(names) for names in ([], ["a"], ["a", "b"], ["a", "b", "c"])] == ["", "a", "a and b", "a, b and c"]
