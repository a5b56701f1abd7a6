"""The position of a score between worthless and real images."""

from __future__ import annotations

from pathlib import Path

import pytest

from gbc.data.datasets import ImageDataset
from gbc.errors import CorruptFile
from gbc.metrics import scores
from gbc.metrics.scale import Scale
from gbc.metrics.scores import CEILING, FLOOR, MEANS
from tests.support import missing

BY_HAND = Scale({FLOOR: {"ssim/coverage": 0.1}, MEANS: {"ssim/coverage": 0.4}, CEILING: {"ssim/coverage": 0.6}})


def test_a_score_is_placed_by_hand() -> None:
    above = "above class means (0.400), 80% of the way from uniform noise (0.100) to other real images (0.600)"  # golden
    assert BY_HAND.sentence("ssim/coverage", 0.5) == f"ssim/coverage 0.500: {above}"
    assert not missing(["ssim/coverage 0.350: not ", "50%"], BY_HAND.sentence("ssim/coverage", 0.35))


def test_a_score_worse_than_noise_has_no_negative_share() -> None:
    sentence = str(BY_HAND.sentence("ssim/coverage", 0.05))
    assert not missing(["not above", "below uniform noise (0.100)", "0.600"], sentence) and "%" not in sentence


def test_the_same_as_plain_data() -> None:
    position = BY_HAND.position("ssim/coverage", 0.5)
    assert position == {"value": 0.5, FLOOR: 0.1, MEANS: 0.4, CEILING: 0.6, "share": pytest.approx(0.8)}


def test_without_a_ceiling_there_is_no_share() -> None:
    low = Scale({name: row for name, row in BY_HAND.scores.items() if name != CEILING})
    assert low.share("ssim/coverage", 0.5) is None and low.position("ssim/coverage", 0.5)["share"] is None
    sentence = str(low.sentence("ssim/coverage", 0.5))
    assert not missing([MEANS, "0.400", FLOOR, "0.100"], sentence) and "%" not in sentence


def test_what_does_not_judge_images_has_no_scale() -> None:
    assert BY_HAND.sentence("kkt/rho", 0.9) is None


def test_controls_are_measured_once(images: ImageDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = Scale.obtain(images, 5, tmp_path)
    assert list(first.scores) == [FLOOR, MEANS, CEILING]
    whole = scores.controls(images, 5)
    assert first.scores == {name: whole[name] for name in first.scores}
    monkeypatch.setattr("gbc.metrics.scale.controls", None)  # nothing is measured again
    assert Scale.obtain(images, 5, tmp_path) == first
    (folder,) = tmp_path.glob("fashion_mnist-controls-*")
    (folder / "controls.json").write_text("[]")
    with pytest.raises(CorruptFile, match="delete"):
        Scale.obtain(images, 5, tmp_path)
