"""Whose gradient moves the generator."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from gbc.classifiers.architectures import Classifier
from gbc.config import TrialConfig
from gbc.kkt.gradient_shares import gradient_shares
from gbc.kkt.weighted_losses import LOSSES, Term
from gbc.metrics.scores import ReferenceSet
from gbc.report import METRIC_DIRECTIONS
from gbc.training import tasks
from gbc.training.trainer import Trainer
from tests.conftest import TINY, TINY_CLASSIFIER


@pytest.fixture
def fresh(classifier: Classifier, settings: TrialConfig, reference: ReferenceSet) -> Callable[..., Trainer]:
    def make(**changes: Any) -> Trainer:
        return Trainer(settings.updated(changes, "test"), [classifier], reference)

    return make


def test_shares_by_hand() -> None:
    """Gradients (3, 0), (0, 4) and (−5, 0): the conditions together 5 of 12, since the two stand at a right angle."""
    images = torch.zeros(2, requires_grad=True)
    terms = [Term("stationarity", 3.0, images[0]), Term("row_space", 2.0, 2 * images[1]), Term("ce", 1.0, -5 * images[0])]
    shares = gradient_shares([(images, terms)])
    assert shares == pytest.approx(
        {"kkt/active": 5 / 12, "kkt/active_stationarity": 3 / 12, "kkt/active_row_space": 4 / 12}, rel=1e-6
    )  # float32


def test_losses_of_several_classifiers_and_batches_add_up_by_hand() -> None:
    """Two classifiers of one task: (1, 0) + (2, 0); another task with (0, 4): a norm of 5, beside 5 of the variation."""
    first, second = torch.zeros(2, requires_grad=True), torch.zeros(2, requires_grad=True)
    first_terms = [Term("closed", 1.0, first[0]), Term("closed", 2.0, first[0]), Term("tv", 1.0, 3 * first[1])]
    second_terms = [Term("closed", 4.0, second[1]), Term("tv", 1.0, 4 * second[0])]
    assert gradient_shares([(first, first_terms), (second, second_terms)]) == pytest.approx(
        {"kkt/active": 0.5, "kkt/active_closed": 0.5}
    )


def test_where_nothing_flows_the_share_is_0() -> None:
    images = torch.ones(3, requires_grad=True)
    still = [Term("stationarity", 1.0, 0 * images.sum())]
    assert gradient_shares([(images, still)]) == {"kkt/active": 0.0, "kkt/active_stationarity": 0.0}


def test_every_condition_is_a_loss_and_has_a_metric() -> None:
    conditions = {name for name, loss in LOSSES.items() if loss.kkt}
    named = {metric.removeprefix("kkt/active_") for metric in METRIC_DIRECTIONS if metric.startswith("kkt/active_")}
    assert conditions == named


def test_a_report_says_whose_gradient_it_was(fresh: Callable[..., Trainer]) -> None:
    metrics = next(fresh(closed_weight=0.1, row_space_weight=0.1).run()).metrics
    shares = [value for name, value in metrics.items() if name.startswith("kkt/active_")]
    assert len(shares) == 4
    assert 0 < max(shares) <= metrics["kkt/active"] <= sum(shares) < 1


def test_without_conditions_and_without_multipliers_they_take_no_part(fresh: Callable[..., Trainer]) -> None:
    none = next(fresh(stationarity_weight=0, beta=0).run()).metrics
    assert none["kkt/active"] == 0 and not any(name.startswith("kkt/active_") for name in none)
    dead = fresh(beta=0)
    dead.multipliers.scale.zero_()
    metrics = next(dead.run()).metrics
    assert metrics["kkt/mu_active"] == 0 and metrics["kkt/active"] == 0


def test_conditions_that_join_in_late_count_from_then_on(fresh: Callable[..., Trainer]) -> None:
    shares = [report.metrics["kkt/active"] for report in fresh(kkt_from=0.5).run()]
    assert shares[:2] == [0, 0] and min(shares[2:]) > 0


def test_the_measure_leaves_the_training_as_it_was(fresh: Callable[..., Trainer], monkeypatch: pytest.MonkeyPatch) -> None:
    measured = fresh(closed_weight=0.1, row_space_weight=0.1)
    list(measured.run())
    monkeypatch.setattr(Trainer, "_gradient_shares", lambda self: {})
    plain = fresh(closed_weight=0.1, row_space_weight=0.1)
    list(plain.run())
    for name, value in plain.state_dict()["generator"].items():
        assert torch.equal(measured.state_dict()["generator"][name], value), name
    assert torch.equal(measured.rng.get_state(), plain.rng.get_state())


def test_two_tasks_and_a_classifier_without_batch_norm(tmp_path: Path) -> None:
    other = {"classifier": {**TINY_CLASSIFIER, "name": "mlp"}, "dataset": {"name": "mnist", "per_class": 10}}
    config = TrialConfig.parse({**TINY, "experts": [other], "closed_weight": 0.1}, "test")
    trainer = Trainer(config, tasks.obtain(config, tmp_path).classifiers)
    assert 0 < next(trainer.run()).metrics["kkt/active"] < 1
