"""Batches of samples: labels, latents and the bank of latents."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from gbc.training.trainer import Trainer
from tests.gbc.training.conftest import FREE


def test_labels_share_every_batch_as_evenly_as_it_allows(fresh: Callable[..., Trainer]) -> None:
    run = fresh(batch_size=32)
    starts = set()
    for _ in range(20):
        labels = run.batches.sample().labels
        counts = torch.bincount(labels, minlength=10)
        assert counts.max() - counts.min() <= 1
        starts.add(labels[0].item())
    assert len(starts) > 3  # which class gets one more changes


def test_a_bank_of_the_size_of_the_batch_is_used_up_by_each(fresh: Callable[..., Trainer]) -> None:
    """Stationarity is a property of the whole set: every step sees all latents, each once and with its own label."""
    run = fresh(bank=40, batch_size=40)
    owner = {tuple(latent.tolist()): index % 10 for index, latent in enumerate(run.batches.bank)}
    for _ in range(3):
        batch = run.batches.sample()
        drawn = [tuple(latent.tolist()) for latent in batch.noise]
        assert sorted(drawn) == sorted(owner)
        assert [owner[latent] for latent in drawn] == batch.labels.tolist()


def test_a_latent_of_the_bank_keeps_its_label_in_a_bank_of_any_size(fresh: Callable[..., Trainer]) -> None:
    run = fresh(bank=42, batch_size=42)
    owner = {tuple(latent.tolist()): index % 10 for index, latent in enumerate(run.batches.bank)}
    for _ in range(5):
        batch = run.batches.sample()
        assert [owner[tuple(latent.tolist())] for latent in batch.noise] == batch.labels.tolist()


def test_with_free_multipliers_every_step_takes_all_candidates(fresh: Callable[..., Trainer]) -> None:
    run = fresh(**FREE, candidates=70, batch_size=8, pixel_start=0.7)
    for _ in range(3):
        batch = run.batches.sample()
        assert sorted(batch.noise.tolist()) == list(range(70))
        assert (batch.noise % 10).tolist() == batch.labels.tolist()
    assert run.generator.logits.std().item() == pytest.approx(0.7, rel=0.05)  # 54,880 numbers
    report = next(run.run())
    assert report.metrics["kkt/mu_active"] == pytest.approx(1 / 9)  # one of nine wrong classes
    assert report.metrics["kkt/mu_mean"] >= 0.1 / 9
