"""One step of all members: their trainers' tensors as rows of common ones."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor
from torch.func import vmap

from gbc.kkt.objectives import IMAGE_LOSSES, Batch, weights
from gbc.training.cuda_graph import Replayed
from gbc.training.generator import Generator
from gbc.training.optimiser import StackedAdam
from gbc.training.pack.classifier_term import StackedSubject
from gbc.training.pack.columns import Columns
from gbc.training.pack.networks import Generators, Network
from gbc.training.reporting import Seen

if TYPE_CHECKING:
    from gbc.training.pack.members import Member


class Stack:
    """The tensors of some members, a row each."""

    def __init__(self, members: Sequence[Member]) -> None:
        self.members = list(members)
        self._trainers = [member._trainer for member in members]
        self._first = self._trainers[0]
        configs = [member.config for member in members]
        device = self._first.device

        self._columns = Columns(self._first.trained)
        moments = [[trainer.optimiser.state.get(p, {}) for p in trainer.trained] for trainer in self._trainers]
        self._adam = StackedAdam(
            torch.stack([self._columns.row([p.detach() for p in trainer.trained]) for trainer in self._trainers]),
            torch.stack([self._columns.row([one.get("exp_avg") for one in row]) for row in moments]),
            torch.stack([self._columns.row([one.get("exp_avg_sq") for one in row]) for row in moments]),
            torch.tensor([member.step_count for member in members], dtype=torch.float64, device=device),
        )
        self._leaves = [view.detach().requires_grad_() for view in self._columns.views(self._adam.values)]
        at = 0
        self._networks: list[Network] = []
        for modules in ([t.generator for t in self._trainers], [t.multipliers for t in self._trainers]):
            count = len(list(modules[0].parameters()))
            kind = Generators if isinstance(modules[0], Generator) else Network
            self._networks.append(kind(modules, self._leaves[at : at + count]))
            at += count
        self._alphas = self._leaves[at:]

        def numbers(values: Iterator[float], dtype: torch.dtype | None = None) -> Tensor:
            return torch.tensor(list(values), dtype=dtype, device=device)

        self._lr = numbers((config.lr for config in configs), torch.float64)
        self._horizon = numbers((config.steps for config in configs), torch.float64)
        self._cosine = torch.tensor([config.lr_schedule == "cosine" for config in configs], device=device)
        self._decay = numbers(config.weight_decay for config in configs)
        self._own = {name: numbers(getattr(config, name) for config in configs) for name in ("delta", "row_space_level")}
        self._image_weights = {
            name: numbers(weights(config)[name] for config in configs) for name in IMAGE_LOSSES if weights(configs[0])[name]
        }
        self._subjects = [
            StackedSubject([trainer.subjects[index] for trainer in self._trainers]) for index in range(len(self._alphas))
        ]
        # Of the steps since the last report of each member, or since it was stacked.
        self._sums: Tensor | None = None  # [names, K]
        self._counts = [0] * len(members)
        self._made: Made | None = None
        self._replayed = Replayed(self._body, [trainer.rng for trainer in self._trainers], self._moving)

    def step(self) -> None:
        """One step of every member; the device is not waited for."""
        self._made = self._replayed()
        for row, trainer in enumerate(self._trainers):
            trainer.step_count += 1
            self._counts[row] += 1

    def _body(self) -> Made:
        """What the device does in a step."""
        parts: dict[str, Tensor] = {}
        terms: list[Tensor] = []

        def add(name: str, weight: Tensor, value: Tensor) -> None:
            parts[name] = parts.get(name, 0) + value
            terms.append(weight * value)

        batches: list[Batch] = []
        seen: dict[int, Seen] = {}
        rhos: dict[int, Tensor] = {}
        for task in range(len(self._first.labels_of_task)):
            images, noise, labels = self._sample(task)
            batches.append(Batch(images.detach(), noise, labels, len(self._first.labels_of_task[task])))
            for name, weight in self._image_weights.items():
                loss = partial(_image_loss, name, len(self._first.labels_of_task[task]))
                add(name, weight, vmap(loss)(images, noise, labels))
            for index, subject in enumerate(self._subjects):
                if subject.task == task:
                    found = subject.look(images, labels, self._alphas[index], self._own, self._networks[1])
                    for name, weight in subject.weights.items():
                        add(name, weight, found.losses[name])
                    seen[index] = found.seen
                    if found.rho is not None:
                        rhos[index] = found.rho
        total = torch.stack(terms).sum(dim=0)
        gradients = torch.autograd.grad(total.sum(), self._leaves, allow_unused=True)
        values = {f"loss/{name}": value.detach() for name, value in {"total": total, **parts}.items()}
        for index, rho in rhos.items():
            values["kkt/rho"] = values.get("kkt/rho", 0) + rho / len(seen)
            if len(seen) > 1:
                values[f"kkt/rho_{index + 1}"] = rho
        return Made(batches, list(seen.values()), *self._advance(values, gradients))

    @torch.no_grad()
    def _advance(self, values: dict[str, Tensor], gradients: Sequence[Tensor | None]) -> tuple[list[str], list[bool]]:
        """Adam's step. Returns the names of what was added up, and which parameters something asked for."""
        used = [gradient is not None for gradient in gradients]
        gradient = self._columns.rows(gradients, like=self._adam.values)
        first = len(self._networks[0].leaves)
        second = first + len(self._networks[1].leaves)
        generator, networks = self._columns.starts[first], self._columns.starts[second]
        if any(used[:first]):
            values["grad/generator"] = torch.linalg.vector_norm(gradient[:, :generator], dim=1)
        if any(used[first:second]):  # without stationarity nothing asks for multipliers
            values["grad/multipliers"] = torch.linalg.vector_norm(gradient[:, generator:networks], dim=1)
        stacked = torch.stack(list(values.values()))
        if self._sums is None:
            self._sums = torch.zeros_like(stacked)
        self._sums.add_(stacked)

        # A member that is lost stays as it is, so that not even a kernel that pads with 0 takes its NaN to a neighbour.
        gradient.masked_fill_(~stacked.isfinite().all(dim=0)[:, None], 0)
        wave = 0.5 * (1 + torch.cos(torch.pi * self._adam.steps / self._horizon))
        rate = torch.where(self._cosine, self._lr * wave, self._lr)
        self._adam.step(gradient, rate, self._decay, networks if any(used[first:second]) else generator)
        return list(values), used

    def _moving(self) -> list[Tensor]:
        """Every tensor that a step changes, except for the random generators'."""
        adam = self._adam
        buffers = [buffer for network in self._networks for buffer in network.buffers.values()]
        return [adam.values, adam.mean, adam.square, adam.steps, *buffers, *([] if self._sums is None else [self._sums])]

    def _sample(self, task: int) -> tuple[Tensor, Tensor, Tensor]:
        """Images [K, M, …], noise [K, M, …] and labels [K, M], from each member's own numbers in its own order."""
        starts = torch.stack([trainer._start(task) for trainer in self._trainers])
        labels = self._first._labels(task, starts[:, None])
        noise = torch.stack([trainer._noise(row) for trainer, row in zip(self._trainers, labels, strict=True)])
        return self._networks[0](noise, labels, torch.full_like(labels, task)), noise, labels

    @torch.no_grad()
    def hand_back(self, row: int) -> None:
        """Bring the trainer of a member to where the member is."""
        if not self._counts[row]:
            return
        trainer, adam = self._trainers[row], self._adam
        assert self._made is not None and self._sums is not None
        mine = (self._columns.views(tensor[row : row + 1]) for tensor in (adam.values, adam.mean, adam.square))
        for parameter, used, (value, mean, square) in zip(
            trainer.trained, self._made.used, zip(*mine, strict=True), strict=True
        ):
            if used:
                parameter.copy_(value[0])
                trainer.optimiser.state[parameter] = {
                    "step": torch.full((), float(trainer.step_count), dtype=torch.float32, device=parameter.device),
                    "exp_avg": mean[0].clone(memory_format=torch.contiguous_format),
                    "exp_avg_sq": square[0].clone(memory_format=torch.contiguous_format),
                }
        for network, module in zip(self._networks, (trainer.generator, trainer.multipliers), strict=True):
            for name, buffer in module.named_buffers():
                buffer.copy_(network.buffers[name][row])
        trainer.step_count -= 1
        trainer._schedule()  # as at the last step
        trainer.step_count += 1

        for name, value in zip(self._made.names, self._sums[:, row].clone(), strict=True):
            trainer._sums[name] = trainer._sums.get(name, 0) + value
            trainer._counts[name] = trainer._counts.get(name, 0) + self._counts[row]
        self._sums[:, row] = 0
        self._counts[row] = 0
        trainer._batches = [
            Batch(made.images[row].clone(), made.noise[row].clone(), made.labels[row].clone(), made.classes)
            for made in self._made.batches
        ]
        trainer._seen = [
            Seen(margins[row].clone(), None if multipliers is None else multipliers[row].clone())
            for margins, multipliers in self._made.seen
        ]

    def let_go(self) -> None:
        """Of the captured step, which holds this stack: a GPU's memory is free at once and not at the next collection."""
        self._replayed.forget()
        del self._replayed


class Made(NamedTuple):
    """What a step leaves behind."""

    batches: list[Batch]
    """Of each task; a row a member."""
    seen: list[Seen]
    """Of each classifier in the order of the passes; a row a member."""
    names: list[str]
    """Of the rows of the sums."""
    used: list[bool]
    """Which parameters got a gradient."""


def _image_loss(name: str, classes: int, images: Tensor, noise: Tensor, labels: Tensor) -> Tensor:
    return IMAGE_LOSSES[name](Batch(images, noise, labels, classes))
