"""The losses that the trainer adds up, one entry each. Their weights are settings of a trial."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

from torch import Tensor

from gbc import losses
from gbc.classifier_config import TrialClassifierConfig
from gbc.config import TrialConfig
from gbc.errors import BadInput
from gbc.kkt.trial_classifier import ForwardPass


@dataclass(frozen=True)
class Batch:
    """Generated samples of one task, with their noise and labels."""

    images: Tensor
    """[M, channels, height, width], or points [M, d]; with the generator's graph while it is trained."""
    noise: Tensor
    """[M, noise_dim]; for `Pixels` the numbers [M] of the images."""
    labels: Tensor
    """The generator's labels, [M]."""
    classes: int
    """Number of labels of the task; `labels` repeats them in cyclic order."""


@dataclass(frozen=True)
class Loss:
    """A function of a batch's forward pass through a classifier, or of the batch alone. Exactly one of the two is given."""

    of_classifier: Callable[[ForwardPass], Tensor] | None = None
    of_images: Callable[[Batch], Tensor] | None = None
    kkt: bool = False
    """True for a loss that follows from the KKT conditions; it counts in `kkt/active`."""
    from_start: bool = True
    """False for a loss that starts at `kkt_from`."""


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
    # It follows from stationarity of the first layer, but does not wait for `kkt_from`.
    "row_space": Loss(lambda p: losses.row_space(p.row_space_costs, p.classifier.config.row_space_level), kkt=True),
    "bn": Loss(lambda p: losses.batch_norm_statistics(p.batch_norm)),
    "ce": Loss(lambda p: losses.cross_entropy(p.logits, p.labels)),
    "contrast": Loss(ForwardPass.contrast),
    "tv": Loss(of_images=lambda b: losses.total_variation(b.images)),
    "border": Loss(of_images=lambda b: losses.border(b.images)),
    "diversity": Loss(of_images=lambda b: losses.diversity(b.noise, b.images, b.classes)),
}
"""Losses by name. The weight of each is the setting NAME_weight (for duality `beta`), see `TrialConfig.loss_weights`."""


def late_losses_count(config: TrialConfig, step: int) -> bool:
    """True if the losses that start at `kkt_from` have started at this step."""
    return step >= config.kkt_from * config.steps


def weighted_losses(config: TrialConfig, batch: Batch, passes: Sequence[ForwardPass], step: int) -> list[Term]:
    """Every loss with a weight at this step: first those of the batch, then those of each pass through a classifier."""
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
    """Check that every factor on a loss weight names a loss of a classifier's forward pass.

    Raises:
        BadInput: a factor names another loss, or none.
    """
    known = [name for name, loss in LOSSES.items() if loss.of_classifier]
    for name in (name for spec in specs for name in spec.weights):
        if name not in known:
            raise BadInput(f"weights: {name!r} is not a loss of a classifier; known: {', '.join(known)}")
