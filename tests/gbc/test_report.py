from __future__ import annotations

import math
import subprocess
import sys

import pandas as pd
import pytest

from gbc.errors import BadInput
from gbc.report import METRIC_DIRECTIONS, free_score, rank_correlation


def test_the_data_free_score_by_hand() -> None:
    assert free_score(1.0, 0.0, 0.0) == 1.0
    assert free_score(0.9, 0.5, 0.2) == pytest.approx(0.9 / 1.5 / 1.2)
    assert free_score(0.9, None, None) == 0.45  # no BatchNorm: nothing to miss; no multipliers: nothing explained
    assert free_score(1.0, 0.0, math.inf) == 0.0


def test_the_data_free_score_is_better_where_each_part_is() -> None:
    assert METRIC_DIRECTIONS["free/score"] == "max"
    assert free_score(0.9, 0.1, 0.9) > free_score(0.8, 0.1, 0.9)
    assert free_score(0.9, 0.1, 0.9) > free_score(0.9, 0.2, 0.9)
    assert free_score(0.9, 0.1, 0.9) > free_score(0.9, 0.1, 1.0)


def test_rank_correlation_by_hand() -> None:
    frame = pd.DataFrame({"a": [1.0, 2.0, 3.0, 4.0], "b": [1.0, 10.0, 100.0, 1e6], "c": [4.0, 3.0, 2.0, 1.0]})
    assert rank_correlation(frame, "a", "b") == pytest.approx(1)  # any increasing relation
    assert rank_correlation(frame, "a", "c") == pytest.approx(-1)
    frame["d"] = [2.0, 1.0, 4.0, 3.0]
    assert rank_correlation(frame, "a", "d") == pytest.approx(1 - 6 * 4 / (4 * 15))  # 1 − 6 Σd² / (n (n² − 1))


def test_rank_correlation_is_spearmans_with_ties() -> None:
    from scipy.stats import spearmanr

    frame = pd.DataFrame({"a": [1, 2, 2, 3, 5, 5], "b": [0.3, 0.1, 0.1, 0.9, 0.2, 0.4]})
    assert rank_correlation(frame, "a", "b") == pytest.approx(spearmanr(frame["a"], frame["b"]).statistic)


def test_rank_correlation_leaves_out_trials_without_a_value() -> None:
    frame = pd.DataFrame({"a": [1.0, 2.0, 3.0, None], "b": [1.0, 2.0, 3.0, 0.0]})
    assert rank_correlation(frame, "a", "b") == pytest.approx(1)
    assert math.isnan(rank_correlation(frame[:1], "a", "b"))
    assert math.isnan(rank_correlation(frame.assign(b=7.0), "a", "b"))
    with pytest.raises(BadInput, match=r"'tstr' .* a, b"):
        rank_correlation(frame, "a", "tstr")


def test_metrics_can_be_named_without_torch_or_pandas() -> None:
    program = 'import sys, gbc.report; assert not {"torch", "pandas"} & set(sys.modules)'
    subprocess.run([sys.executable, "-c", program], check=True)
