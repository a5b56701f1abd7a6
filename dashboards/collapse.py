"""Signs that the training of a trial has collapsed: each rule is one function.

A rule speaks only when it has seen enough reports, so a trial that was stopped early is not accused of what it had no time
to do. Thresholds are constants beside the rule, with their reason.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import pandas as pd

from dashboards.sweep import Trial

_FEWEST: Final = 4
"""Reports before anything is said: the second half then has at least two."""

_STAYS_AT_ONE: Final = 0.9995
"""ρ that is printed as 1.000. Where multipliers work it falls below, if only to 0.995, and goes on falling."""
_DEAD: Final = 0.01
"""Share of multipliers above 0: one in a hundred cannot carry a sum over all samples and classes."""

_DRIFT: Final = 0.5
"""Change of α in the second half: Λ̄ζ is then scaled by e^0.5 or more, a change that training ought to have settled before."""
_LEVELS_OFF: Final = 0.5
"""An α that settles moves less than half as fast in the last quarter of a run as in the quarter before."""
_FALLS: Final = 0.005
"""Less than ρ falls by in the second half of runs whose multipliers work."""
_LOSS_FALLS: Final = 0.9
"""Factor on the stationarity loss below which it did fall."""

_CERTAIN: Final = 0.999
"""Mean probability of the label above which −∇ of the cross-entropy, the side that must explain wd·ζ, is all but gone."""

_SAME: Final = 0.02
"""Distance of images that no eye tells apart: 5 of 255 grey levels."""

Variety = tuple[float, float]
"""(variety within a class, variety over all), from `pictures.variety`."""


@dataclass(frozen=True)
class Sign:
    """One thing that went wrong in a trial: the name of its rule, and a sentence."""

    name: str
    words: str


Signs = Mapping[int, Sequence[Sign]]
"""By trial number."""


@dataclass(frozen=True)
class Rule:
    """A rule by which one sign is recognised."""

    name: str
    says: str
    """The rule, for people."""
    mend: str
    test: Callable[[Trial, Variety | None], str | None]
    """The sign in words, or None where the trial does not show it."""


def signs_of(trial: Trial, variety: Variety | None = None) -> list[Sign]:
    """Every sign of collapse of one trial; `variety` is that of its last picture, where there is one."""
    sentences = [(rule.name, rule.test(trial, variety)) for rule in RULES]
    return [Sign(name, sentence) for name, sentence in sentences if sentence]


def _no_multipliers(trial: Trial, _: Variety | None) -> str | None:
    rho, active = trial.curve("kkt/rho"), trial.curve("kkt/mu_active")
    if len(active) < _FEWEST or rho.empty:
        return None
    late, rho = active.iloc[len(active) // 2 :], rho.iloc[len(rho) // 2 :]
    if late.max() > _DEAD or rho.min() < _STAYS_AT_ONE:
        return None
    alive = active.index[active > _DEAD]
    since = f"from step {active.index[active.index > alive[-1]][0]} on" if len(alive) else "throughout"
    return f"all multipliers are 0 {since}, so ρ stays at {rho.iloc[-1]:.3f}"


def _idle_multipliers(trial: Trial, _: Variety | None) -> str | None:
    rho, active = trial.curve("kkt/rho"), trial.curve("kkt/mu_active")
    if len(rho) < _FEWEST or active.empty or active.iloc[len(active) // 2 :].max() <= _DEAD:
        return None
    late = rho.iloc[len(rho) // 2 :]
    if late.min() < _STAYS_AT_ONE:
        return None
    share = f"{active.iloc[-1]:.0%} of the multipliers are above 0"
    return f"ρ stays at {late.iloc[-1]:.3f}: {share}, but too small to explain anything"


def _runaway(trial: Trial, _: Variety | None) -> str | None:
    rho, loss = trial.curve("kkt/rho"), trial.curve("loss/stationarity")
    names = [name for name in trial.run.curves if name.startswith("kkt/alpha")]
    if len(rho) < 2 * _FEWEST or loss.empty:
        return None
    middle = len(rho) // 2
    rho_fell = rho.iloc[middle] - rho.iloc[-1] >= _FALLS
    loss_fell = loss.iloc[-1] <= _LOSS_FALLS * loss.iloc[len(loss) // 2]
    if rho_fell or not loss_fell:
        return None
    for name in sorted(names):
        alpha = trial.curve(name)
        late = alpha.iloc[len(alpha) // 2 :]
        before, last = _speeds(late)
        if abs(late.iloc[-1] - late.iloc[0]) >= _DRIFT and before * last > 0 and abs(last) >= _LEVELS_OFF * abs(before):
            label = "α" if name == "kkt/alpha" else name.replace("kkt/alpha_", "α of classifier ")
            return (
                f"{label} runs away, from {late.iloc[0]:.2f} to {late.iloc[-1]:.2f} in the second half: "
                f"the stationarity loss falls and ρ ({rho.iloc[-1]:.3f}) does not"
            )
    return None


def _speeds(curve: pd.Series) -> tuple[float, float]:
    """Mean change a step in the first and in the second half of a curve."""
    middle = len(curve) // 2

    def speed(begin: int, end: int) -> float:
        return float((curve.iloc[end] - curve.iloc[begin]) / (curve.index[end] - curve.index[begin]))

    return speed(0, middle), speed(middle, len(curve) - 1)


def _certain(trial: Trial, _: Variety | None) -> str | None:
    closed, sure = trial.curve("loss/closed"), trial.curve("free/confidence")
    if len(closed) < _FEWEST or sure.empty or sure.iloc[-1] < _CERTAIN or closed.iloc[-1] < closed.iloc[0]:
        return None
    return (
        f"the classifier is sure of every sample (probability {sure.iloc[-1]:.4f}), so the closed form has no gradient left: "
        f"its loss went from {closed.iloc[0]:.3g} to {closed.iloc[-1]:.3g}"
    )


def _one_image_for_all(_: Trial, variety: Variety | None) -> str | None:
    if variety is None or variety[1] >= _SAME:
        return None
    return f"one image for all classes: they differ by {variety[1] * 255:.1f} of 255 grey levels"


def _one_image_a_class(_: Trial, variety: Variety | None) -> str | None:
    if variety is None or variety[0] >= _SAME or variety[1] < _SAME:
        return None
    return f"one image a class: within a class they differ by at most {variety[0] * 255:.1f} of 255 grey levels"


def _not_finite(trial: Trial, _: Variety | None) -> str | None:
    if (trial.reason or "").startswith("diverged"):
        return str(trial.reason)
    bad = [
        (step, name)
        for name, points in trial.run.curves.items()
        for step, value in points.items()
        if name.startswith("loss/") and not math.isfinite(value)
    ]
    return f"{min(bad)[1]} was not finite at step {min(bad)[0]}" if bad else None


RULES: Final = (
    Rule(
        "no multipliers",
        f"in the second half at most {_DEAD:.0%} of the multipliers are above 0 and ρ ≥ {_STAYS_AT_ONE}",
        "the network h has died: lower lr or stationarity_weight, or try another seed",
        _no_multipliers,
    ),
    Rule(
        "idle multipliers",
        f"multipliers are above 0, yet ρ ≥ {_STAYS_AT_ONE} at every report of the second half",
        "the KKT condition has not shaped the samples: more steps, a larger lr, or a larger stationarity_weight",
        _idle_multipliers,
    ),
    Rule(
        "α runs away",
        f"α moves by {_DRIFT} or more in the second half and does not level off, while the stationarity loss falls by a tenth "
        f"and ρ by less than {_FALLS}",
        "the loss is lowered by shrinking the scaled parameters, not by better samples: another lambda_policy, or a smaller lr",
        _runaway,
    ),
    Rule(
        "over-confident samples",
        f"with the closed form, the mean probability of the label is above {_CERTAIN} and the closed form's loss is no lower "
        "than at the first report",
        "lower ce_weight, or raise closed_weight",
        _certain,
    ),
    Rule(
        "one image a class",
        f"on the last picture, samples of a class differ by less than {_SAME * 255:.0f} of 255 grey levels",
        "a bank of latents, estimator: halves, or diversity_weight",
        _one_image_a_class,
    ),
    Rule(
        "one image for all",
        f"on the last picture, all samples differ by less than {_SAME * 255:.0f} of 255 grey levels",
        "raise ce_weight or bn_weight, or lower tv_weight",
        _one_image_for_all,
    ),
    Rule("not finite", "a loss was not finite", "lower lr", _not_finite),
)
"""Every rule, in the order of section 4 of the method."""
