"""Every loss, one entry each: what the trainer adds up, each with a weight among a trial's settings."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

from torch import Tensor

from gbc import losses
from gbc.config import TrialClassifierConfig, TrialConfig
from gbc.errors import BadInput
from gbc.kkt.trial_classifier import ForwardPass


@dataclass(frozen=True)
class Batch:
    """Samples of one task: what the generator made of what."""

    images: Tensor
    noise: Tensor
    labels: Tensor
    classes: int
    """How many labels the task has; they come in cyclic order."""


@dataclass(frozen=True)
class Loss:
    """One entry: a function of a batch as a classifier sees it, or of the batch alone. Exactly one of the two is given."""

    of_classifier: Callable[[ForwardPass], Tensor] | None = None
    of_images: Callable[[Batch], Tensor] | None = None
    kkt: bool = False
    """Whether a KKT condition asks for it: it counts in `kkt/active`."""
    from_start: bool = True
    """False: `kkt_from` lets it join in late."""


class Term(NamedTuple):
    """One loss of a batch in the total."""

    name: str
    weight: float
    value: Tensor


LOSSES: Final[dict[str, Loss]] = {
    "stationarity": Loss(ForwardPass.stationarity, kkt=True, from_start=False),
    "duality": Loss(
        lambda p: losses.duality(p.margins, p.classifier.alpha, p.classifier.config.delta), kkt=True, from_start=False
    ),
    "closed": Loss(lambda p: losses.closed_form(p.classifier.decay_targets, p.descent), kkt=True, from_start=False),
    "reconstruction": Loss(
        lambda p: losses.reconstruction(p.classifier.zeta, p.margin_gradient, len(p.images)), kkt=True, from_start=False
    ),
    # It follows from stationarity of the first layer, and holds from the first step on.
    "row_space": Loss(lambda p: losses.row_space(p.row_space_costs, p.classifier.config.row_space_level), kkt=True),
    "bn": Loss(lambda p: losses.batch_norm_statistics(p.batch_norm)),
    "ce": Loss(lambda p: losses.cross_entropy(p.logits, p.labels)),
    "tv": Loss(of_images=lambda b: losses.total_variation(b.images)),
    "diversity": Loss(of_images=lambda b: losses.diversity(b.noise, b.images, b.classes)),
}
"""By name. The weight of each is the setting NAME_weight (of duality: `beta`), see `TrialConfig.loss_weights`."""


def late_losses_count(config: TrialConfig, step: int) -> bool:
    """Whether losses that `kkt_from` lets join in late have joined in at this step."""
    return step >= config.kkt_from * config.steps


def weighted_losses(config: TrialConfig, batch: Batch, passes: Sequence[ForwardPass], step: int) -> list[Term]:
    """Every loss that has weight at this step: of the batch, then of each of its passes through a classifier."""
    late = late_losses_count(config, step)
    active = {name: loss for name, loss in LOSSES.items() if loss.from_start or late}
    weights = config.loss_weights()
    of_batch = [
        Term(name, weights[name], loss.of_images(batch)) for name, loss in active.items() if loss.of_images and weights[name]
    ]
    return of_batch + [
        Term(name, p.classifier.weights[name], loss.of_classifier(p))
        for p in passes
        for name, loss in active.items()
        if loss.of_classifier and p.classifier.weights[name]
    ]


def check_factors(specs: Sequence[TrialClassifierConfig]) -> None:
    """Every factor on a loss weight names a loss that a classifier has a say in.

    Raises:
        BadInput: it does not.
    """
    known = [name for name, loss in LOSSES.items() if loss.of_classifier]
    for name in (name for spec in specs for name in spec.weights):
        if name not in known:
            raise BadInput(f"weights: {name!r} is not a loss; known: {', '.join(known)}")
