"""Scores between those of worthless and of real images."""

from __future__ import annotations

import pytest

from dashboards.evaluation import RecordedEvaluation
from dashboards.figures import scores
from tests.dashboards.small_sweeps import EVALUATION


def test_shares_between_floor_and_ceiling() -> None:
    assert EVALUATION.floor("ssim/coverage") == ("class means", 0.4)
    assert EVALUATION.share("ssim/coverage", 0.5) == pytest.approx(0.5)
    assert EVALUATION.share("kkt/rho", 0.5) is None
    panel = scores.between_floor_and_ceiling(EVALUATION)
    assert [trace["name"] for trace in panel.figure["data"]] == ["black", "class means", "other real images", "generator"]
    assert [shape["y0"] for shape in scores.control_lines(EVALUATION, "ssim/coverage")["shapes"]] == [0.4, 0.6]


@pytest.mark.parametrize("broken", [None, [], {"scores": {}}, {"trial": 1, "scores": {"a": {}}}, {"scores": 3, "trial": 1}])
def test_an_evaluation_that_says_nothing_is_left_out(broken: object) -> None:
    assert RecordedEvaluation.of(broken) is None
