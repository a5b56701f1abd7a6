"""One classifier of a trial: Φ with its parameters, Λ and α, and the quantities of a forward pass through it."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Final

import torch
from torch import Tensor, nn

from gbc import losses
from gbc.classifier_config import TrialClassifierConfig
from gbc.classifiers import convergence
from gbc.classifiers.architectures import BatchNormInputs, Classifier, normalising_by, two_logits, with_surrogate
from gbc.config import TrialConfig
from gbc.errors import BadInput
from gbc.kkt import availability
from gbc.kkt.feature_queue import FeatureQueue
from gbc.kkt.multipliers import FreeMultipliers, Multipliers
from gbc.kkt.row_space import RowSpaces


class TrialClassifier:
    """Φ^(t) of Algorithm 2, ready for training: its own α, its own labels, its own factors on the loss weights."""

    def __init__(
        self,
        loaded: Classifier,
        spec: TrialClassifierConfig,
        config: TrialConfig,
        index: int,
        class_names: Sequence[str],
        device: torch.device,
    ) -> None:
        """`index` counts classifiers; `class_names` are those of the generator, which has the labels of all classifiers.

        Losses that the classifier cannot have get weight 0 (`gbc.kkt.availability`).

        Raises:
            NotQuasiHomogeneous: Λ of a policy other than `last_layer` does not satisfy its definition on this classifier.
            BadInput: the trial uses the row space, and the classifier has none; or the surrogate, and it has no ReLU layer.
        """
        self.loaded, self.config, self.index, self.task = loaded, config, index, spec.task
        self.phi = loaded.module.to(device)
        probe = availability.probe(loaded.shape, device)
        decay = spec.classifier.weight_decay
        available = availability.availability(self.phi, decay, config, probe)
        if config.surrogate:
            with_surrogate(self.phi, config.surrogate)
        self.zeta = list(self.phi.parameters())
        self.target = losses.Target(
            self.zeta, [available.degrees[name] for name, _ in self.phi.named_parameters()], loaded.samples
        )
        self.batch_norm_inputs = BatchNormInputs(self.phi)

        # The closed form does not apply to weights whose scale has no effect on Φ: gradient descent leads these to ∇ = 0.
        invariant = convergence.before_batch_norm(self.phi, probe)
        self.decayed = [p for name, p in self.phi.named_parameters() if name.rpartition(".")[0] not in invariant]
        self.loss = spec.classifier.loss
        self.decay_targets = [decay * parameter.detach() for parameter in self.decayed]

        self.local = torch.tensor(loaded.numbers_of(class_names), device=device)
        """The classifier's own number of each of the generator's labels; −1 for labels that it does not have."""
        start = config.alpha_init
        if config.alpha == "last_layer":
            start = -math.log(convergence.margin_of_last_layer(self.phi, decay))
        self.alpha: Tensor = torch.tensor(start, device=device, requires_grad=True)
        if config.alpha == "last_layer":
            self.alpha.register_hook(torch.zeros_like)
        self.weights = {name: weight * spec.factor(name) for name, weight in config.loss_weights().items()}
        self.off = available.off
        self.weights |= dict.fromkeys(self.off, 0.0)
        self.queue = FeatureQueue(self.phi, probe[:2], config.contrast_queue).to(device) if self.weights["contrast"] else None
        self.row_spaces = (
            RowSpaces(self.phi, probe[:2], config.row_space_eps, config.row_space_layers) if self.weights["row_space"] else None
        )


class ForwardPass:
    """A batch's forward pass through one classifier. Each quantity is computed at its first use: unused losses cost nothing."""

    def __init__(
        self,
        classifier: TrialClassifier,
        multipliers: Multipliers,
        images: Tensor,
        labels: Tensor,
        latents: Tensor | None = None,
    ) -> None:
        """`images` [M, channels, height, width] carry the generator's graph, `labels` [M] are the generator's.

        For free multipliers, `latents` are the numbers [M] of the images.
        """
        self.classifier, self.images = classifier, images
        self.labels = classifier.local[labels]
        self._multipliers, self._latents = multipliers, latents

    @cached_property
    def logits(self) -> Tensor:
        """Φ(x; ζ), [M, C]."""
        with normalising_by(self.classifier.phi, self.classifier.config.bn_mode):
            return two_logits(self.classifier.phi(self.images))

    @cached_property
    def multipliers(self) -> Tensor:
        """μ, [M, C]."""
        if isinstance(self._multipliers, FreeMultipliers):
            free: Tensor = self._multipliers(self._latents, self.logits, self.labels, self.classifier.index)
            return free
        predicted: Tensor = self._multipliers(self.images, self.labels, self.classifier.index)
        return predicted[:, : self.logits.shape[1]]

    @cached_property
    def margin_gradient(self) -> tuple[Tensor, ...]:
        """Right-hand side of Eq. (4), by parameter tensor."""
        return losses.margin_gradient(self.logits, self.labels, self.multipliers, self.classifier.zeta)

    @cached_property
    def half_margin_gradients(self) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
        """`margin_gradient` of two half batches, in which labels are equally balanced."""
        parts = [_halves(values, self.logits.shape[1]) for values in (self.logits, self.labels, self.multipliers)]
        first, second = zip(*parts, strict=True)
        return self._margin_gradient_of(*first), self._margin_gradient_of(*second)

    def _margin_gradient_of(self, logits: Tensor, labels: Tensor, multipliers: Tensor) -> tuple[Tensor, ...]:
        return losses.margin_gradient(logits, labels, multipliers, self.classifier.zeta)

    @cached_property
    def target(self) -> losses.Parts:
        """Left-hand side of Eq. (4), by parameter tensor."""
        return self.classifier.target.at(self.classifier.alpha)

    @cached_property
    def distance(self) -> Tensor:
        """‖target − pull‖, Eq. (5)."""
        return losses.stationarity(self.target, self.margin_gradient)

    @cached_property
    def descent(self) -> list[Tensor]:
        """Minus the gradient of the training loss of Φ, for the parameters with weight decay in the closed form."""
        return losses.descent(self.logits, self.labels, self.classifier.decayed, self.classifier.loss)

    @cached_property
    def margins(self) -> Tensor:
        """Φ_y − max Φ_c, [M]."""
        return losses.margins(self.logits, self.labels)

    def _run(self) -> None:
        """Make the forward pass if it is not made yet: its hooks record the inputs of layers."""
        _ = self.logits

    @cached_property
    def batch_norm(self) -> list[tuple[Tensor, Tensor, Tensor, Tensor]]:
        """BatchNorm statistics of this forward pass and the stored ones, by layer (`BatchNormInputs.statistics`)."""
        self._run()
        return self.classifier.batch_norm_inputs.statistics()

    @cached_property
    def features(self) -> Tensor:
        """Inputs of the classifier's last layer, [M, d]."""
        self._run()
        assert self.classifier.queue is not None  # its loss has weight
        return self.classifier.queue.features()

    def contrast(self) -> Tensor:
        """InfoNCE of the batch's features among themselves and against those of earlier batches."""
        assert self.classifier.queue is not None
        return losses.contrast(self.features, self.classifier.queue.values)

    @cached_property
    def row_space_costs(self) -> Tensor:
        """Share of each sample's energy outside the row space of the classifier's layers, [M] in [0, 1]."""
        self._run()
        assert self.classifier.row_spaces is not None  # its loss has weight
        return self.classifier.row_spaces.costs()

    def stationarity(self) -> Tensor:
        """Eq. (5) or one of its scale-free forms, as the setting `estimator` says."""
        return ESTIMATORS[self.classifier.config.estimator](self)

    def rho(self) -> Tensor:
        """ρ; with the unbiased estimator √ρ̂², or 0 if the estimate is negative."""
        if self.classifier.config.estimator == "halves":
            return self.stationarity().clamp_min(0).sqrt()
        return self.distance / losses.norm(self.target)

    def cosine_residual(self) -> Tensor:
        """`losses.closed_form` of pull and target, 1 − cosine and a term for their sizes, over tensors that have a target."""
        targets = [part for part in self.target if part is not None]
        pulls = [pull for part, pull in zip(self.target, self.margin_gradient, strict=True) if part is not None]
        return losses.closed_form(targets, pulls)


ESTIMATORS: Final[dict[str, Callable[[ForwardPass], Tensor]]] = {
    "norm": lambda p: p.distance,
    "relative": ForwardPass.rho,
    "cosine": ForwardPass.cosine_residual,
    "halves": lambda p: losses.stationarity_halves(p.target, *p.half_margin_gradients),
}
"""Forms of the stationarity loss, by the value of `estimator`."""


def _halves(values: Tensor, classes: int) -> tuple[Tensor, Tensor]:
    """Two half batches of [M, …].

    Labels are in cyclic order. Alternate cycles, and not alternate samples, go into each half, so that both have every label.
    """
    turns = values.split(classes)
    return torch.cat(turns[::2]), torch.cat(turns[1::2])


@torch.no_grad()
def classifier_metrics(phi: nn.Module, inputs: BatchNormInputs, images: Tensor, labels: Tensor) -> dict[str, float]:
    """Metrics of `images` [K, …] with the classifier's own labels [K] that need the classifier alone, by name.

    `inputs` records the inputs of its BatchNorm layers. They normalise by the stored statistics for every `bn_mode`, so that
    trials can be compared.
    """
    with normalising_by(phi, "eval"):
        logits = two_logits(phi(images))
    metrics = {
        "classifier/accuracy": (logits.argmax(dim=1) == labels).float().mean().item(),
        "free/confidence": logits.softmax(dim=1).gather(1, labels[:, None]).mean().item(),
    }
    if inputs.layers:
        metrics["free/bn"] = losses.batch_norm_statistics(inputs.statistics()).item()
    return metrics


def remember(passes: Sequence[ForwardPass]) -> None:
    """Put the features of these passes into their classifiers' queues, after a step."""
    for each in passes:
        if each.classifier.queue:
            each.classifier.queue.update(each.features)


def forget_passes(classifiers: Sequence[TrialClassifier]) -> None:
    """Drop what was recorded of the last forward passes, and with it their graphs.

    These would keep the nodes that collect gradients, which run on the stream of their first pass: a captured step must have
    new ones. They would also keep memory.
    """
    for classifier in classifiers:
        classifier.batch_norm_inputs.forget()
        for recorder in (classifier.row_spaces, classifier.queue):
            if recorder:
                recorder.forget()


def all_class_names(classifiers: Sequence[Classifier]) -> tuple[str, ...]:
    """The class names of all classifiers, each once, in order of first appearance: the labels of the generator."""
    return tuple(dict.fromkeys(name for classifier in classifiers for name in classifier.class_names))


def labels_of_task(specs: Sequence[TrialClassifierConfig], classifiers: Sequence[Classifier]) -> list[list[int]]:
    """For each task, the generator's labels of its classes. Samples of the task have only these.

    Raises:
        BadInput: the classifiers of a task have different classes.
    """
    names, labels = all_class_names(classifiers), []
    for task in range(max(spec.task for spec in specs) + 1):
        classes, *others = (set(c.class_names) for c, spec in zip(classifiers, specs, strict=True) if spec.task == task)
        if odd := sorted(set().union(*(classes ^ other for other in others))):
            raise BadInput(
                f"experts: the classifiers of task {task} have different classes: {', '.join(map(repr, odd[:5]))}; a card that "
                "comes with weights must name the classes as the others do"
            )
        labels.append([label for label, name in enumerate(names) if name in classes])
    return labels
