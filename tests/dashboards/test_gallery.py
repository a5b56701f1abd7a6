"""The gallery has both ends of the ranking, in the quality that a page can carry."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from dashboards import gallery
from dashboards.sweep import read_sweep


def test_the_gallery_shows_either_end_once(recorded: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(recorded)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    sweep = read_sweep("tiny")
    best, worst = gallery.best_and_worst(sweep)
    assert [card.trial.number for card in best] == [trial.number for trial in sweep.ranked[:5]]
    values = [card.trial.value for card in worst if card.trial.value is not None]
    assert values == sorted(values, reverse=True) and values[-1] == min(t.value for t in sweep.trials if t.value is not None)
    assert not {card.trial.number for card in best} & {card.trial.number for card in worst}
    for card in (*best, *worst):
        assert [frame.step for frame in card.frames] == list(card.trial.values)


def test_a_gallery_fits_its_room_in_the_best_quality_that_does() -> None:
    noise = np.random.default_rng(0).integers(0, 255, (60, 300), np.uint8)
    sheets = {3: [(10, noise), (20, noise)], 5: [(10, noise)]}

    def size(room: int) -> int:
        encoded = gallery.encode(sheets, room)
        assert {number: [frame.step for frame in frames] for number, frames in encoded.items()} == {3: [10, 20], 5: [10]}
        return sum(len(frame.url) for frames in encoded.values() for frame in frames)

    best, lowest = size(10**9), size(1)
    assert lowest < size(best - 1) < best
    assert size(best) == best
