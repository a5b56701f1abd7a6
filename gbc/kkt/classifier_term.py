"""One classifier under study: Φ with its parameters, Λ and α, and what a batch of samples looks like through it."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Final

import torch
from torch import Tensor, nn

from gbc import losses
from gbc.classifiers import convergence
from gbc.classifiers.architectures import BatchNormInputs, Classifier, normalising_by, two_logits, with_surrogate
from gbc.config import SubjectConfig, TrialConfig
from gbc.errors import BadInput, NotQuasiHomogeneous
from gbc.kkt import homogeneity
from gbc.kkt.multipliers import FreeMultipliers, Multipliers
from gbc.kkt.row_space import RowSpaces

# A wrong Λ is off by tens of per cent; float64 rounding through three layers stays below 1e-9.
_LAMBDA_TOLERANCE: Final = 1e-8


class Subject:
    """Φ^(t) of Algorithm 2, ready for training: its own α, its own labels, its own factors on the loss weights."""

    def __init__(
        self,
        classifier: Classifier,
        trained: SubjectConfig,
        config: TrialConfig,
        index: int,
        class_names: Sequence[str],
        device: torch.device,
    ) -> None:
        """`index` counts subjects; `class_names` are those of the generator, which knows the labels of all subjects.

        Raises:
            NotQuasiHomogeneous: Λ does not satisfy its definition on this classifier.
            BadInput: a row space is asked for, and the classifier has none.
        """
        self.classifier, self.config, self.index, self.task = classifier, config, index, trained.task
        self.phi = classifier.module.to(device)
        probe = torch.rand(32, *classifier.shape, generator=torch.Generator().manual_seed(0)).to(device)
        degrees = homogeneity.POLICIES[config.lambda_policy](self.phi, config.bn_mode, config.lambda_values or {}, probe)
        self._check(degrees, probe)
        if config.surrogate:
            with_surrogate(self.phi, config.surrogate)
        self.zeta = list(self.phi.parameters())
        self.target = losses.Target(self.zeta, [degrees[name] for name, _ in self.phi.named_parameters()], classifier.samples)
        self.batch_norm_inputs = BatchNormInputs(self.phi)

        # The closed form asks nothing of weights whose scale Φ ignores: gradient descent leads those to ∇ = 0.
        invariant = convergence.before_batch_norm(self.phi, torch.rand(2, *classifier.shape, device=device))
        self.decayed = [p for name, p in self.phi.named_parameters() if name.rpartition(".")[0] not in invariant]
        self.loss = trained.classifier.loss
        decay = trained.classifier.weight_decay
        self.decay_targets = [decay * parameter.detach() for parameter in self.decayed]

        known = [classifier.class_names.index(name) if name in classifier.class_names else -1 for name in class_names]
        self.local = torch.tensor(known, device=device)
        """Its own number of each of the generator's labels; −1 for those it does not know."""
        start = config.alpha_init
        if config.alpha == "last_layer":
            start = -math.log(convergence.margin_of_last_layer(self.phi, trained.classifier.weight_decay))
        self.alpha: Tensor = torch.tensor(start, device=device, requires_grad=True)
        if config.alpha == "last_layer":
            self.alpha.register_hook(torch.zeros_like)
        self.weights = {name: weight * trained.factor(name) for name, weight in loss_weights(config).items()}
        if not self.batch_norm_inputs.layers:
            self.weights["bn"] = 0.0
        self.row_spaces = (
            RowSpaces(self.phi, probe[:2], config.row_space_eps, config.row_space_layers) if self.weights["row_space"] else None
        )

    def _check(self, degrees: homogeneity.Degrees, probe: Tensor) -> None:
        # The ideal normalisation: a λ that relies on scale invariance is right although eps leaves a trace of the scale.
        error = homogeneity.relative_error(self.phi, degrees, probe, mode=self.config.bn_mode, eps=homogeneity.EPS)
        if not error < _LAMBDA_TOLERANCE:
            raise NotQuasiHomogeneous(self.config.lambda_policy, f"Φ(x; e^(αΛ)ζ) is off by {error:.1e} (relative)")


def loss_weights(config: TrialConfig) -> dict[str, float]:
    """The weight of each loss that is a classifier's business, Eq. (7) and what we add to it."""
    return {
        "stationarity": config.stationarity_weight,
        "duality": config.beta,
        "closed": config.closed_weight,
        "reconstruction": config.reconstruction_weight,
        "row_space": config.row_space_weight,
        "bn": config.bn_weight,
        "ce": config.ce_weight,
    }


def check_factors(subjects: Sequence[SubjectConfig], config: TrialConfig) -> None:
    """Every factor names a loss.

    Raises:
        BadInput: it does not.
    """
    known = loss_weights(config)
    for subject in subjects:
        for name in subject.weights:
            if name not in known:
                raise BadInput(f"weights: {name!r} is not a loss; known: {', '.join(known)}")


class Pass:
    """One batch seen by one subject. Quantities are computed when a loss first asks, so absent losses cost nothing."""

    def __init__(
        self, subject: Subject, multipliers: Multipliers, images: Tensor, labels: Tensor, latents: Tensor | None = None
    ) -> None:
        """`images` [M, channels, height, width] carry the generator's graph, `labels` [M] are the generator's.

        Free multipliers are found by the images' `latents`, their numbers [M].
        """
        self.subject, self.images = subject, images
        self.labels = subject.local[labels]
        self._network, self._latents = multipliers, latents

    @cached_property
    def logits(self) -> Tensor:
        """Φ(x; ζ), [M, C]."""
        with normalising_by(self.subject.phi, self.subject.config.bn_mode):
            return two_logits(self.subject.phi(self.images))

    @cached_property
    def multipliers(self) -> Tensor:
        """μ, [M, C]."""
        if isinstance(self._network, FreeMultipliers):
            free: Tensor = self._network(self._latents, self.logits, self.labels, self.subject.index)
            return free
        found: Tensor = self._network(self.images, self.labels, self.subject.index)
        return found[:, : self.logits.shape[1]]

    @cached_property
    def pull(self) -> tuple[Tensor, ...]:
        """Right-hand side of Eq. (4), by parameter tensor."""
        return losses.pull(self.logits, self.labels, self.multipliers, self.subject.zeta)

    @cached_property
    def half_pulls(self) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
        """The same from every second sample and from the others; labels are as balanced in both."""
        parts = [_halves(values, self.logits.shape[1]) for values in (self.logits, self.labels, self.multipliers)]
        first, second = zip(*parts, strict=True)
        return self._pull_of(*first), self._pull_of(*second)

    def _pull_of(self, logits: Tensor, labels: Tensor, multipliers: Tensor) -> tuple[Tensor, ...]:
        return losses.pull(logits, labels, multipliers, self.subject.zeta)

    @cached_property
    def target(self) -> losses.Parts:
        """Left-hand side of Eq. (4), by parameter tensor."""
        return self.subject.target.at(self.subject.alpha)

    @cached_property
    def distance(self) -> Tensor:
        """‖target − pull‖, Eq. (5)."""
        return losses.stationarity(self.target, self.pull)

    @cached_property
    def descent(self) -> list[Tensor]:
        """Minus the gradient of the loss Φ was trained with, for the parameters that weight decay holds back."""
        return losses.descent(self.logits, self.labels, self.subject.decayed, self.subject.loss)

    @cached_property
    def margins(self) -> Tensor:
        """Φ_y − max Φ_c, [M]."""
        return losses.margins(self.logits, self.labels)

    @cached_property
    def batch_norm(self) -> list[tuple[Tensor, Tensor, Tensor, Tensor]]:
        """Statistics of the last forward pass beside the stored ones, by layer."""
        assert self.logits is not None  # the hooks saw this batch
        return self.subject.batch_norm_inputs.statistics()

    @cached_property
    def row_space_costs(self) -> Tensor:
        """What each sample has outside the row space of the classifier's layers, [M] in [0, 1]."""
        assert self.logits is not None  # the hooks saw this batch
        assert self.subject.row_spaces is not None  # its loss has weight
        return self.subject.row_spaces.costs()

    def stationarity(self) -> Tensor:
        """Eq. (5), or one of its forms that are free of scale."""
        return ESTIMATORS[self.subject.config.estimator](self)

    def rho(self) -> Tensor:
        """ρ; with the unbiased estimator √ρ̂², 0 where the estimate is negative."""
        if self.subject.config.estimator == "halves":
            return self.stationarity().clamp_min(0).sqrt()
        return losses.relative_residual(self.target, self.pull)

    def cosine_residual(self) -> Tensor:
        """1 − cosine of pull and target, and how far their sizes are apart, as in the closed form: of tensors with a target."""
        targets = [part for part in self.target if part is not None]
        pulls = [found for part, found in zip(self.target, self.pull, strict=True) if part is not None]
        return losses.closed_form(targets, pulls)


ESTIMATORS: Final[dict[str, Callable[[Pass], Tensor]]] = {
    "norm": lambda p: p.distance,
    "relative": Pass.rho,
    "cosine": Pass.cosine_residual,
    "halves": lambda p: losses.stationarity_halves(p.target, *p.half_pulls),
}
"""Forms of the stationarity loss."""


def _halves(values: Tensor, classes: int) -> tuple[Tensor, Tensor]:
    """Two half batches of [M, …].

    Labels come in cyclic order: halves by turns of the cycle, not by parity, hold every label.
    """
    turns = values.split(classes)
    return torch.cat(turns[::2]), torch.cat(turns[1::2])


@torch.no_grad()
def opinion(phi: nn.Module, inputs: BatchNormInputs, images: Tensor, labels: Tensor) -> dict[str, float]:
    """What a classifier alone says of `images` [K, …] with its own labels [K]; `inputs` are those of its BatchNorm layers.

    Normalised by its own statistics, whatever a trial's `bn_mode` is, so that trials compare.
    """
    with normalising_by(phi, "eval"):
        logits = two_logits(phi(images))
    found = {
        "classifier/accuracy": (logits.argmax(dim=1) == labels).float().mean().item(),
        "free/confidence": logits.softmax(dim=1).gather(1, labels[:, None]).mean().item(),
    }
    if inputs.layers:
        found["free/bn"] = losses.batch_norm_statistics(inputs.statistics()).item()
    return found


def union(classifiers: Sequence[Classifier]) -> tuple[str, ...]:
    """Every class name once, in order of first appearance: the labels of the generator."""
    return tuple(dict.fromkeys(name for classifier in classifiers for name in classifier.class_names))


def labels_of_task(wanted: Sequence[SubjectConfig], classifiers: Sequence[Classifier]) -> list[list[int]]:
    """For each task the generator's labels that all its classifiers know; its samples carry no others.

    Raises:
        BadInput: the classifiers of a task have no class in common.
    """
    names, found = union(classifiers), []
    for task in range(max(subject.task for subject in wanted) + 1):
        mine = [set(c.class_names) for c, subject in zip(classifiers, wanted, strict=True) if subject.task == task]
        shared = set.intersection(*mine)
        if not shared:
            raise BadInput(f"experts: the classifiers of task {task} share no class")
        found.append([label for label, name in enumerate(names) if name in shared])
    return found
