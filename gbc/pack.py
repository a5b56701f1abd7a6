"""Several trials at once on one device: their tensors are stacked, so that K trials cost about the launches of one.

A member is a `Trainer`, which starts it, draws its batches and makes its reports. While a pack steps, parameters, buffers and
Adam's moments of all members are rows of common tensors; what is asked of one member is handed back to its trainer first.
Members never meet: every product is a batched one, and the gradient of a sum over members is each member's own.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Hashable, Iterator, Sequence
from functools import partial
from typing import Any, Final, NamedTuple

import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap

from gbc import losses
from gbc.classifiers import Classifier, normalising_by, two_logits
from gbc.config import TrialConfig
from gbc.errors import BadInput
from gbc.generator import Generator, conditioned
from gbc.graph import Replayed
from gbc.layers import BatchNormReLU, Doubling
from gbc.metrics import Judge
from gbc.objectives import IMAGE_LOSSES, LOSSES, Batch, weights
from gbc.optimiser import StackedAdam
from gbc.report import Report
from gbc.settings import digest
from gbc.subject import Pass, Subject, halves
from gbc.trainer import Seen, Trainer

_OWN: Final = frozenset({
    "lr", "lr_schedule", "weight_decay", "steps", "report_every", "seed", "alpha_init", "delta",
    "beta", "tv_weight", "stationarity_weight", "bn_weight", "ce_weight", "closed_weight", "diversity_weight",
    "bank", "bank_share", "bank_jitter",
})  # fmt: skip
"""Settings in which members may differ; weights of losses only between numbers that are not 0."""

_ALIGNED: Final = 4  # floats: matrix products read 16 bytes at a time


def key(config: TrialConfig) -> Hashable:
    """What settings that share a pack have in common.

    Raises:
        BadInput: settings with which no pack can do.
    """
    if config.kkt_from:
        raise BadInput(f"kkt_from is {config.kkt_from}: losses of a pack cannot join in late; set it to 0 or train alone")
    common = _common(config)
    if not common["losses"]:
        raise BadInput("every loss has weight 0: there is nothing to train; set stationarity_weight or another")
    return digest(common)


def _common(config: TrialConfig) -> dict[str, Any]:
    return config.model_dump(mode="json", exclude=set(_OWN)) | {
        "losses": [n for n, weight in weights(config).items() if weight]
    }


class Member:
    """One trial of a pack."""

    def __init__(self, trainer: Trainer) -> None:
        self._trainer = trainer
        self._began = time.perf_counter()

    @property
    def config(self) -> TrialConfig:
        """Its settings."""
        return self._trainer.config

    @property
    def step_count(self) -> int:
        """How many steps it has made."""
        return self._trainer.step_count

    @property
    def done(self) -> bool:
        """Whether it has made all its steps."""
        return self.step_count >= self.config.steps

    @property
    def due(self) -> bool:
        """Whether its settings ask for a report after the step it has just made."""
        return self.step_count % self.config.report_every == 0


class Pack:
    """Trials on the same classifiers that make their steps together. They join and leave at any time."""

    def __init__(self, classifiers: Sequence[Classifier], judge: Judge | None = None) -> None:
        """`classifiers` and `judge` as a `Trainer` takes them; they are every member's."""
        self._classifiers, self._judge = classifiers, judge
        self.members: list[Member] = []
        self._first: TrialConfig | None = None
        self._subjects: Sequence[Subject] = ()
        self._stack: _Stack | None = None

    def add(self, config: TrialConfig, state: dict[str, Any] | None = None) -> Member:
        """A new member; `state` is the `state_dict()` of a trainer or of a member with the same settings.

        Raises:
            BadInput: settings that do not fit the pack, or whatever a `Trainer` says.
        """
        wanted = key(config)
        if self._first is not None and wanted != key(self._first):
            theirs, mine = _common(self._first), _common(config)
            name = next(name for name in mine if mine[name] != theirs[name])
            raise BadInput(f"{name} is {mine[name]!r} and in this pack {theirs[name]!r}: train it in another")
        trainer = Trainer(config, self._classifiers, self._judge, self._subjects)
        if state is not None:
            trainer.load_state_dict(state)
        self._first, self._subjects = self._first or config, self._subjects or trainer.subjects
        member = Member(trainer)
        self._unstack()
        self.members.append(member)
        return member

    def remove(self, member: Member) -> None:
        """Go on without it."""
        self._unstack()
        self.members.remove(member)

    def step(self) -> None:
        """One step of every member that is not at its end. The device is waited for only where who steps has changed."""
        active = [member for member in self.members if not member.done]
        if self._stack is None or self._stack.members != active:
            self._unstack()
            self._stack = _Stack(active) if active else None
        if self._stack is not None:
            self._stack.step()

    def report(self, member: Member) -> Report:
        """What its trainer would say after as many steps; means are over the steps since its last report, at least one.

        Raises:
            Diverged: a loss of this member is not finite. Its neighbours go on as if it were not there.
        """
        self._hand_back(member)
        began, member._began = member._began, time.perf_counter()
        return member._trainer._report(began)

    def state_dict(self, member: Member) -> dict[str, Any]:
        """What its trainer would save: a trial may go on alone, or in another pack. Tensors are not copied, as there."""
        self._hand_back(member)
        return member._trainer.state_dict()

    def _hand_back(self, member: Member) -> None:
        if self._stack is not None and member in self._stack.members:
            self._stack.hand_back(self._stack.members.index(member))

    def _unstack(self) -> None:
        if self._stack is not None:
            for row in range(len(self._stack.members)):
                self._stack.hand_back(row)
            self._stack.let_go()
        self._stack = None


class _Stack:
    """The tensors of some members, a row each."""

    def __init__(self, members: Sequence[Member]) -> None:
        self.members = list(members)
        self._trainers = [member._trainer for member in members]
        self._first = self._trainers[0]
        configs = [member.config for member in members]
        device = self._first.device

        self._columns = _Columns(self._first.trained)
        moments = [[trainer.optimiser.state.get(p, {}) for p in trainer.trained] for trainer in self._trainers]
        self._adam = StackedAdam(
            torch.stack([self._columns.row([p.detach() for p in trainer.trained]) for trainer in self._trainers]),
            torch.stack([self._columns.row([one.get("exp_avg") for one in row]) for row in moments]),
            torch.stack([self._columns.row([one.get("exp_avg_sq") for one in row]) for row in moments]),
            torch.tensor([member.step_count for member in members], dtype=torch.float64, device=device),
        )
        self._leaves = [view.detach().requires_grad_() for view in self._columns.views(self._adam.values)]
        at = 0
        self._networks: list[_Network] = []
        for modules in ([t.generator for t in self._trainers], [t.multipliers for t in self._trainers]):
            count = len(list(modules[0].parameters()))
            kind = _Generators if isinstance(modules[0], Generator) else _Network
            self._networks.append(kind(modules, self._leaves[at : at + count]))
            at += count
        self._alphas = self._leaves[at:]

        def numbers(values: Iterator[float], dtype: torch.dtype | None = None) -> Tensor:
            return torch.tensor(list(values), dtype=dtype, device=device)

        self._lr = numbers((config.lr for config in configs), torch.float64)
        self._horizon = numbers((config.steps for config in configs), torch.float64)
        self._cosine = torch.tensor([config.lr_schedule == "cosine" for config in configs], device=device)
        self._decay = numbers(config.weight_decay for config in configs)
        self._delta = numbers(config.delta for config in configs)
        self._image_weights = {
            name: numbers(weights(config)[name] for config in configs) for name in IMAGE_LOSSES if weights(configs[0])[name]
        }
        self._subjects = [
            _StackedSubject([trainer.subjects[index] for trainer in self._trainers]) for index in range(len(self._alphas))
        ]
        # Of the steps since the last report of each member, or since it was stacked.
        self._sums: Tensor | None = None  # [names, K]
        self._counts = [0] * len(members)
        self._made: _Made | None = None
        self._replayed = Replayed(self._body, [trainer.rng for trainer in self._trainers], self._moving)

    def step(self) -> None:
        self._made = self._replayed()
        for row, trainer in enumerate(self._trainers):
            trainer.step_count += 1
            self._counts[row] += 1

    def _body(self) -> _Made:
        """What the device does in a step."""
        parts: dict[str, Tensor] = {}
        terms: list[Tensor] = []

        def add(name: str, weight: Tensor, value: Tensor) -> None:
            parts[name] = parts.get(name, 0) + value
            terms.append(weight * value)

        seen: dict[int, Seen] = {}
        rhos: dict[int, Tensor] = {}
        for task in range(len(self._first.labels_of_task)):
            images, noise, labels = self._sample(task)
            for name, weight in self._image_weights.items():
                loss = partial(_image_loss, name, len(self._first.labels_of_task[task]))
                add(name, weight, vmap(loss)(images, noise, labels))
            for index, subject in enumerate(self._subjects):
                if subject.task == task:
                    found = subject.look(images, labels, self._alphas[index], self._delta, self._networks[1])
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
        return _Made(list(seen.values()), *self._advance(values, gradients))

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
        trainer._seen = [
            Seen(margins[row].clone(), None if multipliers is None else multipliers[row].clone())
            for margins, multipliers in self._made.seen
        ]

    def let_go(self) -> None:
        """Of the captured step, which holds this stack: a GPU's memory is free at once and not at the next collection."""
        self._replayed.forget()
        del self._replayed


class _Made(NamedTuple):
    """What a step leaves behind."""

    seen: list[Seen]
    """Of each classifier in the order of the passes; a row a member."""
    names: list[str]
    """Of the rows of the sums."""
    used: list[bool]
    """Which parameters got a gradient."""


class _Look(NamedTuple):
    """What a classifier makes of a batch of every member."""

    losses: dict[str, Tensor]
    """[K] each."""
    rho: Tensor | None
    """[K]; with stationarity alone."""
    seen: Seen
    """A row a member."""


class _StackedSubject:
    """One classifier before the samples of every member."""

    def __init__(self, subjects: Sequence[Subject]) -> None:
        self.subject, members, device = subjects[0], len(subjects), subjects[0].local.device
        self.task = self.subject.task
        self.weights = {
            name: torch.tensor([subject.weights[name] for subject in subjects], device=device)
            for name, weight in self.subject.weights.items() if weight
        }  # fmt: skip
        self._pulled = "stationarity" in self.weights or "closed" in self.weights
        self._names = [name for name, _ in self.subject.phi.named_parameters()]
        self._zeta = [parameter.detach() for parameter in self.subject.zeta]
        if self._pulled:  # a gradient for each member, so a ζ for each; none of them is ever copied
            self._zeta = [part.expand(members, *part.shape).requires_grad_() for part in self._zeta]
        mine = [id(parameter) for parameter in self.subject.zeta]
        self._decayed = [self._zeta[mine.index(id(parameter))] for parameter in self.subject.decayed]

    def look(self, images: Tensor, labels: Tensor, alpha: Tensor, delta: Tensor, network: _Network) -> _Look:
        """Images [K, M, …] with the generator's labels [K, M] through Φ; α and δ are [K]."""
        subject = self.subject
        labels = subject.local[labels]
        with normalising_by(subject.phi, subject.config.bn_mode):
            logits, statistics = vmap(self._forward, in_dims=(0 if self._pulled else None, 0))(self._zeta, images)
        subject.batch_norm_inputs.forget()
        known: dict[str, Any] = {"logits": logits, "labels": labels, "batch_norm": statistics}
        if "stationarity" in self.weights:
            known["multipliers"] = network(images, labels, subject=subject.index)[..., : logits.shape[2]]
            if subject.config.estimator == "halves":
                parts = [halves(values, logits.shape[2], dim=1) for values in (logits, labels, known["multipliers"])]
                known["half_pulls"] = tuple(self._pull(*half) for half in zip(*parts, strict=True))
            else:
                known["pull"] = self._pull(logits, labels, known["multipliers"])
        if "closed" in self.weights:
            loss = vmap(lambda logits, labels: losses.trained_with(logits, labels, subject.loss))(logits, labels)
            known["descent"] = list(
                torch.autograd.grad(-loss.sum(), self._decayed, create_graph=True, materialize_grads=True)
            )  # fmt: skip
        found, margins, rho = vmap(self._judge)(alpha, delta, known)
        multipliers = known["multipliers"].detach() if "multipliers" in known else None
        return _Look(found, rho.detach() if multipliers is not None else None, Seen(margins.detach(), multipliers))

    def _forward(self, zeta: Sequence[Tensor], images: Tensor) -> tuple[Tensor, list[tuple[Tensor, ...]]]:
        named = dict(zip(self._names, zeta, strict=True))
        logits = two_logits(functional_call(self.subject.phi, named, (images,)))
        return logits, list(self.subject.batch_norm_inputs.statistics()) if "bn" in self.weights else []

    def _pull(self, logits: Tensor, labels: Tensor, multipliers: Tensor) -> tuple[Tensor, ...]:
        sums = vmap(losses.lagrangian)(logits, labels, multipliers)
        return torch.autograd.grad(sums.sum(), self._zeta, create_graph=True, materialize_grads=True)

    def _judge(self, alpha: Tensor, delta: Tensor, known: dict[str, Any]) -> tuple[dict[str, Tensor], Tensor, Tensor]:
        """Of one member: losses, margins, and ρ where there are multipliers."""
        subject = copy.copy(self.subject)
        subject.alpha, subject.config = alpha, subject.config.model_copy(update={"delta": delta})
        seen = Pass.__new__(Pass)  # of which some quantities are known; it finds the others by itself, as ever
        seen.subject = subject
        vars(seen).update(known)
        return (
            {name: LOSSES[name](seen) for name in self.weights},
            seen.margins,
            seen.rho() if "multipliers" in known else alpha,
        )


class _Network:
    """A network of every member: called, it is theirs side by side."""

    def __init__(self, modules: Sequence[nn.Module], leaves: Sequence[Tensor]) -> None:
        """`leaves` [K, …] are the parameters, in order; buffers are stacked here."""
        self.leaves = leaves
        self._parameters = dict(zip((name for name, _ in modules[0].named_parameters()), leaves, strict=True))
        named = [dict(module.named_buffers()) for module in modules]
        self.buffers = {name: torch.stack([buffers[name] for buffers in named]) for name in named[0]}
        self._tensors = {**self._parameters, **self.buffers}
        self._skeleton = copy.deepcopy(modules[0]).to("meta")

    def __call__(self, *inputs: Tensor, **same: Any) -> Tensor:
        """Outputs [K, M, …] for inputs [K, M, …]; `same` is everyone's. Buffers change as training changes them."""
        return self._part(self._skeleton, "", inputs, same)

    def _part(self, module: nn.Module, prefix: str, inputs: tuple[Tensor, ...], same: dict[str, Any]) -> Tensor:
        tensors = {name.removeprefix(prefix): value for name, value in self._tensors.items() if name.startswith(prefix)}

        def one(mine: dict[str, Tensor], *inputs: Tensor) -> Tensor:
            found: Tensor = functional_call(module, mine, inputs, same)
            return found

        found: Tensor = vmap(one)(tensors, *inputs)
        return found


class _Generators(_Network):
    """Convolutional generators, whose feature maps lie side by side as the channels of one.

    What `vmap` would make of the layers copies these maps from order to order, and they are the most that a step moves.
    """

    def __call__(self, *inputs: Tensor, **same: Any) -> Tensor:
        """As `Generator`, a row a member."""
        network = self._skeleton
        assert isinstance(network, Generator)
        cells = self._part(network.fully_connected, "fully_connected.", (vmap(partial(conditioned, network))(*inputs),), same)
        members, samples = cells.shape[:2]
        maps = cells.view(members, samples, *network.grid).transpose(0, 1).flatten(1, 2)  # [M, K channels, height, width]
        for name, layer in network.transposed.named_children():
            own = {key: self._tensors[f"transposed.{name}.{key}"].flatten(0, 1) for key in _AS_CHANNELS[type(layer)]}
            if isinstance(layer, nn.ConvTranspose2d):
                assert not isinstance(layer.padding, str)
                maps = torch.conv_transpose2d(maps, own["weight"], own["bias"], layer.stride, layer.padding, groups=members)
            elif isinstance(layer, BatchNormReLU):
                assert layer.momentum is not None
                # The statistics are views of the buffers, and change with them.
                maps = torch.nn.functional.batch_norm(maps, **own, training=True, momentum=layer.momentum, eps=layer.eps).relu()
                self.buffers[f"transposed.{name}.num_batches_tracked"].add_(1)
        return torch.sigmoid(maps).unflatten(1, (members, -1)).transpose(0, 1).contiguous()


_AS_CHANNELS: Final[dict[type[nn.Module], tuple[str, ...]]] = {
    Doubling: ("weight", "bias"),
    nn.ConvTranspose2d: ("weight", "bias"),
    BatchNormReLU: ("weight", "bias", "running_mean", "running_var"),
    nn.Identity: (),
}
"""Tensors of a layer whose first axis is that of channels."""


class _Columns:
    """Tensors of one member side by side in a row [P]."""

    def __init__(self, tensors: Sequence[Tensor]) -> None:
        self._shapes = [tensor.shape for tensor in tensors]
        self._gaps = [-tensor.numel() % _ALIGNED for tensor in tensors]
        self.starts = [0]
        """Where each tensor starts, and where the last one ends."""
        for tensor, gap in zip(tensors, self._gaps, strict=True):
            self.starts.append(self.starts[-1] + tensor.numel() + gap)
        self._device, self._dtype = tensors[0].device, tensors[0].dtype

    def row(self, tensors: Sequence[Tensor | None]) -> Tensor:
        """[P] from a member's own tensors; None is 0."""
        like = torch.zeros(1, self.starts[-1], dtype=self._dtype, device=self._device)
        return self.rows([None if tensor is None else tensor[None] for tensor in tensors], like)[0]

    def rows(self, tensors: Sequence[Tensor | None], like: Tensor) -> Tensor:
        """[K, P] from tensors [K, …]; None is 0."""
        parts = []
        for tensor, shape, gap in zip(tensors, self._shapes, self._gaps, strict=True):
            parts.append(like.new_zeros(len(like), shape.numel()) if tensor is None else tensor.reshape(len(like), -1))
            if gap:
                parts.append(like.new_zeros(len(like), gap))
        return torch.cat(parts, dim=1)

    def views(self, rows: Tensor) -> list[Tensor]:
        """Tensors [K, …] that lie in `rows` [K, P]."""
        return [
            rows[:, start : start + shape.numel()].view(len(rows), *shape)
            for start, shape in zip(self.starts[:-1], self._shapes, strict=True)
        ]


def _image_loss(name: str, classes: int, images: Tensor, noise: Tensor, labels: Tensor) -> Tensor:
    return IMAGE_LOSSES[name](Batch(images, noise, labels, classes))
