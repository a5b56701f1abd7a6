"""Relative differences between the first step of the trainer and that of the textbook form."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from gbc.training.trainer import Trainer
from tests.benchmarks.plain import Plain, flat


def differences(trainer: Trainer, plain: Plain) -> dict[str, float]:
    """Relative differences of the first step of two that began alike: of the loss, of all gradients of each network, of α's.

    `trainer` reports after every step.
    """
    plain.start_as(trainer)
    loss = plain.step().item()
    theirs = next(trainer.run()).metrics["loss/total"]
    relative = {"loss": abs(loss - theirs) / abs(loss)}
    for name in ("generator", "multipliers"):
        mine, others = (dict(getattr(side, name).named_parameters()) for side in (plain, trainer))
        assert mine.keys() == others.keys()
        relative[name] = _difference([mine[key].grad for key in mine], [others[key].grad for key in mine])
    alphas = [classifier.alpha.grad for classifier in trainer.classifiers]
    return relative | {"alpha": _difference([known.alpha.grad for known in plain.known], alphas)}


def _difference(ours: Sequence[Tensor | None], theirs: Sequence[Tensor | None]) -> float:
    assert [gradient is None for gradient in ours] == [gradient is None for gradient in theirs]
    asked = [(a, b) for a, b in zip(ours, theirs, strict=True) if a is not None and b is not None]
    if not asked:
        return 0.0
    mine, others = (flat(part) for part in zip(*asked, strict=True))
    return (torch.norm(mine - others) / torch.norm(mine)).item()
