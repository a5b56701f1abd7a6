"""Batches of generated samples: labels of a uniform prior, latents fresh or from a fixed bank, and the generator's images."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from gbc.config import TrialConfig
from gbc.kkt.objectives import Batch
from gbc.runtime import derive
from gbc.training.generator import Generator, Pixels, PointGenerator


class BatchSampler:
    """Draws batches, one task at a time."""

    def __init__(
        self,
        config: TrialConfig,
        generator: Generator | PointGenerator | Pixels,
        labels_of_task: Sequence[Tensor],
        batch_size: int,
        rng: torch.Generator,
    ) -> None:
        """`labels_of_task` [tasks, …] are those that samples of a task may carry; `rng` is on the generator's device."""
        self._config, self._generator, self._labels_of_task = config, generator, labels_of_task
        self._batch_size, self._rng, self._device = batch_size, rng, rng.device
        bank_rng = torch.Generator(rng.device).manual_seed(derive(config.seed, 3))
        self.bank = torch.randn(config.bank, config.noise_dim, device=rng.device, generator=bank_rng)
        """Latents [bank, noise_dim] that do not change; number i belongs to label i mod C, so that every label has its own."""

    def sample(self, task: int = 0) -> Batch:
        """A batch of one task; the labels share the uniform prior as evenly as the batch allows."""
        known = self._labels_of_task[task]
        # Systematic sampling: unbiased, and no class is over-represented by chance.
        start = torch.randint(len(known), (), generator=self._rng, device=self._device)
        labels = known[(torch.arange(self._batch_size, device=self._device) + start) % len(known)]
        noise = self._generator.latents(labels, self._rng)
        if self._config.bank:
            noise = self._from_bank(noise, labels)
        images = self._generator(noise, labels, torch.full_like(labels, task))
        return Batch(images, noise, labels, len(known))

    def _from_bank(self, fresh: Tensor, labels: Tensor) -> Tensor:
        """Replace the first `bank_share` of fresh latents [M, noise_dim] by latents of the bank, or from around them.

        A bank of the size of the batch is used up by each: stationarity is a property of the whole set of samples.
        """
        taken = round(self._config.bank_share * len(fresh))
        classes, size = self._generator.classes, self._config.bank
        if taken == size:
            turns = torch.arange(taken, device=self._device) // classes
        else:
            turns = torch.randint(max(1, size // classes), (taken,), generator=self._rng, device=self._device)
        centre = self.bank[(turns * classes + labels[:taken]) % size]
        jitter = self._config.bank_jitter
        # Divided so that a standard normal stays one whatever the jitter is.
        near = (centre + jitter * fresh[:taken]) / math.sqrt(1 + jitter**2)
        return torch.cat([near, fresh[taken:]])


def tasks_for(labels: Tensor, labels_of_task: Sequence[Tensor]) -> Tensor:
    """A task t for each label [K]: those that know the label take turns (section 4, sampling from several classifiers)."""
    tasks = torch.zeros_like(labels)
    for label in labels.unique():
        knowing = [task for task, known in enumerate(labels_of_task) if bool((known == label).any())]
        rows = torch.nonzero(labels == label).squeeze(1)
        turns = torch.tensor(knowing, device=labels.device)
        tasks[rows] = turns[torch.arange(len(rows), device=labels.device) % len(knowing)]
    return tasks
