"""The samples that a training run was judged and shown by: what is needed to draw them again from an exported generator."""

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
    """Latents that every trial of the same settings has, and how they were computed."""

    seed: int
    """Of the noise, drawn as one tensor [K, noise_dim] on the CPU."""
    labels: list[int]
    tasks: list[int]
    """t of each label; all 0 where the generator takes none."""
    threads: int
    """Torch threads of the process that trained: the last bits of a sum depend on how many share it."""

    @classmethod
    def of(cls, settings: TrialConfig, labels_of_task: Sequence[Sequence[int]], classes: int, threads: int) -> Self:
        """Those of a trainer with these settings; `classes` are the generator's."""
        labels = torch.arange(classes).repeat(settings.eval_per_class)
        tasks = tasks_for(labels, [torch.tensor(known) for known in labels_of_task])
        return cls(EVALUATION_SEED, labels.tolist(), tasks.tolist(), threads)

    def plain(self) -> dict[str, Any]:
        """As JSON takes it, and the constructor."""
        return asdict(self)

    def latents(self, noise_dim: int) -> tuple[Tensor, Tensor, Tensor]:
        """Noise [K, noise_dim], labels [K] and t [K]."""
        rng = torch.Generator().manual_seed(self.seed)
        noise = torch.randn(len(self.labels), noise_dim, generator=rng)
        return noise, torch.tensor(self.labels), torch.tensor(self.tasks)

    @contextmanager
    def as_trained(self) -> Iterator[None]:
        """Within, torch computes in this thread with as many threads as the training did."""
        before = torch.get_num_threads()
        torch.set_num_threads(self.threads)
        try:
            yield
        finally:
            torch.set_num_threads(before)
