"""Stationarity over several batches."""

from __future__ import annotations

import pytest
import torch

from gbc import losses
from gbc.kkt.moving_pull import MovingPull


def test_the_first_batch_stands_for_itself() -> None:
    target = [torch.tensor([1.0, 2.0]), None]
    pull = [torch.tensor([0.0, 1.0], requires_grad=True), torch.tensor([3.0])]
    pulls = MovingPull(pull, 0.5)
    value = pulls.residual(target, pull)
    assert value.item() == pytest.approx(losses.relative_residual(target, pull).item())


def test_the_gradient_is_that_of_the_earlier_batches_by_hand() -> None:
    """d = ½, pulls 4, then 1: mean (½·4 + 1)/1.5 = 2. With target 5, ρ² = (3² − ¼·(7 − 2)²)/25, of slope 2·(2 − 5)/25."""
    pulls = MovingPull([torch.zeros(1)], 0.5)
    for pull in (4.0, 1.0):
        pulls.update([torch.tensor([pull])])
    now = torch.tensor([7.0], requires_grad=True)
    value = pulls.residual([torch.tensor([5.0])], [now])
    assert value.square().item() == pytest.approx((9 - 25 / 4) / 25)
    (slope,) = torch.autograd.grad(value.square(), now)
    assert slope.item() == pytest.approx(-6 / 25)


def test_its_value_is_free_of_the_noise_of_batches() -> None:
    """Pulls of mean g and variance 1 in 400 dimensions: ρ² of each by itself is 1 larger than that of g."""
    rng = torch.Generator().manual_seed(0)
    target, mean = [torch.full((400,), 0.05)], torch.full((400,), 0.02)
    pulls = MovingPull(target, 0.8)
    own, running = [], []
    for _ in range(300):
        pull = [mean + 0.05 * torch.randn(400, generator=rng)]
        own.append(losses.relative_residual(target, pull).square().item())
        running.append(pulls.residual(target, pull).square().item())
        pulls.update(pull)
    expected = (0.03 / 0.05) ** 2
    assert sum(own) / 300 == pytest.approx(expected + 1, rel=0.05)
    assert sum(running[30:]) / 270 == pytest.approx(expected, rel=0.05)
