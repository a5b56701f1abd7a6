"""Moments over several batches, against the weighted samples of all of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from gbc.classifiers.architectures import Classifier
from gbc.config import TrialConfig
from gbc.kkt.moving_moments import MovingMoments, Statistics
from gbc.training.trainer import Trainer

DECAY = 0.6


@pytest.fixture
def fresh(classifier: Classifier, settings: TrialConfig) -> Callable[..., Trainer]:
    def make(**changes: Any) -> Trainer:
        return Trainer(settings.updated(changes, "test"), [classifier])

    return make


def of_batch(values: Tensor) -> Statistics:
    return values.mean(dim=0), values.var(dim=0, correction=0), torch.zeros(3), torch.ones(3)


def over_all(batches: list[Tensor]) -> tuple[Tensor, Tensor]:
    """Mean and variance of all samples, those of a batch k steps ago with the weight d^k."""
    samples = torch.cat(batches)
    weights = torch.cat(
        [torch.full((len(batch),), DECAY ** (len(batches) - 1 - k)) for k, batch in enumerate(batches)]
    ).double()
    mean = (weights @ samples) / weights.sum()
    return mean, weights @ (samples - mean).square() / weights.sum()


@pytest.fixture
def batches() -> list[Tensor]:
    rng = torch.Generator().manual_seed(0)
    return [torch.randn(8, 3, generator=rng).double() * (1 + k) + 4 * k for k in range(4)]


def test_they_are_those_of_the_weighted_samples(batches: list[Tensor]) -> None:
    moments = MovingMoments([3], DECAY).double()
    for count, batch in enumerate(batches, start=1):
        ((mean, variance, *stored),) = moments.mixed([of_batch(batch)])
        torch.testing.assert_close((mean, variance), over_all(batches[:count]))
        assert torch.equal(stored[0], torch.zeros(3)) and torch.equal(stored[1], torch.ones(3))
        moments.update([of_batch(batch)])


def test_the_gradient_is_the_batch_s_own_in_units_of_its_share(batches: list[Tensor]) -> None:
    moments = MovingMoments([3], DECAY).double()
    for batch in batches[:-1]:
        moments.update([of_batch(batch)])
    last = batches[-1].requires_grad_()
    ((mean, variance, *_),) = moments.mixed([of_batch(last)])
    (seen,) = torch.autograd.grad(mean.sum() + 2 * variance.sum(), last)
    expected_mean, expected_variance = over_all([*batches[:-1], last])
    (expected,) = torch.autograd.grad(expected_mean.sum() + 2 * expected_variance.sum(), last)
    share = 1 / sum(DECAY**k for k in range(4))
    torch.testing.assert_close(seen, expected / share)


def test_a_trainer_counts_each_batch_once(fresh: Callable[..., Trainer]) -> None:
    """The first step is that of a trainer without a memory, and a report adds nothing to it."""
    plain, run = fresh(bn_weight=1.0), fresh(bn_weight=1.0, bn_decay=DECAY)
    first, second = (next(each.run()).metrics["loss/bn"] for each in (plain, run))
    assert first != second
    assert run.memories[0].weight.item() == pytest.approx(1 - DECAY**3)
    plain, run = fresh(bn_weight=1.0), fresh(bn_weight=1.0, bn_decay=DECAY)
    for each in (plain, run):
        each.step()
    assert all(torch.equal(*pair) for pair in zip(plain.trained, run.trained, strict=True))
    assert not fresh(bn_weight=0.0, bn_decay=DECAY).memories
