"""Audit of a classifier: the optimality conditions that it satisfies on its training data and on other data.

A KKT loss can only work if its condition holds for the training images and fails for others. The audit lists the possible Λ,
and measures both kinds of condition: the max-margin stationarity of Eq. (4) with the best possible multipliers, and the
closed form of training with weight decay.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from gbc import losses
from gbc.classifier_config import ClassifierConfig
from gbc.classifiers.architectures import BATCH_NORMS, Classifier, normalising_by, two_logits
from gbc.classifiers.convergence import before_batch_norm, imbalance
from gbc.data.datasets import ImageDataset
from gbc.errors import BadInput
from gbc.kkt import homogeneity
from gbc.kkt.lagrangian_gradient import MarginGradient, best_multipliers
from gbc.metrics.scores import FLOOR, MEANS
from gbc.studies.findings import OTHER, TRAIN, Audit, Condition, PolicyResult
from gbc.studies.first_layer import FirstLayer, first_layer

Sides = tuple[Tensor, Tensor]
"""Left-hand and right-hand side of a condition, both flat [P]."""


def audit(
    module: nn.Module,
    data: ImageDataset | None,
    weight_decay: float,
    regime: Mapping[str, Any],
    *,
    shape: Sequence[int] | None = None,
    loss: str = "cross_entropy",
) -> Audit:
    """Λ and its freedom, and with `data` every condition on every set of `probe_sets`; without, only results from the weights.

    `weight_decay` and `loss` are those of the training; `regime` is that of `pretrain.obtain`. Without data, `shape` is the
    shape of one input; networks that torch.fx cannot trace need it.

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
    policies = tuple(result for mode in modes for result in policy_results(module, mode, example))
    if data is None:
        return Audit([], {"imbalance": imbalance(module)}, freedom, policies, _first_layer(module, example))
    sets = probe_sets(data)
    conditions = max_margin(module, sets, policies) + closed_form(module, sets, weight_decay, loss)
    return Audit(conditions, dict(regime), freedom, policies, _first_layer(module, example, sets, data.test()))


def _first_layer(module: nn.Module, *arguments: Any) -> FirstLayer | str:
    """The result of `first_layer`, or the reason why there is none."""
    try:
        return first_layer(module, *arguments)
    except BadInput as fault:
        return f"row space: none, {fault}"


def audit_classifier(
    config: ClassifierConfig, classifier: Classifier, regime: Mapping[str, Any], data: ImageDataset | None
) -> Audit:
    """`audit` of a classifier of `pretrain.obtain`, with the weight decay and loss of `config`."""
    return audit(classifier.module, data, config.weight_decay, regime, shape=classifier.shape, loss=config.loss)


def policy_results(module: nn.Module, mode: str, example: Tensor) -> list[PolicyResult]:
    """Each policy's Λ in one BatchNorm mode; `example` is a batch of inputs, for tracing."""
    results: list[PolicyResult] = []
    for policy in homogeneity.AUTOMATIC:
        try:
            degrees = homogeneity.POLICIES[policy](module, mode, {}, example)
        except BadInput as fault:
            results.append(PolicyResult(policy, mode, None, refused=str(fault)))
            continue
        largest = max(degrees.values())
        kept = tuple(name for name, degree in degrees.items() if degree == largest)
        same = next((result.policy for result in results if result.kept == kept), None)
        results.append(PolicyResult(policy, mode, degrees, kept, same))
    return results


def probe_sets(data: ImageDataset) -> dict[str, tuple[Tensor, Tensor]]:
    """(images, labels) by name: the training set, and sets of its size on which a condition should fail."""
    images, labels = data.train()
    tests, test_labels = data.test()
    rng = torch.Generator().manual_seed(0)
    sets = {TRAIN: (images, labels)}
    per_class = torch.bincount(labels)
    taken = [torch.nonzero(test_labels == label).squeeze(1)[: int(count)] for label, count in enumerate(per_class)]
    other = torch.cat(taken)
    sets[OTHER] = (tests[other], test_labels[other])
    means = torch.stack([images[labels == label].mean(dim=0) for label in range(len(per_class))])
    sets[MEANS] = (means[labels], labels)
    rows = torch.stack([torch.randperm(images.shape[2], generator=rng) for _ in range(len(images))])
    sets["rows shuffled"] = (images.gather(2, rows[:, None, :, None].expand_as(images)), labels)
    sets[FLOOR] = (torch.rand(images.shape, generator=rng), labels)
    return sets


def max_margin(
    module: nn.Module, sets: Mapping[str, tuple[Tensor, Tensor]], policies: Sequence[PolicyResult]
) -> list[Condition]:
    """(1/N) Λ̄ζ = Σ μ (∇Φ_y − ∇Φ_c), Eq. (4), with the best μ ≥ 0 for each different Λ of the policies and each set."""
    zeta = [parameter.detach() for parameter in module.parameters()]
    several = len({result.mode for result in policies}) > 1
    sides: dict[tuple[str, str], dict[str, Sides]] = {}
    for mode in dict.fromkeys(result.mode for result in policies):
        new = [result for result in policies if result.mode == mode and result.degrees and not result.same_as]
        for name, (images, labels) in sets.items():
            pull = MarginGradient(module, images, labels, mode)
            for result in new:
                assert result.degrees is not None
                degrees = [result.degrees[name] for name, _ in module.named_parameters()]
                parts = losses.Target(zeta, degrees, len(labels)).at_zero
                target = torch.cat(
                    [
                        (torch.zeros_like(parameter) if part is None else part).flatten()
                        for part, parameter in zip(parts, zeta, strict=True)
                    ]
                )
                if not target.any():
                    continue  # for example the biases of an untrained network: 0 = 0 is not a condition
                sides.setdefault((result.policy, mode), {})[name] = target, best_multipliers(pull, target)[1]
    # By policy, then by mode.
    order = sorted(sides, key=lambda key: homogeneity.AUTOMATIC.index(key[0]))
    return [
        _condition(f"max margin, {policy}{f', BatchNorm {mode}' if several else ''}", sides[policy, mode], module)
        for policy, mode in order
    ]


def closed_form(
    module: nn.Module, sets: Mapping[str, tuple[Tensor, Tensor]], weight_decay: float, loss: str = "cross_entropy"
) -> list[Condition]:
    """wd·ζ = −∇loss, for each weight tensor to which it applies, and for biases and normalisation together.

    Weights directly before BatchNorm have the condition ∇loss = 0 instead, with the residual ‖∇loss‖/‖wd·ζ‖.
    """
    invariant = before_batch_norm(module, next(iter(sets.values()))[0][:2])
    mode = "train" if _has_batch_norm(module) else "eval"
    names, parameters = zip(*module.named_parameters(), strict=True)
    sides: dict[str, dict[str, Sides]] = {name: {} for name in names}
    for key, (images, labels) in sets.items():
        with normalising_by(module, mode):
            descents = losses.descent(two_logits(module(images)), labels, parameters, loss)
        for name, parameter, descent in zip(names, parameters, descents, strict=True):
            sides[name][key] = weight_decay * parameter.detach().flatten(), descent.detach().flatten()
    free = [name for name in names if name.rpartition(".")[0] in invariant]
    weights = [name for name, parameter in zip(names, parameters, strict=True) if parameter.ndim > 1 and name not in free]
    others = [name for name in names if name not in weights and name not in free]
    conditions = [_condition(f"closed form, {name}", sides[name]) for name in weights]
    if others:
        joined = {key: _joined([sides[name][key] for name in others]) for key in sets}
        parts = tuple(_condition(name, sides[name]) for name in others)
        conditions.append(Condition(**{**vars(_condition("closed form, biases and normalisation", joined)), "parts": parts}))
    for name in free:
        if not name.endswith("bias"):  # Φ does not depend on a bias before BatchNorm
            values = {key: (descent.norm() / decay.norm()).item() for key, (decay, descent) in sides[name].items()}
            conditions.append(Condition(f"zero gradient, {name}", values))
    return conditions


def _condition(name: str, sides: Mapping[str, Sides], module: nn.Module | None = None) -> Condition:
    """Residuals and cosines of the sides; with `module`, whose parameters they cover, also of each parameter tensor."""
    parts: list[Condition] = []
    if module is not None:
        sizes = [parameter.numel() for parameter in module.parameters()]
        whole = next(iter(sides.values()))[0].norm()
        for index, (tensor, _) in enumerate(module.named_parameters()):
            of_tensor = {key: (left.split(sizes)[index], right.split(sizes)[index]) for key, (left, right) in sides.items()}
            if next(iter(of_tensor.values()))[0].any():
                parts.append(_condition(tensor, of_tensor))
            else:
                parts.append(Condition(tensor, {key: (right.norm() / whole).item() for key, (_, right) in of_tensor.items()}))
    values = {key: losses.relative_residual([left], [right]).item() for key, (left, right) in sides.items()}
    cosines = {key: nn.functional.cosine_similarity(*both, dim=0).item() for key, both in sides.items()}
    return Condition(name, values, cosines, tuple(parts))


def _joined(sides: Sequence[Sides]) -> Sides:
    left, right = (torch.cat(parts) for parts in zip(*sides, strict=True))
    return left, right


def _has_batch_norm(module: nn.Module) -> bool:
    return any(isinstance(layer, BATCH_NORMS) for layer in module.modules())
