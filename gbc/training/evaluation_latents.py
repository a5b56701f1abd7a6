"""Latents of the samples in a training run's evaluation and picture, so that an exported generator can draw them again."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any, Self

import torch
from torch import Tensor

from gbc.config import TrialConfig
from gbc.training.batches import tasks_for
from gbc.training.generator import EVALUATION_SEED


@dataclass(frozen=True)
class EvaluationLatents:
    """Latents of the evaluation, equal in all trials with the same settings, and the number of threads in training."""

    seed: int
    """Seed of the noise, which is drawn as one tensor [K, noise_dim] on the CPU."""
    labels: list[int]
    tasks: list[int]
    """t of each label; all 0 for a generator without t."""
    threads: int
    """Torch threads of the training process: the last bits of a sum depend on their number."""

    @classmethod
    def of(cls, settings: TrialConfig, labels_of_task: Sequence[Sequence[int]], classes: int, threads: int) -> Self:
        """The evaluation latents of a trainer with these settings; `classes` is the number of the generator's classes."""
        labels = torch.arange(classes).repeat(settings.eval_per_class)
        tasks = tasks_for(labels, [torch.tensor(task_labels) for task_labels in labels_of_task])
        return cls(EVALUATION_SEED, labels.tolist(), tasks.tolist(), threads)

    def to_json(self) -> dict[str, Any]:
        """Plain data for JSON; also the arguments of the constructor."""
        return asdict(self)

    def latents(self, noise_dim: int) -> tuple[Tensor, Tensor, Tensor]:
        """Noise [K, noise_dim], labels [K] and t [K]."""
        rng = torch.Generator().manual_seed(self.seed)
        noise = torch.randn(len(self.labels), noise_dim, generator=rng)
        return noise, torch.tensor(self.labels), torch.tensor(self.tasks)

    @contextmanager
    def training_threads(self) -> Iterator[None]:
        """Context in which torch uses as many threads as in training."""
        before = torch.get_num_threads()
        torch.set_num_threads(self.threads)
        try:
            yield
        finally:
            torch.set_num_threads(before)
