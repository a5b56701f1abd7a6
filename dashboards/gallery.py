"""Samples of the best and the worst trials at several steps, in the quality that a page can carry."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from dashboards.pictures import Pixels, generated_rows, tile_side, to_pixels, webp
from dashboards.sweep import Sweep, Trial

_TRIALS: Final = 5
"""Trials from either end of the ranking."""
_FRAMES: Final = 8
"""Steps of a trial that are shown, the first and the last among them."""
_ROWS: Final = 4
"""Rows of generated images of a sheet that are shown: with ten classes, forty images."""
_MOST_BYTES: Final = 1_200_000
"""Bytes for all frames of a page together."""
_QUALITIES: Final = (75, 50, 30, 15)
"""WebP qualities to try, from hardly any loss to one that still shows which trial is better."""


Sheet = tuple[int, Pixels]
"""A step, and a trial's samples at it."""


@dataclass(frozen=True)
class Frame:
    """A trial's samples at one step, as a `data:` URL."""

    step: int
    url: str


@dataclass(frozen=True)
class PictureCard:
    """One trial of the gallery."""

    trial: Trial
    frames: list[Frame]


def best_and_worst(sweep: Sweep) -> tuple[list[PictureCard], list[PictureCard]]:
    """The best and the worst trials that have pictures, best first in both; no trial is in both."""
    sheets: dict[int, list[Sheet]] = {}

    def take(trials: list[Trial]) -> list[Trial]:
        taken: list[Trial] = []
        for trial in trials:
            if len(taken) < _TRIALS and trial.number not in sheets and (own := _sheets(sweep, trial)):
                sheets[trial.number] = own
                taken.append(trial)
        return taken

    best = take(sweep.ranked)
    # Worst first by value alone: what was stopped early was stopped because it was bad.
    scored = [(sweep.objective.sign * trial.value, trial) for trial in sweep.ranked_all if trial.value is not None]
    worst = take([trial for _, trial in sorted(scored, key=lambda pair: pair[0])])
    frames = encode(sheets)
    cards = [[PictureCard(trial, frames[trial.number]) for trial in chosen] for chosen in (best, worst[::-1])]
    return cards[0], cards[1]


def encode(sheets: Mapping[int, Sequence[Sheet]], most_bytes: int = _MOST_BYTES) -> dict[int, list[Frame]]:
    """Frames by trial, in the best quality with which all of them take at most `most_bytes` bytes, or else in the lowest."""
    encoded: dict[int, list[Frame]] = {}
    for quality in _QUALITIES:
        encoded = {
            number: [Frame(step, webp(sheet, quality=quality)) for step, sheet in steps] for number, steps in sheets.items()
        }
        if sum(len(frame.url) for frames in encoded.values() for frame in frames) <= most_bytes:
            break
    return encoded


def _sheets(sweep: Sweep, trial: Trial) -> list[Sheet]:
    """The first rows of generated images by step; of a trial without step images its last picture."""
    images = list(sweep.runs.step_images(trial.run.id).items()) or [(trial.last_step, "samples.png")]
    picked = np.unique(np.linspace(0, len(images) - 1, min(_FRAMES, len(images))).round().astype(int))
    pictures = [(images[i][0], sweep.runs.picture(trial.run.id, images[i][1])) for i in picked]
    paired = not sweep.settings.data_free
    return [(step, _first_rows(to_pixels(image), paired=paired)) for step, image in pictures if image is not None]


def _first_rows(sheet: Pixels, *, paired: bool) -> Pixels:
    side = tile_side(sheet)
    made = generated_rows(sheet, paired=paired)
    return made if side is None else made[: _ROWS * side]
