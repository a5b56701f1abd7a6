"""Words and marks that the parts of a report share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from dashboards.collapse import Sign
from dashboards.page import Html, element, paragraph
from dashboards.records import OUTCOMES, Sweep, Trial

Signs = Mapping[int, Sequence[Sign]]
"""Of collapse, by trial number."""

OUTCOME_WORDS: Final = {"complete": "complete", "stopped": "stopped early", "failed": "failed", "running": "open"}
"""The outcomes, as people are told."""


def duration(seconds: float) -> str:
    """For people: `45 s`, `12 min`, `3.2 h`."""
    if seconds != seconds:
        return "–"
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def badge(trial: Trial) -> Html:
    """The outcome of a trial, in its colour."""
    return element("span", OUTCOME_WORDS[trial.outcome], class_=f"badge {trial.outcome}")


def legend(sweep: Sweep, strongest: str) -> Html:
    """What the colours of outcomes mean; `strongest` is the name of the one that stands out."""
    badges = [element("span", OUTCOME_WORDS[o], class_=f"badge {o}") for o in OUTCOMES if sweep.of(o)]
    return paragraph(*[part for one in badges for part in (one, " ")], element("span", strongest, class_="badge best"))


def in_words(signs: Sequence[Sign]) -> Html:
    """What each sign says, its name on hovering."""
    return Html("".join(element("span", sign.words, class_="sign", title=sign.name) for sign in signs))


def setting(value: Any) -> object:
    """A setting as a table shows it: numbers stay numbers, which tables align and sort."""
    return value if isinstance(value, int | float) and not isinstance(value, bool) else "–" if value is None else str(value)


def plural(count: int, one: str, many: str) -> str:
    """`one` or `many`, as the count asks."""
    return one if count == 1 else many
