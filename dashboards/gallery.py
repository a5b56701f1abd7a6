"""The best and the worst trials' samples at several steps, for eyes to rank; no more of it than a page can carry."""

from __future__ import annotations

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
    best, worst = list[Trial](), list[Trial]()
    sheets: dict[int, list[tuple[int, Pixels]]] = {}

    def take(trials: list[Trial], into: list[Trial]) -> None:
        for trial in trials:
            if len(into) == _EACH:
                return
            if trial.number not in sheets and (found := _sheets(sweep, trial)):
                sheets[trial.number] = found
                into.append(trial)

    take(sweep.ranked, best)
    scored = [trial for trial in sweep.ranked_all if trial.value is not None and trial not in best]
    # Worst first by value alone: what was stopped early was stopped because it was bad.
    scored.sort(key=lambda trial: sweep.objective.sign * (trial.value or 0.0))
    take(scored, worst)
    quality = next((q for q in _QUALITIES if _size(sheets, q) <= _ROOM), _QUALITIES[-1])

    def card(trial: Trial) -> Card:
        return Card(trial, [Frame(step, webp(sheet, quality=quality)) for step, sheet in sheets[trial.number]])

    return [card(trial) for trial in best], [card(trial) for trial in reversed(worst)]


def _size(sheets: dict[int, list[tuple[int, Pixels]]], quality: int) -> int:
    """Bytes of all frames; of each trial the last one stands for the others, for they are about as large."""
    return sum(len(found) * len(webp(found[-1][1], quality=quality)) for found in sheets.values())


def _sheets(sweep: Sweep, trial: Trial) -> list[tuple[int, Pixels]]:
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
