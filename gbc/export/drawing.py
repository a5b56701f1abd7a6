"""An exported generator: it draws the samples of the last evaluation in training, bit for bit, and any number of others.

Large sets are drawn in small parts in parallel, one thread for each part. A small part fits into the cache of a thread. Threads
that share a part wait for each other at every layer, above all if other programs use the cores too
(`tests/benchmarks/sample.py`).
"""

from __future__ import annotations

import re
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
from gbc.settings import shown, suggest
from gbc.training.evaluation_latents import EvaluationLatents
from gbc.training.generator import Generator

BATCH: Final = 512
"""Number of latents drawn at a time. It is constant, so that the same seed gives the same images for any number of them."""
_PART: Final = 128

Latents = tuple[Tensor, Tensor, Tensor | None]
"""Noise [K, noise_dim], labels [K] and, with several tasks, t [K]."""


@dataclass(frozen=True)
class ExportedGenerator:
    """A loaded generator, which draws images."""

    module: Generator
    shape: tuple[int, int, int]
    """(channels, height, width) of an image."""
    class_names: tuple[str, ...]
    settings: TrialConfig
    metrics: dict[str, float]
    """Metrics at the end of training."""
    labels_of_task: list[list[int]]
    """Labels of each task of the classifiers that it was trained from (Algorithm 2)."""
    judging: EvaluationLatents
    """Latents of the samples whose scores are in `metrics`."""
    origin: dict[str, Any]
    """Origin: `says`, a sentence; `data` with name and digest; `classifiers` with name, digest and regime."""

    def sample(self, labels: Sequence[int] | Tensor, seed: int = 0) -> Tensor:
        """One image for each label, [K, channels, height, width] in [0, 1]; the same seed gives the same images.

        Raises:
            BadInput: no label, no list of whole numbers, or a label that the generator does not have.
        """
        return torch.cat(list(self.batches(labels, seed)))

    def batches(self, labels: Sequence[int] | Tensor, seed: int = 0) -> Iterator[Tensor]:
        """The images of `sample`, in parts. Raises as `sample`."""
        labels = _whole_numbers(labels)
        self.check_labels(labels)
        return self.stream(labels.split(BATCH), seed)

    def stream(self, labels: Iterable[Tensor], seed: int = 0) -> Iterator[Tensor]:
        """The images of `batches` for an iterator of labels, which are read in parts while images are drawn.

        Every part of `labels` must have `BATCH` labels; the last may have fewer. Labels are not checked here.
        """
        return self._sampler.draw(self._latents(labels, torch.Generator().manual_seed(seed)))

    @torch.no_grad()
    def judged(self, device: torch.device | str = "cpu") -> Tensor:
        """The samples of the last evaluation in training, [K, channels, height, width], with labels `judging.labels`.

        They are the same bit for bit on the same kind of machine and device with the same torch. The picture shows the first.
        """
        latents = (tensor.to(device) for tensor in self.judging.latents(self.module.noise_dim))
        try:
            with self.judging.training_threads():  # in one batch, like the trainer
                images: Tensor = self.module.to(device)(*latents)
        finally:
            self.module.to("cpu")
        return images

    def check_labels(self, labels: Tensor) -> None:
        """Check that there are `labels` [K], and that the generator has each of them.

        Raises:
            BadInput: there is none, or the generator lacks one of them; the message names the label.
        """
        classes = len(self.class_names)
        if not len(labels):
            raise BadInput("no labels: give one for each image")
        if not (int(labels.min()) >= 0 and int(labels.max()) < classes):
            unknown = next(int(label) for label in labels if not 0 <= label < classes)
            raise BadInput(
                f"label {unknown} is unknown to this generator; it has 0 to {classes - 1}: {', '.join(self.class_names)}"
            )

    def label_named(self, text: str) -> int:
        """The label that a word of a command line stands for: a number, or the name of a class.

        Raises:
            BadInput: the generator has no such class.
        """
        if re.fullmatch(r"-?[0-9]{1,18}", text):
            self.check_labels(torch.tensor([int(text)]))
            return int(text)
        by_name = {name.casefold(): label for label, name in enumerate(self.class_names)}
        if text.casefold() not in by_name:
            raise BadInput(f"--label: unknown class {shown(text)}; {suggest(text, self.class_names)}")
        return by_name[text.casefold()]

    @cached_property
    def _sampler(self) -> ParallelSampler:
        return ParallelSampler(self.module)

    def _latents(self, labels: Iterable[Tensor], rng: torch.Generator) -> Iterator[Latents]:
        for part in labels:
            noise = torch.randn(len(part), self.module.noise_dim, generator=rng)
            yield noise, part, self._draw_tasks(part, rng) if len(self.labels_of_task) > 1 else None

    def _draw_tasks(self, labels: Tensor, rng: torch.Generator) -> Tensor:
        """A random task for each label [K], uniform over the tasks that have the label."""
        has_label = torch.zeros(len(self.labels_of_task), len(self.class_names))
        for task, task_labels in enumerate(self.labels_of_task):
            has_label[task, task_labels] = 1
        return torch.multinomial(has_label[:, labels].T, 1, generator=rng).squeeze(1)


class ParallelSampler:
    """Draws images of a generator on several threads. They equal those of a single batch to 1e-5."""

    def __init__(self, module: Generator) -> None:
        """`module` must be in eval mode, on the CPU."""
        self._module = module

    def draw(self, latents: Iterable[Latents]) -> Iterator[Tensor]:
        """Images [k, channels, height, width] in order, in parts. Latents are read while images are drawn."""
        workers = torch.get_num_threads()
        with ThreadPoolExecutor(workers, initializer=_use_one_thread) as pool:
            waiting: deque[Future[Tensor]] = deque()
            for noise, labels, tasks in latents:
                parts = tasks.split(_PART) if tasks is not None else [None] * -(-len(labels) // _PART)
                for part in zip(noise.split(_PART), labels.split(_PART), parts, strict=True):
                    waiting.append(pool.submit(self._draw_part, part))
                    if len(waiting) > 2 * workers:
                        yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()

    @torch.no_grad()
    def _draw_part(self, latents: Latents) -> Tensor:
        images: Tensor = self._module(*latents)
        return images.contiguous()


def _whole_numbers(labels: Sequence[int] | Tensor) -> Tensor:
    """`labels` as a tensor [K]. Raises `BadInput` for anything but one or more whole numbers in a row."""
    expected = BadInput("labels: expected a list of whole numbers, one for each image, such as [0, 3, 9]")
    try:
        tensor = torch.as_tensor(labels)
    except (TypeError, ValueError, RuntimeError, OverflowError):
        raise expected from None
    if tensor.ndim != 1 or not len(tensor) or tensor.is_floating_point() or tensor.is_complex() or tensor.dtype == torch.bool:
        raise expected
    return tensor.long()


def _use_one_thread() -> None:
    """Let torch use no further threads for the work of this one."""
    torch.set_num_threads(1)
