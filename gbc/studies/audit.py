"""Which optimality conditions a classifier satisfies, on its training data and on data it must be told apart from.

A KKT loss can only work where the condition holds for the training images and fails for others. The audit says what Λ may
be, and measures both kinds of condition: the max-margin stationarity of Eq. (4) with the best multipliers there are, and the
closed form of training with weight decay.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from gbc import losses
from gbc.classifiers.architectures import BATCH_NORMS, Classifier, normalising_by, two_logits
from gbc.classifiers.convergence import before_batch_norm, imbalance
from gbc.config import ClassifierConfig
from gbc.data.datasets import ImageDataset
from gbc.errors import BadInput
from gbc.kkt import homogeneity
from gbc.kkt.lagrangian_gradient import MarginGradient, best_multipliers
from gbc.studies.findings import OTHER, TRAIN, Audit, Choice, Condition
from gbc.studies.first_layer import FirstLayer, first_layer

Sides = tuple[Tensor, Tensor]
"""What should be equal, both flat [P]."""


def audit(
    module: nn.Module,
    data: ImageDataset | None,
    weight_decay: float,
    regime: Mapping[str, Any],
    *,
    shape: Sequence[int] | None = None,
    loss: str = "cross_entropy",
) -> Audit:
    """Λ and its freedom; with `data` every condition on every set that can be made of it, else what the weights tell.

    `weight_decay` and `loss` are those of the training; `regime` as `pretrain.obtain` gives it. Without data, `shape` is
    that of one input, which networks that torch.fx cannot trace need.

    Raises:
        BadInput: neither data nor shape.
    """
    if data is not None:
        shape = data.shape
    if shape is None:
        raise BadInput("an audit without data needs the shape of the classifier's input")
    modes = ("train", "eval") if _has_batch_norm(module) else ("eval",)
    example = torch.rand(4, *shape, generator=torch.Generator().manual_seed(0))
    freedom: dict[str, int | str] = {}
    for mode in modes:
        try:
            freedom[mode] = homogeneity.structural(module, mode, example).nullity
        except BadInput as fault:
            freedom[mode] = str(fault)
    choices = tuple(choice for mode in modes for choice in policies(module, mode, example))
    known = dict(regime) if data is not None else {"imbalance": imbalance(module)}
    if data is None:
        return Audit([], known, freedom, choices, _first_layer(module, example))
    sets = probes(data)
    conditions = max_margin(module, sets, choices) + closed_form(module, sets, weight_decay, loss)
    return Audit(conditions, known, freedom, choices, _first_layer(module, example, sets, data.test()))


def _first_layer(module: nn.Module, *of: Any) -> FirstLayer | str:
    """Or why nothing can be said of it."""
    try:
        return first_layer(module, *of)
    except BadInput as fault:
        return f"row space: none, {fault}"


def of_classifier(
    config: ClassifierConfig, classifier: Classifier, regime: Mapping[str, Any], data: ImageDataset | None
) -> Audit:
    """`audit` of a classifier as `pretrain.obtain` gives it, with what `config` says of its training."""
    return audit(classifier.module, data, config.weight_decay, regime, shape=classifier.shape, loss=config.loss)


def policies(module: nn.Module, mode: str, example: Tensor) -> list[Choice]:
    """Each policy's Λ in one BatchNorm mode; `example` is a batch of inputs, for tracing."""
    found: list[Choice] = []
    for policy in homogeneity.AUTOMATIC:
        try:
            degrees = homogeneity.POLICIES[policy](module, mode, {}, example)
        except BadInput as fault:
            found.append(Choice(policy, mode, None, refused=str(fault)))
            continue
        largest = max(degrees.values())
        kept = tuple(name for name, degree in degrees.items() if degree == largest)
        same = next((choice.policy for choice in found if choice.kept == kept), None)
        found.append(Choice(policy, mode, degrees, kept, same))
    return found


def probes(data: ImageDataset) -> dict[str, tuple[Tensor, Tensor]]:
    """(images, labels) by name: the training set, and sets of its size that a condition should refuse."""
    images, labels = data.train()
    tests, test_labels = data.test()
    rng = torch.Generator().manual_seed(0)
    sets = {TRAIN: (images, labels)}
    per_class = torch.bincount(labels)
    taken = [torch.nonzero(test_labels == label).squeeze(1)[: int(count)] for label, count in enumerate(per_class)]
    other = torch.cat(taken)
    sets[OTHER] = (tests[other], test_labels[other])
    means = torch.stack([images[labels == label].mean(dim=0) for label in range(len(per_class))])
    sets["class means"] = (means[labels], labels)
    rows = torch.stack([torch.randperm(images.shape[2], generator=rng) for _ in range(len(images))])
    sets["rows shuffled"] = (images.gather(2, rows[:, None, :, None].expand_as(images)), labels)
    sets["uniform noise"] = (torch.rand(images.shape, generator=rng), labels)
    return sets


def max_margin(module: nn.Module, sets: Mapping[str, tuple[Tensor, Tensor]], choices: Sequence[Choice]) -> list[Condition]:
    """(1/N) Λ̄ζ = Σ μ (∇Φ_y − ∇Φ_c), Eq. (4), with the best μ ≥ 0 for each choice of Λ that is new and each set."""
    zeta = [parameter.detach() for parameter in module.parameters()]
    several = len({choice.mode for choice in choices}) > 1
    sides: dict[tuple[str, str], dict[str, Sides]] = {}
    for mode in dict.fromkeys(choice.mode for choice in choices):
        new = [choice for choice in choices if choice.mode == mode and choice.degrees and not choice.same_as]
        for name, (images, labels) in sets.items():
            pull = MarginGradient(module, images, labels, mode)
            for choice in new:
                assert choice.degrees is not None
                degrees = [choice.degrees[name] for name, _ in module.named_parameters()]
                parts = losses.Target(zeta, degrees, len(labels)).still
                target = torch.cat(
                    [
                        (torch.zeros_like(parameter) if part is None else part).flatten()
                        for part, parameter in zip(parts, zeta, strict=True)
                    ]
                )
                if not target.any():
                    continue  # such as the fresh biases of a network that was not trained: 0 = 0 is no condition
                sides.setdefault((choice.policy, mode), {})[name] = target, best_multipliers(pull, target)[1]
    # By policy, then by mode.
    order = sorted(sides, key=lambda key: homogeneity.AUTOMATIC.index(key[0]))
    return [
        _condition(f"max margin, {policy}{f', BatchNorm {mode}' if several else ''}", sides[policy, mode], module)
        for policy, mode in order
    ]


def closed_form(
    module: nn.Module, sets: Mapping[str, tuple[Tensor, Tensor]], weight_decay: float, loss: str = "cross_entropy"
) -> list[Condition]:
    """wd·ζ = −∇loss, for each weight tensor that weight decay holds back, and for biases and normalisation together.

    Gradient descent leads weights that go straight into BatchNorm to ∇loss = 0 instead; ‖∇loss‖/‖wd·ζ‖ is their residual.
    """
    invariant = before_batch_norm(module, next(iter(sets.values()))[0][:2])
    mode = "train" if _has_batch_norm(module) else "eval"
    names, parameters = zip(*module.named_parameters(), strict=True)
    found: dict[str, dict[str, Sides]] = {name: {} for name in names}
    for key, (images, labels) in sets.items():
        with normalising_by(module, mode):
            descents = losses.descent(two_logits(module(images)), labels, parameters, loss)
        for name, parameter, descent in zip(names, parameters, descents, strict=True):
            found[name][key] = weight_decay * parameter.detach().flatten(), descent.detach().flatten()
    free = [name for name in names if name.rpartition(".")[0] in invariant]
    weights = [name for name, parameter in zip(names, parameters, strict=True) if parameter.ndim > 1 and name not in free]
    others = [name for name in names if name not in weights and name not in free]
    conditions = [_condition(f"closed form, {name}", found[name]) for name in weights]
    if others:
        joined = {key: _joined([found[name][key] for name in others]) for key in sets}
        parts = tuple(_condition(name, found[name]) for name in others)
        conditions.append(Condition(**{**vars(_condition("closed form, biases and normalisation", joined)), "parts": parts}))
    for name in free:
        if not name.endswith("bias"):  # Φ does not depend on a bias before BatchNorm
            values = {key: (descent.norm() / decay.norm()).item() for key, (decay, descent) in found[name].items()}
            conditions.append(Condition(f"zero gradient, {name}", values))
    return conditions


def _condition(name: str, sides: Mapping[str, Sides], module: nn.Module | None = None) -> Condition:
    """Residuals and cosines; of each parameter tensor too, if the sides are those of all of `module`."""
    parts: list[Condition] = []
    if module is not None:
        sizes = [parameter.numel() for parameter in module.parameters()]
        whole = next(iter(sides.values()))[0].norm()
        for index, (tensor, _) in enumerate(module.named_parameters()):
            mine = {key: (one.split(sizes)[index], other.split(sizes)[index]) for key, (one, other) in sides.items()}
            if next(iter(mine.values()))[0].any():
                parts.append(_condition(tensor, mine))
            else:
                parts.append(Condition(tensor, {key: (other.norm() / whole).item() for key, (_, other) in mine.items()}))
    values = {key: losses.relative_residual([target], [found]).item() for key, (target, found) in sides.items()}
    cosines = {key: nn.functional.cosine_similarity(*both, dim=0).item() for key, both in sides.items()}
    return Condition(name, values, cosines, tuple(parts))


def _joined(sides: Sequence[Sides]) -> Sides:
    one, other = (torch.cat(parts) for parts in zip(*sides, strict=True))
    return one, other


def _has_batch_norm(module: nn.Module) -> bool:
    return any(isinstance(layer, BATCH_NORMS) for layer in module.modules())
