"""A generator that draws many images: small parts side by side, a thread each.

One thread works through a small part in its cache; several that share one part wait for each other at every layer, and
longest where other programs want the cores too. `tests/benchmarks/sample.py` measures it.
"""

from __future__ import annotations

import copy
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Final

import torch
from torch import Tensor

from gbc.generator import Generator

_PART: Final = 128

Latents = tuple[Tensor, Tensor, Tensor | None]
"""Noise [K, noise_dim], labels [K] and, with several tasks, t [K]."""


class Painter:
    """Draws the images of a generator, which stays as it is; the same to 1e-5."""

    def __init__(self, module: Generator) -> None:
        """`module` is in eval mode, on the CPU."""
        # Channels last is twice as fast. It sums in another order, which is why the judged samples are not drawn so.
        self._module = copy.deepcopy(module).to(memory_format=torch.channels_last)

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
