"""Every loss by name: what the trainer adds up, each with a weight in the config."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, NamedTuple

from torch import Tensor

from gbc import losses
from gbc.config import TrialConfig
from gbc.kkt.classifier_term import Pass, loss_weights


@dataclass(frozen=True)
class Batch:
    """Samples of one task: what the generator made of what."""

    images: Tensor
    noise: Tensor
    labels: Tensor
    classes: int
    """How many labels the task has; they come in cyclic order."""


class Term(NamedTuple):
    """One loss of a batch in the total."""

    name: str
    weight: float
    value: Tensor


LOSSES: Final[dict[str, Callable[[Pass], Tensor]]] = {
    "stationarity": Pass.stationarity,
    "duality": lambda p: losses.duality(p.margins, p.subject.alpha, p.subject.config.delta),
    "closed": lambda p: losses.closed_form(p.subject.decay_targets, p.descent),
    "reconstruction": lambda p: losses.reconstruction(p.subject.zeta, p.pull, len(p.images)),
    "row_space": lambda p: losses.row_space(p.row_space_costs, p.subject.config.row_space_level),
    "bn": lambda p: losses.batch_norm_statistics(p.batch_norm),
    "ce": lambda p: losses.cross_entropy(p.logits, p.labels),
}
"""What a classifier makes of a batch."""

IMAGE_LOSSES: Final[dict[str, Callable[[Batch], Tensor]]] = {
    "tv": lambda b: losses.total_variation(b.images),
    "diversity": lambda b: losses.diversity(b.noise, b.images, b.classes),
}
"""What a batch is worth by itself."""

KKT_LOSSES: Final = ("stationarity", "duality", "closed", "reconstruction")
"""Those that `kkt_from` lets join in late."""

CONDITIONS: Final = ("stationarity", "duality", "closed", "reconstruction", "row_space")
"""Losses that a KKT condition asks for; the row space of the first layer follows from stationarity."""


def weights(config: TrialConfig) -> dict[str, float]:
    """The weight of each loss in the total, Eq. (7) and what we add to it."""
    return {**loss_weights(config), "tv": config.tv_weight, "diversity": config.diversity_weight}
