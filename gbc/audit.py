"""Which optimality conditions a classifier satisfies, on its training data and on data it must be told apart from.

A KKT loss can only work where the condition holds for the training images and fails for others. The audit measures both:
the max-margin stationarity of Eq. (4) with the best multipliers there are, and the weight-decay closed form.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final

import torch
from torch import Tensor, nn

from gbc import homogeneity, losses
from gbc.classifiers import normalising_by, two_logits
from gbc.datasets import ImageDataset
from gbc.regime import before_batch_norm

_ITERATIONS: Final = 100
# A condition is of use when it tells the training images from other real ones: the residual by this factor, or the
# direction by this much.
_FACTOR: Final = 0.8
_TURN: Final = 0.3


@dataclass(frozen=True)
class Condition:
    """One condition measured on several sets of images."""

    name: str
    values: dict[str, float]
    """Relative residual by set: 0 where the condition holds, about 1 where the images explain nothing."""
    cosines: dict[str, float]
    """Cosine of the two sides by set."""

    @property
    def separates(self) -> bool:
        """Whether it holds better on the training set than on other real images, clearly."""
        train, other = "training set", "other real images"
        smaller = self.values[train] < _FACTOR * min(self.values[other], 1.0)
        return smaller or self.cosines[train] > max(0.5, self.cosines[other] + _TURN)


@dataclass(frozen=True)
class Audit:
    """All conditions of one classifier."""

    conditions: list[Condition]
    regime: dict[str, Any]

    def verdict(self) -> str:
        """In words, whether a KKT loss can work on this classifier."""
        good = [condition for condition in self.conditions if condition.separates]
        if not good:
            return (
                "No condition tells the training images from other real images: a KKT loss has nothing to follow here. "
                "Train the classifier further, with weight decay and without BatchNorm, or rely on BatchNorm statistics."
            )
        best = max(good, key=lambda condition: condition.cosines["training set"] - condition.cosines["other real images"])
        train, other = ((best.values[name], best.cosines[name]) for name in ("training set", "other real images"))
        return (
            f"A KKT loss can work: in '{best.name}' the two sides have a cosine of {train[1]:.2f} on the training images "
            f"and of {other[1]:.2f} on other real images (residuals {train[0]:.2f} and {other[0]:.2f}). "
            "Going below the training images' own residual is over-fitting."
        )

    def to_json(self) -> dict[str, Any]:
        """Plain data."""
        return {
            "verdict": self.verdict(),
            "conditions": [{**asdict(condition), "separates": condition.separates} for condition in self.conditions],
            "regime": self.regime,
        }

    def to_markdown(self) -> str:
        """The table of relative residuals, cosines in brackets, and the verdict."""
        names = list(self.conditions[0].values)
        lines = [f"| condition | {' | '.join(names)} |", f"|---|{'---|' * len(names)}"]
        for condition in self.conditions:
            cells = [f"{condition.values[name]:.2f} ({condition.cosines[name]:.2f})" for name in names]
            lines.append(f"| {condition.name} | {' | '.join(cells)} |")
        return "\n".join([*lines, "", self.verdict(), ""])


def audit(module: nn.Module, data: ImageDataset, weight_decay: float, regime: Mapping[str, Any]) -> Audit:
    """Measure every condition on every set that can be made of `data`; `weight_decay` is that of the training."""
    sets = probes(data)
    conditions = []
    bodies: Sequence[str] = ("train", "eval") if _has_batch_norm(module) else ("eval",)
    for mode in bodies:
        degrees = homogeneity.flat(homogeneity.last_layer(module), module)
        target = losses.scaled_parameters(
            torch.cat([p.detach().flatten() for p in module.parameters()]), degrees, torch.zeros(()), len(data.train_labels)
        )
        found = {name: best_multipliers(module, images, labels, target, mode) for name, (images, labels) in sets.items()}
        label = f"max margin, last_layer{f', BatchNorm {mode}' if len(bodies) > 1 else ''}"
        conditions.append(_condition(label, {name: (target, pulled) for name, (_, pulled) in found.items()}))
    conditions += closed_form(module, sets, weight_decay)
    return Audit(conditions, dict(regime))


def probes(data: ImageDataset) -> dict[str, tuple[Tensor, Tensor]]:
    """(images, labels) by name: the training set, and sets of its size that a condition should refuse."""
    images, labels = data.train()
    tests, test_labels = data.test()
    rng = torch.Generator().manual_seed(0)
    sets = {"training set": (images, labels)}
    per_class = torch.bincount(labels)
    taken = [torch.nonzero(test_labels == label).squeeze(1)[: int(count)] for label, count in enumerate(per_class)]
    other = torch.cat(taken)
    sets["other real images"] = (tests[other], test_labels[other])
    means = torch.stack([images[labels == label].mean(dim=0) for label in range(len(per_class))])
    sets["class means"] = (means[labels], labels)
    rows = torch.stack([torch.randperm(images.shape[2], generator=rng) for _ in range(len(images))])
    sets["rows shuffled"] = (images.gather(2, rows[:, None, :, None].expand_as(images)), labels)
    sets["uniform noise"] = (torch.rand(images.shape, generator=rng), labels)
    return sets


def best_multipliers(
    module: nn.Module, images: Tensor, labels: Tensor, target: Tensor, mode: str, iterations: int = _ITERATIONS
) -> tuple[Tensor, Tensor]:
    """(μ ≥ 0 [M, C] that minimises ‖target − pull(μ)‖, that pull [P]): non-negative least squares by FISTA.

    The pull is linear in μ. Its transpose is a directional derivative of the logits, so no matrix is ever formed.
    """
    names = [name for name, _ in module.named_parameters()]
    parameters = [parameter.detach() for parameter in module.parameters()]
    sizes = [parameter.numel() for parameter in parameters]

    def forward(*values: Tensor) -> Tensor:
        return two_logits(torch.func.functional_call(module, dict(zip(names, values, strict=True)), (images,)))

    def pull(multipliers: Tensor) -> Tensor:
        fresh = [parameter.clone().requires_grad_() for parameter in parameters]
        return losses.pull(forward(*fresh), labels, multipliers, fresh).detach()

    def transposed(direction: Tensor) -> Tensor:
        parts = [part.view_as(p) for part, p in zip(direction.split(sizes), parameters, strict=True)]
        change = torch.func.jvp(forward, tuple(parameters), tuple(parts))[1]
        return (change.gather(1, labels[:, None]) - change).detach() / len(images)

    with normalising_by(module, mode), warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # torch's forward mode still uses its own deprecated torch.jit
        with torch.no_grad():
            shape = forward(*parameters).shape
        # The largest eigenvalue of the map and its transpose, by power iteration; a little above it is a safe step.
        vector = torch.rand(shape, generator=torch.Generator().manual_seed(0))
        for _ in range(15):
            vector = transposed(pull(vector / vector.norm()))
        step = 1 / (1.1 * vector.norm())
        best = point = torch.zeros(shape)
        momentum = 1.0
        for _ in range(iterations):
            moved = (point - step * transposed(pull(point) - target)).clamp_min(0)
            following = (1 + (1 + 4 * momentum**2) ** 0.5) / 2
            point = moved + (momentum - 1) / following * (moved - best)
            best, momentum = moved, following
        return best, pull(best)


def closed_form(module: nn.Module, sets: Mapping[str, tuple[Tensor, Tensor]], weight_decay: float) -> list[Condition]:
    """wd·ζ = −∇CE for every weight tensor that weight decay holds back."""
    invariant = before_batch_norm(module, next(iter(sets.values()))[0][:2])
    held = [(name, p) for name, p in module.named_parameters() if name.rpartition(".")[0] not in invariant and p.ndim > 1]
    mode = "train" if _has_batch_norm(module) else "eval"
    sides: dict[str, dict[str, tuple[Tensor, Tensor]]] = {name: {} for name, _ in held}
    for name, (images, labels) in sets.items():
        with normalising_by(module, mode):
            descents = losses.descent(two_logits(module(images)), labels, [p for _, p in held])
        for (tensor, parameter), found in zip(held, descents, strict=True):
            sides[tensor][name] = (weight_decay * parameter.detach().flatten(), found.detach().flatten())
    return [_condition(f"closed form, {tensor}", found) for tensor, found in sides.items()]


def _condition(name: str, sides: Mapping[str, tuple[Tensor, Tensor]]) -> Condition:
    values = {key: losses.relative_residual(*both).item() for key, both in sides.items()}
    cosines = {key: torch.nn.functional.cosine_similarity(*both, dim=0).item() for key, both in sides.items()}
    return Condition(name, values, cosines)


def _has_batch_norm(module: nn.Module) -> bool:
    return any(isinstance(layer, nn.BatchNorm1d | nn.BatchNorm2d) for layer in module.modules())
