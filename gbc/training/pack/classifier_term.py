"""A classifier before the samples of every member."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.func import functional_call, vmap

from gbc import losses
from gbc.classifiers.architectures import normalising_by, two_logits
from gbc.kkt.classifier_term import Pass, Subject, halves
from gbc.kkt.objectives import LOSSES
from gbc.training.pack.networks import Network
from gbc.training.reporting import Seen


class Look(NamedTuple):
    """What a classifier makes of a batch of every member."""

    losses: dict[str, Tensor]
    """[K] each."""
    rho: Tensor | None
    """[K]; with stationarity alone."""
    seen: Seen
    """A row a member."""


class StackedSubject:
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

    def look(self, images: Tensor, labels: Tensor, alpha: Tensor, own: dict[str, Tensor], network: Network) -> Look:
        """Images [K, M, …] with the generator's labels [K, M] through Φ; α and the settings in `own` are [K]."""
        subject = self.subject
        labels = subject.local[labels]
        with normalising_by(subject.phi, subject.config.bn_mode):
            logits, known = vmap(self._forward, in_dims=(0 if self._pulled else None, 0))(self._zeta, images)
        subject.batch_norm_inputs.forget()
        known |= {"logits": logits, "labels": labels}
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
        found, margins, rho = vmap(self._judge)(alpha, own, known)
        multipliers = known["multipliers"].detach() if "multipliers" in known else None
        return Look(found, rho.detach() if multipliers is not None else None, Seen(margins.detach(), multipliers))

    def _forward(self, zeta: Sequence[Tensor], images: Tensor) -> tuple[Tensor, dict[str, Any]]:
        """(logits, what only the hooks saw of this pass)."""
        named = dict(zip(self._names, zeta, strict=True))
        logits = two_logits(functional_call(self.subject.phi, named, (images,)))
        seen: dict[str, Any] = {}
        if "bn" in self.weights:
            seen["batch_norm"] = list(self.subject.batch_norm_inputs.statistics())
        if "row_space" in self.weights:
            assert self.subject.row_spaces is not None
            seen["row_space_costs"] = self.subject.row_spaces.costs()
            self.subject.row_spaces.forget()
        return logits, seen

    def _pull(self, logits: Tensor, labels: Tensor, multipliers: Tensor) -> tuple[Tensor, ...]:
        sums = vmap(losses.lagrangian)(logits, labels, multipliers)
        return torch.autograd.grad(sums.sum(), self._zeta, create_graph=True, materialize_grads=True)

    def _judge(self, alpha: Tensor, own: dict[str, Tensor], known: dict[str, Any]) -> tuple[dict[str, Tensor], Tensor, Tensor]:
        """Of one member: losses, margins, and ρ where there are multipliers."""
        subject = copy.copy(self.subject)
        subject.alpha = alpha.detach() if subject.config.alpha == "last_layer" else alpha
        subject.config = subject.config.model_copy(update=own)
        seen = Pass.__new__(Pass)  # of which some quantities are known; it finds the others by itself, as ever
        seen.subject = subject
        vars(seen).update(known)
        return (
            {name: LOSSES[name](seen) for name in self.weights},
            seen.margins,
            seen.rho() if "multipliers" in known else alpha,
        )
