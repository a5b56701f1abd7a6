"""The verdict on the best trial of a sweep: the part of the KKT conditions, and the requirements."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Final

from search.policy.ranking import full_trials

if TYPE_CHECKING:
    from records.trial import TrialRecord
    from search.spec.config import SweepConfig

ACTIVE_FLOOR: Final = 0.05
"""`kkt/active` from which on the KKT conditions count as a cause of the pictures."""
_SHARE: Final = "kkt/active_"
_LEAST: Final = 0.01
_OTHERS: Final = {"loss/bn": "BatchNorm statistics", "loss/ce": "cross-entropy"}
"""Losses beside the conditions that make pictures; total variation, border and diversity only shape them."""


def kkt_verdict(metrics: Mapping[str, float]) -> str | None:
    """The part that the KKT conditions took in a trial, by its last report, in a line; None where that does not say."""
    active = metrics.get("kkt/active")
    if active is None:
        return None
    if active >= ACTIVE_FLOOR:
        shares = {key.removeprefix(_SHARE).replace("_", " "): value for key, value in metrics.items() if key.startswith(_SHARE)}
        named = sorted((name for name, share in shares.items() if share >= _LEAST), key=lambda name: -shares[name])
        return f"the KKT conditions made {active:.0%} of its gradient ({', '.join(named)})"
    others = enumeration([name for loss, name in _OTHERS.items() if loss in metrics])
    part = "no part" if active < _LEAST else "next to no part"
    source = f"; its pictures come from {others}" if others else ""
    return f"the KKT conditions took {part} in it: kkt/active {active:.2f}{source}"


def data_free_verdict(config: SweepConfig) -> str | None:
    """A line on what is not known without images; None where there are images."""
    if not config.trial.data_free:
        return None
    return (
        "the samples were compared with no image: their likeness to real ones, their variety beside these and their worth as "
        "training data are not known"
    )


def requirements_verdict(config: SweepConfig, trials: Sequence[TrialRecord]) -> str | None:
    """The number of full trials that meet what the sweep requires, in a line; None without requirements or full trials."""
    full = full_trials(config, trials)
    if not config.objective.require or not full:
        return None
    met = sum(not trial.missed for trial in full)
    if not met:
        return f"no full trial meets {config.objective.required}: it is the best of all"
    return f"{met} of {len(full)} full trials meet {config.objective.required}; the others cannot be the best"


def enumeration(names: Sequence[str]) -> str:
    """`a`, `a and b`, `a, b and c`."""
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)


def sentence(line: str) -> str:
    """`line` as a sentence of a page. A metric at its start keeps its name: only an article gets a capital letter."""
    return f"The {line.removeprefix('the ')}." if line.startswith("the ") else f"{line}."
