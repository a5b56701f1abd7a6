"""Forms of the stationarity loss, its multipliers and its α, in training."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from gbc import losses
from gbc.classifiers import convergence
from gbc.config import TrialConfig
from gbc.errors import BadInput
from gbc.kkt.trial_classifier import ForwardPass
from gbc.metrics.scores import ReferenceSet
from gbc.training import tasks
from gbc.training.trainer import Trainer
from tests.gbc.training.conftest import FREE
from tests.support import missing


def test_two_halves_of_free_images_need_two_images_of_a_class(fresh: Callable[..., Trainer]) -> None:
    """Every step takes all images, whatever `batch_size` is."""
    with pytest.raises(BadInput) as fault:
        fresh(**FREE, estimator="halves", eval_per_class=1, batch_size=128)
    assert not missing(["estimator halves", "candidates", "10"], fault.value)
    fresh(**FREE, estimator="halves", eval_per_class=1, candidates=20, batch_size=2).step()


@pytest.mark.parametrize("setting", [{"estimator": "halves"}, {"diversity_weight": 0.01}])
def test_batches_with_one_sample_of_a_class_are_refused_where_two_are_compared(
    setting: dict[str, Any], fresh: Callable[..., Trainer]
) -> None:
    with pytest.raises(BadInput, match=r"batch_size.* 10,.* 10"):
        fresh(**setting, batch_size=10)
    metrics = next(fresh(**setting, batch_size=11).run()).metrics
    assert metrics["kkt/rho"] >= 0 and math.isfinite(metrics["loss/total"])


@pytest.mark.parametrize("estimator", ["relative", "cosine"])
def test_forms_free_of_scale_do_not_change_with_that_of_both_sides(estimator: str, fresh: Callable[..., Trainer]) -> None:
    """Eq. (5) as printed falls when target and pull shrink together: α → −∞ and μ → 0 is its exit. These forms have none."""
    run = fresh(estimator=estimator)
    batch = run.batches.sample()
    classifier = run.classifiers[0]

    def loss(shrink: float) -> tuple[float, float]:
        # Λ̄ζ has one degree, 1, so e^(α(2·1 − 1)) scales the target as `scale` does the multipliers.
        with torch.no_grad():
            classifier.alpha.fill_(math.log(shrink))
            run.multipliers.scale.fill_(shrink)
        seen = ForwardPass(classifier, run.multipliers, batch.images, batch.labels)
        return seen.stationarity().item(), seen.distance.item()

    (free, printed), (free_small, printed_small) = loss(1.0), loss(1e-3)
    assert free_small == pytest.approx(free, rel=1e-4)  # float32
    assert printed_small == pytest.approx(1e-3 * printed, rel=1e-4)


def test_the_cosine_form_looks_at_tensors_with_a_target_alone(fresh: Callable[..., Trainer]) -> None:
    run = fresh(estimator="cosine")
    batch = run.batches.sample()
    seen = ForwardPass(run.classifiers[0], run.multipliers, batch.images, batch.labels)
    targets = [part for part in seen.target if part is not None]
    assert len(targets) == 2  # weight and bias of the last layer
    expected = losses.closed_form(targets, seen.margin_gradient[-2:])
    assert seen.stationarity().item() == expected.item()


def test_multipliers_stay_above_their_floor(fresh: Callable[..., Trainer]) -> None:
    """Also where h says 0 everywhere: μ ≡ 0 is the collapse."""
    run = fresh(multiplier_floor=0.25)
    with torch.no_grad():
        last = run.multipliers.layers[-1]
        last.weight.zero_()
        last.bias.fill_(-1.0)
    batch = run.batches.sample()
    multipliers = ForwardPass(run.classifiers[0], run.multipliers, batch.images, batch.labels).multipliers
    assert torch.all(multipliers == 0.25 * run.multipliers.scale[0])
    assert multipliers.min() > 0


def test_an_alpha_of_the_last_layer_stays_where_it_was_put(
    settings: TrialConfig, reference: ReferenceSet, tmp_path: Path
) -> None:
    converged = {"name": "mlp", "optimiser": "converge", "weight_decay": 0.01, "lr": 0.1, "steps": 600, "polish": 100}
    config = settings.updated({"classifier": {**converged, "hidden": 16}, "bn_weight": 0, "alpha": "last_layer"}, "test")
    inputs = tasks.obtain(config, tmp_path)
    run = Trainer(config, inputs.classifiers, reference)
    expected = -math.log(convergence.margin_of_last_layer(inputs.classifiers[0].module, 0.01))
    assert [report.metrics["kkt/alpha"] for report in run.run()] == pytest.approx([expected] * 4)
    learned = Trainer(config.updated({"alpha": "learned"}, "test"), inputs.classifiers, reference)
    assert len({report.metrics["kkt/alpha"] for report in learned.run()}) == 4


def test_an_alpha_of_the_last_layer_needs_a_classifier_that_converged(fresh: Callable[..., Trainer]) -> None:
    with pytest.raises(BadInput, match=r"alpha last_layer: .*converged"):
        fresh(**{"alpha": "last_layer", "classifier.weight_decay": 1.0})  # no margin makes so strong a decay stand still
    with pytest.raises(BadInput, match=r"alpha_init \(0.5\).*'last_layer'"):
        fresh(alpha="last_layer", alpha_init=0.5)
