"""Which optimality conditions a classifier satisfies, on its training data and on data it must be told apart from.

A KKT loss can only work where the condition holds for the training images and fails for others. The audit says what Λ may
be, and measures both kinds of condition: the max-margin stationarity of Eq. (4) with the best multipliers there are, and the
closed form of training with weight decay.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Final

import torch
from torch import Tensor, nn

from gbc import homogeneity, losses
from gbc.classifiers import BATCH_NORMS, normalising_by, two_logits
from gbc.datasets import ImageDataset
from gbc.errors import BadInput
from gbc.homogeneity import Degrees
from gbc.pull import Pull, best_multipliers
from gbc.regime import before_batch_norm, imbalance

POLICIES: Final = ("last_layer", "min_norm", "uniform")
TRAIN: Final = "training set"
OTHER: Final = "other real images"

# A condition is of use when it tells the training images from other real ones: the residual by this factor, or the
# direction by this much.
_FACTOR: Final = 0.8
_TURN: Final = 0.3
# Converged classifiers have 1e-4, those stopped early 0.1 and more.
_BALANCED: Final = 0.05

_SCALE: Final = "Only the direction agrees, not the size, so the loss must be free of scale. "

Sides = tuple[Tensor, Tensor]
"""What should be equal, both flat [P]."""


@dataclass(frozen=True)
class Condition:
    """One condition measured on several sets of images."""

    name: str
    values: dict[str, float]
    """Relative residual by set: 0 where the condition holds, about 1 where the images explain nothing."""
    cosines: dict[str, float] = field(default_factory=dict)
    """Cosine of the two sides by set; none where the left-hand side is 0."""
    parts: tuple[Condition, ...] = ()
    """The same for each parameter tensor. Where its left-hand side is 0, in units of the left-hand side of the whole."""

    @property
    def separates(self) -> bool:
        """Whether it holds better on the training set than on other real images, clearly."""
        smaller = self.values[TRAIN] < _FACTOR * min(self.values[OTHER], 1.0)
        return smaller or (bool(self.cosines) and self.cosines[TRAIN] > max(0.5, self.cosines[OTHER] + _TURN))

    def plain(self) -> dict[str, Any]:
        """Plain data."""
        return {**asdict(self), "separates": self.separates}


@dataclass(frozen=True)
class Choice:
    """What a policy makes of Λ in one BatchNorm mode."""

    policy: str
    mode: str
    degrees: Degrees | None
    kept: tuple[str, ...] = ()
    """The tensors of the largest degree: all that Λ̃ leaves of ζ on the left-hand side of Eq. (4)."""
    same_as: str | None = None
    """An earlier policy whose left-hand side is the same but for its scale, so that the residual is too."""
    refused: str | None = None
    """Why the policy has no Λ here."""


@dataclass(frozen=True)
class Audit:
    """All that is known of one classifier."""

    conditions: list[Condition]
    """Empty without data."""
    regime: dict[str, Any]
    """As `regime.diagnose` gives it; without data the imbalance alone."""
    freedom: dict[str, int | str] = field(default_factory=dict)
    """By BatchNorm mode: in how many directions Λ may move, or why that is not known."""
    choices: tuple[Choice, ...] = ()

    def verdict(self) -> str:
        """In words, whether a KKT loss can work on this classifier."""
        if not self.conditions:
            return self._verdict_without_data()
        good = [condition for condition in self.conditions if condition.separates]
        if not good:
            return (
                "No condition tells the training images from other real images: a KKT loss has nothing to follow here. "
                "Train the classifier further, with weight decay and without BatchNorm, or rely on BatchNorm statistics."
            )
        turns = [condition for condition in good if condition.cosines]
        best = max(turns, key=lambda found: found.cosines[TRAIN] - found.cosines[OTHER]) if turns else good[0]
        cosines = [f"a cosine of {best.cosines[name]:.2f} and " if best.cosines else "" for name in (TRAIN, OTHER)]
        residuals = [_number(best.values[name]) for name in (TRAIN, OTHER)]
        return (
            f"A KKT loss can work: in '{best.name}' the two sides have {cosines[0]}a residual of {residuals[0]} on the "
            f"training images, {cosines[1]}a residual of {residuals[1]} on other real images. "
            f"{'' if best.values[TRAIN] < 1 else _SCALE}"
            "Going below the training images' own residual is over-fitting."
        )

    def _verdict_without_data(self) -> str:
        found = self.regime.get("imbalance", {})
        if not found:
            return (
                "Without data nothing can be said here: hidden units must be in balance at the end of training only where ReLU "
                "stands alone between two linear layers. BatchNorm statistics, where there are any, are of use whatever Λ is."
            )
        worst = max(found.values())
        if worst < _BALANCED:
            return (
                f"By its weights alone the classifier has converged: its hidden units are in balance ({worst:.1e}). A KKT "
                "loss, above all the closed form of weight decay, can probably work; data would tell how well it holds."
            )
        return (
            f"By its weights alone the classifier has not converged: its hidden units are out of balance ({worst:.2f}; 0 when "
            "converged with weight decay). A KKT loss will hardly work; train the classifier further."
        )

    def to_json(self) -> dict[str, Any]:
        """Plain data."""
        return {
            "verdict": self.verdict(),
            "lambda": {"freedom": self.freedom, "policies": [asdict(choice) for choice in self.choices]},
            "conditions": [condition.plain() for condition in self.conditions],
            "regime": self.regime,
        }

    def to_markdown(self) -> str:
        """Λ, the regime, the table of relative residuals with cosines in brackets, and the verdict."""
        return "\n".join([*self._lambda(), *self._regime(), *self._residuals(), self.verdict(), ""])

    def _lambda(self) -> list[str]:
        several = len(self.freedom) > 1
        lines = []
        for mode, free in self.freedom.items():
            where = f" with BatchNorm {mode}" if several else ""
            lines.append(f"Directions that Λ may move in{where}: {free}.")
        lines += ["", "| policy | λ of each tensor | left-hand side of Eq. (4) |", "|---|---|---|"]
        for choice in self.choices:
            name = f"{choice.policy}{f', BatchNorm {choice.mode}' if several else ''}"
            if choice.degrees is None:
                lines.append(f"| {name} | none: {choice.refused} | |")
            else:
                same = f", the same as {choice.same_as}" if choice.same_as else ""
                lines.append(f"| {name} | {_grouped(choice.degrees)} | {_listed(choice.kept)}{same} |")
        return [*lines, ""]

    def _regime(self) -> list[str]:
        lines = []
        if "loss" in self.regime:
            margins = ", ".join(f"{name} {value:.3g}" for name, value in self.regime["margins"].items())
            lines.append(
                f"Regime: loss {_number(self.regime['loss'])}, accuracy {self.regime['accuracy']:.3f} on the training images; "
                f"margins {margins}."
            )
        for layer, value in self.regime.get("imbalance", {}).items():
            lines.append(f"Imbalance of the units of layer {layer}: {_number(value)} (0 when converged with weight decay).")
        return [*lines, ""] if lines else []

    def _residuals(self) -> list[str]:
        if not self.conditions:
            return []
        sets = list(self.conditions[0].values)
        lines = [f"| condition | {' | '.join(sets)} |", f"|---|{'---|' * len(sets)}"]
        for condition in self.conditions:
            shown = [part for part in condition.parts if part.cosines]
            rest = [part for part in condition.parts if not part.cosines]
            rows = [condition, *shown] if len(shown) + len(rest) > 1 else [condition]
            lines += [_row(row.name if row is condition else f"· {row.name}", row, sets) for row in rows]
            if rest and len(rows) > 1:
                total = {name: sum(part.values[name] ** 2 for part in rest) ** 0.5 for name in sets}
                lines.append(_row("· tensors that are 0 on the left", Condition("", total), sets))
        return [*lines, ""]


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
    modes = ("train", "eval") if any(isinstance(layer, BATCH_NORMS) for layer in module.modules()) else ("eval",)
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
        return Audit([], known, freedom, choices)
    sets = probes(data)
    conditions = max_margin(module, sets, choices) + closed_form(module, sets, weight_decay, loss)
    return Audit(conditions, known, freedom, choices)


def policies(module: nn.Module, mode: str, example: Tensor) -> list[Choice]:
    """Each policy's Λ in one BatchNorm mode; `example` is a batch of inputs, for tracing."""
    found: list[Choice] = []
    for policy in POLICIES:
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
    zeta = torch.cat([parameter.detach().flatten() for parameter in module.parameters()])
    several = len({choice.mode for choice in choices}) > 1
    sides: dict[tuple[str, str], dict[str, Sides]] = {}
    for mode in dict.fromkeys(choice.mode for choice in choices):
        new = [choice for choice in choices if choice.mode == mode and choice.degrees and not choice.same_as]
        for name, (images, labels) in sets.items():
            pull = Pull(module, images, labels, mode)
            for choice in new:
                assert choice.degrees is not None
                degrees = homogeneity.flat(choice.degrees, module)
                target = losses.scaled_parameters(zeta, degrees, torch.zeros(()), len(labels))
                if not target.any():
                    continue  # such as the fresh biases of a network that was not trained: 0 = 0 is no condition
                sides.setdefault((choice.policy, mode), {})[name] = target, best_multipliers(pull, target)[1]
    # By policy, then by mode.
    order = sorted(sides, key=lambda key: POLICIES.index(key[0]))
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
    mode = "train" if any(isinstance(layer, BATCH_NORMS) for layer in module.modules()) else "eval"
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
    values = {key: losses.relative_residual(*both).item() for key, both in sides.items()}
    cosines = {key: nn.functional.cosine_similarity(*both, dim=0).item() for key, both in sides.items()}
    return Condition(name, values, cosines, tuple(parts))


def _joined(sides: Sequence[Sides]) -> Sides:
    one, other = (torch.cat(parts) for parts in zip(*sides, strict=True))
    return one, other


def _row(name: str, condition: Condition, sets: Sequence[str]) -> str:
    cells = []
    for key in sets:
        cosine = f" ({condition.cosines[key]:.2f})" if condition.cosines else ""
        cells.append(_number(condition.values[key]) + cosine)
    return f"| {name} | {' | '.join(cells)} |"


def _number(value: float) -> str:
    """Three significant digits; as a power of ten where that would need more before the point."""
    return f"{value:.2e}" if abs(value) >= 999.5 else f"{value:#.3g}".rstrip(".")


def _grouped(degrees: Degrees) -> str:
    """λ, each value once: `1: 7.weight, 7.bias; 0: 1.weight and 7 more`."""
    groups: dict[float, list[str]] = {}
    for name, degree in degrees.items():
        groups.setdefault(degree, []).append(name)
    return "; ".join(f"{degree:.3g}: {_listed(groups[degree])}" for degree in sorted(groups, reverse=True))


def _listed(names: Sequence[str], most: int = 3) -> str:
    """The first few names."""
    return ", ".join(names) if len(names) <= most else f"{', '.join(names[: most - 1])} and {len(names) - most + 1} more"
