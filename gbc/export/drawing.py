"""A generator ready for use: the samples that training judged, to the last bit, and any number of others, fast.

Many images are drawn in small parts side by side, a thread each.

One thread works through a small part in its cache; several that share one part wait for each other at every layer, and
longest where other programs want the cores too. `tests/benchmarks/sample.py` measures it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final

import torch
from torch import Tensor

from gbc.config import TrialConfig
from gbc.errors import BadInput
from gbc.training.evaluation_latents import EvaluationLatents
from gbc.training.generator import Generator

BATCH: Final = 512
"""Latents that are drawn at a time: the same seed gives the same images however many are asked for."""
_PART: Final = 128

Latents = tuple[Tensor, Tensor, Tensor | None]
"""Noise [K, noise_dim], labels [K] and, with several tasks, t [K]."""


@dataclass(frozen=True)
class ExportedGenerator:
    """A generator ready for use."""

    module: Generator
    shape: tuple[int, int, int]
    """(channels, height, width) of an image."""
    class_names: tuple[str, ...]
    settings: TrialConfig
    metrics: dict[str, float]
    """What was measured when it was trained."""
    labels_of_task: list[list[int]]
    """Which labels each of the classifiers that it was born from knows (Algorithm 2)."""
    judging: EvaluationLatents
    """Of the samples that `metrics` speak of."""
    origin: dict[str, Any]
    """What it was born from: `says`, `data` with name and digest, `classifiers` with name, digest and regime."""

    def sample(self, labels: Sequence[int] | Tensor, seed: int = 0) -> Tensor:
        """One image for each label, [K, channels, height, width] in [0, 1]; the same seed gives the same images.

        Raises:
            BadInput: a label the generator does not know.
        """
        return torch.cat(list(self.batches(labels, seed)))

    def batches(self, labels: Sequence[int] | Tensor, seed: int = 0) -> Iterator[Tensor]:
        """As `sample`, a part at a time."""
        labels = torch.as_tensor(labels, dtype=torch.long)
        self.check_labels(labels)
        return self.stream(labels.split(BATCH), seed)

    def stream(self, labels: Iterable[Tensor], seed: int = 0) -> Iterator[Tensor]:
        """As `batches`, for any number of labels: they come `BATCH` at a time (the last may be fewer), as images are taken.

        Labels that the generator does not know are not noticed here.
        """
        return self._painter.paint(self._latents(labels, torch.Generator().manual_seed(seed)))

    @torch.no_grad()
    def judged(self, device: torch.device | str = "cpu") -> Tensor:
        """The samples that training judged last, [K, channels, height, width], with labels `judging.labels`.

        The same to the last bit on a machine, device and torch like those of the training; the picture shows the first.
        """
        latents = (tensor.to(device) for tensor in self.judging.latents(self.module.noise_dim))
        try:
            with self.judging.as_trained():  # at once, as the trainer draws them
                images: Tensor = self.module.to(device)(*latents)
        finally:
            self.module.to("cpu")
        return images

    def check_labels(self, labels: Tensor) -> None:
        """Whether the generator knows each of `labels`.

        Raises:
            BadInput: it does not.
        """
        classes = len(self.class_names)
        if len(labels) and not (int(labels.min()) >= 0 and int(labels.max()) < classes):
            unknown = next(int(label) for label in labels if not 0 <= label < classes)
            raise BadInput(
                f"label {unknown} is unknown to this generator; it has 0 to {classes - 1}: {', '.join(self.class_names)}"
            )

    @cached_property
    def _painter(self) -> Painter:
        return Painter(self.module)

    def _latents(self, labels: Iterable[Tensor], rng: torch.Generator) -> Iterator[Latents]:
        for part in labels:
            noise = torch.randn(len(part), self.module.noise_dim, generator=rng)
            yield noise, part, self._draw_tasks(part, rng) if len(self.labels_of_task) > 1 else None

    def _draw_tasks(self, labels: Tensor, rng: torch.Generator) -> Tensor:
        """One of the classifiers that know the label, all alike, for each label [K]."""
        knows = torch.zeros(len(self.labels_of_task), len(self.class_names))
        for task, known in enumerate(self.labels_of_task):
            knows[task, known] = 1
        return torch.multinomial(knows[:, labels].T, 1, generator=rng).squeeze(1)


class Painter:
    """Draws the images of a generator; the same to 1e-5 as in one batch."""

    def __init__(self, module: Generator) -> None:
        """`module` is in eval mode, on the CPU."""
        self._module = module

    def paint(self, latents: Iterable[Latents]) -> Iterator[Tensor]:
        """Images [k, channels, height, width] in order, a part at a time; latents are asked for as images are taken."""
        workers = torch.get_num_threads()
        with ThreadPoolExecutor(workers, initializer=_alone) as pool:
            waiting: deque[Future[Tensor]] = deque()
            for noise, labels, tasks in latents:
                parts = tasks.split(_PART) if tasks is not None else [None] * -(-len(labels) // _PART)
                for part in zip(noise.split(_PART), labels.split(_PART), parts, strict=True):
                    waiting.append(pool.submit(self._paint, part))
                    if len(waiting) > 2 * workers:
                        yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()

    @torch.no_grad()
    def _paint(self, latents: Latents) -> Tensor:
        images: Tensor = self._module(*latents)
        return images.contiguous()


def _alone() -> None:
    """This thread shares its sums with no other."""
    torch.set_num_threads(1)
