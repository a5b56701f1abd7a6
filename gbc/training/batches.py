"""Batches of generated samples: labels from a uniform prior, latents fresh or from a fixed bank, and the generator's images."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from gbc.config import TrialConfig
from gbc.kkt.weighted_losses import Batch
from gbc.runtime import derive_seed
from gbc.training.generator import Generator, Pixels, PointGenerator


class BatchSampler:
    """Draws batches, each for one task."""

    def __init__(
        self,
        config: TrialConfig,
        generator: Generator | PointGenerator | Pixels,
        labels_of_task: Sequence[Tensor],
        batch_size: int,
        rng: torch.Generator,
    ) -> None:
        """`labels_of_task` lists the labels of each task's samples; `rng` is on the generator's device."""
        self._config, self._generator, self._labels_of_task = config, generator, labels_of_task
        self._batch_size, self._rng, self._device = batch_size, rng, rng.device
        bank_rng = torch.Generator(rng.device).manual_seed(derive_seed(config.seed, 3))
        self.bank = torch.randn(config.bank, config.noise_dim, device=rng.device, generator=bank_rng)
        """Constant latents [bank, noise_dim]. Number i belongs to label i mod C, so that every label has latents of its own."""

    def sample(self, task: int = 0) -> Batch:
        """A batch of one task, with as even a number of samples of each label as its size allows."""
        classes = self._labels_of_task[task]
        # Systematic sampling: unbiased, and no class is over-represented by chance.
        start = torch.randint(len(classes), (), generator=self._rng, device=self._device)
        labels = classes[(torch.arange(self._batch_size, device=self._device) + start) % len(classes)]
        noise = self._generator.latents(labels, self._rng)
        if self._config.bank:
            noise = self._from_bank(noise, labels)
        images = self._generator(noise, labels, torch.full_like(labels, task))
        return Batch(images, noise, labels, len(classes))

    def _from_bank(self, fresh: Tensor, labels: Tensor) -> Tensor:
        """Replace the first `bank_share` of fresh latents [M, noise_dim] by latents of the bank, with jitter added.

        If that share has the size of the bank, every batch uses the whole bank: stationarity is a property of all samples. That
        takes a bank with as many latents of each label.
        """
        taken = round(self._config.bank_share * len(fresh))
        classes, size = self._generator.classes, self._config.bank
        if taken == size and size % classes == 0:
            turns = torch.arange(taken, device=self._device) // classes
        else:
            turns = torch.randint(max(1, size // classes), (taken,), generator=self._rng, device=self._device)
        centre = self.bank[(turns * classes + labels[:taken]) % size]
        jitter = self._config.bank_jitter
        # The division keeps a standard normal distribution for any jitter.
        near = (centre + jitter * fresh[:taken]) / math.sqrt(1 + jitter**2)
        return torch.cat([near, fresh[taken:]])


def tasks_for(labels: Tensor, labels_of_task: Sequence[Tensor]) -> Tensor:
    """A task t for each label [K]: the tasks that have the label take turns (section 4, sampling from several classifiers)."""
    tasks = torch.zeros_like(labels)
    for label in labels.unique():
        with_label = [task for task, classes in enumerate(labels_of_task) if bool((classes == label).any())]
        rows = torch.nonzero(labels == label).squeeze(1)
        turns = torch.tensor(with_label, device=labels.device)
        tasks[rows] = turns[torch.arange(len(rows), device=labels.device) % len(with_label)]
    return tasks
