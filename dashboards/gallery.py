"""The best and the worst trials' samples at several steps, for eyes to rank; no more of it than a page can carry."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from dashboards.pictures import Pixels, cell, generated, pixels, webp
from dashboards.records import Sweep, Trial

_EACH: Final = 5
"""Trials from either end of the ranking."""
_FRAMES: Final = 8
"""Steps of a trial that are shown, the first and the last among them."""
_ROWS: Final = 4
"""Rows of generated images of a sheet that are shown: with ten classes, forty images."""
_ROOM: Final = 1_200_000
"""Bytes for all frames of a page together."""
_QUALITIES: Final = (75, 50, 30, 15)
"""Of WebP, from hardly any loss to what still shows which trial is better."""


Sheet = tuple[int, Pixels]
"""A step, and a trial's samples at it."""


@dataclass(frozen=True)
class Frame:
    """A trial's samples at one step, as a `data:` URL."""

    step: int
    url: str


@dataclass(frozen=True)
class Card:
    """One trial of the gallery."""

    trial: Trial
    frames: list[Frame]


def cards(sweep: Sweep) -> tuple[list[Card], list[Card]]:
    """The best and the worst trials that have pictures, best first in both; no trial is in both."""
    sheets: dict[int, list[Sheet]] = {}

    def take(trials: list[Trial]) -> list[Trial]:
        taken: list[Trial] = []
        for trial in trials:
            if len(taken) < _EACH and trial.number not in sheets and (found := _sheets(sweep, trial)):
                sheets[trial.number] = found
                taken.append(trial)
        return taken

    best = take(sweep.ranked)
    # Worst first by value alone: what was stopped early was stopped because it was bad.
    scored = [(sweep.objective.sign * trial.value, trial) for trial in sweep.ranked_all if trial.value is not None]
    worst = take([trial for _, trial in sorted(scored, key=lambda pair: pair[0])])
    frames = encoded(sheets)
    return [Card(trial, frames[trial.number]) for trial in best], [Card(trial, frames[trial.number]) for trial in worst[::-1]]


def encoded(sheets: Mapping[int, Sequence[Sheet]], room: int = _ROOM) -> dict[int, list[Frame]]:
    """Frames by trial, in the best quality with which all of them take at most `room` bytes, or else in the lowest."""
    found: dict[int, list[Frame]] = {}
    for quality in _QUALITIES:
        found = {
            number: [Frame(step, webp(sheet, quality=quality)) for step, sheet in steps] for number, steps in sheets.items()
        }
        if sum(len(frame.url) for frames in found.values() for frame in frames) <= room:
            break
    return found


def _sheets(sweep: Sweep, trial: Trial) -> list[Sheet]:
    """The first rows of generated images by step; of a trial without step images its last picture."""
    if not trial.logged.run:
        return []
    images = sweep.store.step_images(trial.logged.run)
    if images:
        picked = np.unique(np.linspace(0, len(images) - 1, min(_FRAMES, len(images))).round().astype(int))
        found = [(images[i].step, sweep.store.picture(trial.logged.run, images[i].path)) for i in picked]
    else:
        found = [(trial.last_step, sweep.store.picture(trial.logged.run))]
    return [(step, _top(pixels(image))) for step, image in found if image is not None]


def _top(sheet: Pixels) -> Pixels:
    side = cell(sheet)
    made = generated(sheet)
    return made if side is None else made[: _ROWS * side]
