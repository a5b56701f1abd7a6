"""Each sign of collapse on curves made by hand, and its silence on curves of trials that work."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from dashboards.collapse import RULES, signs_of
from dashboards.mlflow_runs import RecordedRun
from dashboards.sweep import Trial
from gbc.errors import Diverged
from tests.support import missing


def trial(reason: str | None = None, **curves: Sequence[float]) -> Trial:
    """Metrics by name with `__` for `/`, a value a report."""
    named = {name.replace("__", "/"): {50 * (i + 1): v for i, v in enumerate(values)} for name, values in curves.items()}
    return Trial(0, {}, "complete", {}, reason=reason, run=RecordedRun("run", curves=named))


def names(trial: Trial, variety: tuple[float, float] | None = None) -> list[str]:
    return [sign.name for sign in signs_of(trial, variety)]


# As the best trial of a real sweep of the quick preset has them.
HEALTHY = {
    "kkt__rho": [1.0003, 0.9993, 0.9976, 0.9961, 0.9955, 0.985, 0.98, 0.98],
    "kkt__mu_active": [0.1, 0.45, 0.7, 0.7, 0.9, 0.9, 0.9, 0.9],
    "kkt__alpha": [-0.2, -0.8, -1.4, -1.9, -2.2, -2.35, -2.42, -2.45],
    "loss__stationarity": [9.5, 7.5, 5.2, 4.2, 3.7, 3.5, 3.45, 3.43],
}


def test_a_trial_that_works_shows_no_sign() -> None:
    assert names(trial(**HEALTHY), (0.2, 0.28)) == []
    assert names(trial(), None) == [] and names(Trial(0, {}, "failed", {}), None) == []


def test_multipliers_that_died() -> None:
    signs = signs_of(trial(kkt__rho=[1.12, 1.0, 1.0, 1.0], kkt__mu_active=[0.3, 0.0, 0.0, 0.0]))
    assert [sign.name for sign in signs] == ["no multipliers"]
    assert not missing(["multipliers", "step 100", "1.000"], signs[0].words)
    (never,) = signs_of(trial(kkt__rho=[1.12, 1.0, 1.0, 1.0], kkt__mu_active=[0.0, 0.0, 0.0, 0.0]))
    assert "1.000" in never.words and "step" not in never.words
    # They died late: the second half has a report with multipliers.
    assert names(trial(kkt__rho=[1.0, 0.99, 0.99, 1.0], kkt__mu_active=[0.3, 0.3, 0.3, 0.0])) == []


def test_multipliers_that_explain_nothing() -> None:
    stuck = trial(kkt__rho=[1.0, 0.99999, 0.99999, 0.99998], kkt__mu_active=[0.6, 0.7, 0.8, 0.8])
    assert names(stuck) == ["idle multipliers"]
    assert "80%" in signs_of(stuck)[0].words
    assert names(trial(kkt__rho=[1.0, 0.9999, 0.9996, 0.9990], kkt__mu_active=[0.6, 0.7, 0.8, 0.8])) == []


def test_alpha_that_runs_away() -> None:
    runaway = {**HEALTHY, "kkt__rho": [0.99] * 8, "kkt__alpha": [-0.5 * i for i in range(8)]}
    runaway["loss__stationarity"] = [9.5, 7.5, 5.2, 4.2, 3.7, 3.0, 2.4, 2.0]
    (sign,) = signs_of(trial(**runaway))
    assert sign.name == "α runs away" and not missing(["-2.00", "-3.50"], sign.words)
    assert names(trial(**{**runaway, "kkt__rho": np.linspace(0.99, 0.95, 8).tolist()})) == []  # ρ falls: it is training
    assert names(trial(**{**runaway, "loss__stationarity": [5.0] * 8})) == []  # nothing is gained by it
    assert names(trial(**{**runaway, "kkt__alpha": HEALTHY["kkt__alpha"]})) == []  # it levels off
    several = {k: v for k, v in runaway.items() if k != "kkt__alpha"}
    (sign,) = signs_of(trial(**several, kkt__alpha=[0.0] * 8, kkt__alpha_1=[0.0] * 8, kkt__alpha_2=runaway["kkt__alpha"]))
    assert "classifier 2" in sign.words


def test_samples_that_the_classifier_is_sure_of() -> None:
    sure = {"loss__closed": [1.2, 1.3, 1.6, 2.0], "free__confidence": [0.5, 0.99, 0.9999, 0.99995]}
    assert names(trial(**sure)) == ["over-confident samples"]
    assert names(trial(**{**sure, "loss__closed": [1.2, 1.0, 0.8, 0.6]})) == []
    assert names(trial(**{**sure, "free__confidence": [0.5, 0.9, 0.95, 0.97]})) == []


@pytest.mark.parametrize(
    ("variety", "expected"),
    [((0.001, 0.2), ["one image a class"]), ((0.001, 0.001), ["one image for all"]), ((0.15, 0.2), []), (None, [])],
)
def test_pictures_that_are_all_the_same(variety: tuple[float, float] | None, expected: list[str]) -> None:
    assert names(trial(), variety) == expected


def test_losses_that_are_not_finite() -> None:
    assert not missing(["loss/total", "step 100"], signs_of(trial(loss__total=[1.0, float("nan"), float("nan")]))[0].words)
    assert names(trial(str(Diverged(30, "tv")))) == ["not finite"]
    assert names(trial("RuntimeError: memory")) == []


def test_too_few_reports_are_not_judged() -> None:
    assert names(trial(kkt__rho=[1.0, 1.0, 1.0], kkt__mu_active=[0.0, 0.0, 0.0])) == []


def test_every_rule_has_a_sentence_and_a_remedy() -> None:
    assert len({rule.name for rule in RULES}) == len(RULES)
    assert all(rule.says and rule.mend for rule in RULES)
