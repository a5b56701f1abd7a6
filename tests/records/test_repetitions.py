"""Means over seeds, against scipy's own test and cases counted by hand."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pytest
from scipy.stats import ttest_ind

from records.repetitions import Repeated, difference, repeated, verdict
from records.trial import TrialRecord
from tests.support import missing


def trial(number: int, value: float, repeats: int | None = None, state: str = "complete", **more: object) -> TrialRecord:
    return TrialRecord(number, {}, state, {12: value}, repeats=repeats, **more)  # type: ignore[arg-type]


def of(number: int, values: Sequence[float]) -> Repeated:
    return Repeated(number, tuple(values), 0, 0)


def test_the_interval_is_welchs() -> None:
    first, second = [0.51, 0.52, 0.55, 0.49], [0.47, 0.50, 0.46]
    interval = difference(of(0, first), of(1, second))
    known = ttest_ind(first, second, equal_var=False).confidence_interval(0.95)
    assert (interval.low, interval.high) == pytest.approx((known.low, known.high), abs=1e-12)
    assert interval.value == pytest.approx(np.mean(first) - np.mean(second), abs=1e-12)
    assert of(0, first).deviation == pytest.approx(np.std(first, ddof=1), abs=1e-12)


def test_two_settings_can_be_told_apart_or_not() -> None:
    assert difference(of(0, [0.5, 0.51]), of(1, [0.1, 0.11])).distinct
    assert not difference(of(0, [0.5, 0.3]), of(1, [0.45, 0.25])).distinct
    assert difference(of(0, [0.5, 0.5]), of(1, [0.4, 0.4])).distinct  # no noise at all
    assert not difference(of(0, [0.5, 0.5]), of(1, [0.5, 0.5])).distinct


def test_a_setting_is_its_fresh_seeds_alone() -> None:
    trials = [
        trial(0, 0.9), trial(1, 0.8),
        trial(2, 0.5, 0), trial(3, 0.6, 1), trial(4, 0.3, 0), trial(5, 0.7, 1, missed=("x",)),
        trial(6, 0.1, 0, "failed"), trial(7, 0.1, 1, "running"), trial(8, math.nan, 0), trial(9, 0.2, 7),
    ]  # fmt: skip
    first, second = repeated(trials, 1.0)
    assert (first.trial, first.values, first.lost, first.missed) == (1, (0.6, 0.7), 0, 1)
    assert (second.trial, second.values, second.lost) == (0, (0.5, 0.3), 2)
    assert [repeated_trial.trial for repeated_trial in repeated(trials, -1.0)] == [0, 1]


def test_the_verdict_names_both_and_says_whether_seeds_explain_it() -> None:
    assert verdict("ssim/coverage", []) == []
    (alone,) = verdict("ssim/coverage", [of(3, [0.5, 0.6])])
    assert missing(["ssim/coverage", "trial 3", "0.550 ± 0.071", "2 seeds"], alone) == []
    _, apart = verdict("m", [of(3, [0.5, 0.51]), of(1, [0.1, 0.11])])
    _, same = verdict("m", [of(3, [0.5, 0.3]), of(1, [0.45, 0.25])])
    assert missing(["trial 3", "trial 1", "0.400", "95%"], apart) == [] and "cannot" not in apart
    assert "cannot be told apart" in same
