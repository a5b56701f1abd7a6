"""Findings of an audit: conditions, policies for Λ and the verdict, as text, table and plain data."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Final

from gbc.kkt.homogeneity import Degrees
from gbc.metrics.scores import CEILING
from gbc.studies.first_layer import FirstLayer

TRAIN: Final = "training set"
OTHER: Final = CEILING

# A condition is useful if it separates the training images from other real ones: by this factor of the residual, or by this
# difference of the cosine.
_FACTOR: Final = 0.8
_TURN: Final = 0.3
# Imbalance: converged classifiers have 1e-4, those stopped early 0.1 and more.
_BALANCED: Final = 0.05

_SCALE: Final = "Only the direction agrees, not the size, so the loss must be free of scale. "


@dataclass(frozen=True)
class Condition:
    """One condition measured on several sets of images."""

    name: str
    values: dict[str, float]
    """Relative residual by set: 0 if the condition holds, about 1 if the images explain nothing."""
    cosines: dict[str, float] = field(default_factory=dict)
    """Cosine of the two sides by set; empty if the left-hand side is 0."""
    parts: tuple[Condition, ...] = ()
    """The condition for each parameter tensor. If its left-hand side is 0, the residual is relative to that of the whole."""

    @property
    def separates(self) -> bool:
        """True if the condition holds clearly better on the training set than on other real images."""
        smaller = self.values[TRAIN] < _FACTOR * min(self.values[OTHER], 1.0)
        return smaller or (bool(self.cosines) and self.cosines[TRAIN] > max(0.5, self.cosines[OTHER] + _TURN))

    def to_json(self) -> dict[str, Any]:
        """Plain data."""
        return {**asdict(self), "separates": self.separates}


@dataclass(frozen=True)
class PolicyResult:
    """The Λ of a policy in one BatchNorm mode."""

    policy: str
    mode: str
    degrees: Degrees | None
    kept: tuple[str, ...] = ()
    """The tensors of the largest degree: Λ̃ keeps only these on the left-hand side of Eq. (4)."""
    same_as: str | None = None
    """An earlier policy whose left-hand side differs at most in scale, so that its residual is the same."""
    refused: str | None = None
    """The reason if the policy has no Λ here."""


@dataclass(frozen=True)
class Audit:
    """The findings for one classifier."""

    conditions: list[Condition]
    """Empty without data."""
    regime: dict[str, Any]
    """The regime of `gbc.classifiers.convergence.diagnose`; without data the imbalance alone."""
    freedom: dict[str, int | str] = field(default_factory=dict)
    """By BatchNorm mode, the number of directions in which Λ is free, or the reason why it is not known."""
    policies: tuple[PolicyResult, ...] = ()
    first_layer: FirstLayer | str | None = None
    """Findings on the row space of the first layer, or the reason why it has none."""

    def verdict(self) -> str:
        """The conclusion as text: can a KKT loss work on this classifier?"""
        if not self.conditions:
            return self._verdict_without_data()
        good = [condition for condition in self.conditions if condition.separates]
        if not good:
            return (
                "No condition tells the training images from other real images: a KKT loss has nothing to follow here. "
                "Train the classifier further, with weight decay and without BatchNorm, or rely on BatchNorm statistics."
            )
        turns = [condition for condition in good if condition.cosines]
        best = max(turns, key=lambda turn: turn.cosines[TRAIN] - turn.cosines[OTHER]) if turns else good[0]
        cosines = [f"a cosine of {best.cosines[name]:.2f} and " if best.cosines else "" for name in (TRAIN, OTHER)]
        residuals = [_number(best.values[name]) for name in (TRAIN, OTHER)]
        return (
            f"A KKT loss can work: in '{best.name}' the two sides have {cosines[0]}a residual of {residuals[0]} on the "
            f"training images, {cosines[1]}a residual of {residuals[1]} on other real images. "
            f"{'' if best.values[TRAIN] < 1 else _SCALE}"
            "Going below the training images' own residual is over-fitting."
        )

    def _verdict_without_data(self) -> str:
        imbalance = self.regime.get("imbalance", {})
        if not imbalance:
            return (
                "Without data nothing can be said here: hidden units must be in balance at the end of training only where ReLU "
                "stands alone between two linear layers. BatchNorm statistics, where there are any, are of use whatever Λ is."
            )
        worst = max(imbalance.values())
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
            "lambda": {"freedom": self.freedom, "policies": [asdict(result) for result in self.policies]},
            "conditions": [condition.to_json() for condition in self.conditions],
            "regime": self.regime,
            "row_space": self.first_layer.to_json()
            if isinstance(self.first_layer, FirstLayer)
            else {"refused": self.first_layer},
        }

    def to_markdown(self) -> str:
        """Λ, the regime, the row space, a table of relative residuals with cosines in brackets, and the verdict."""
        return "\n".join([*self._lambda(), *self._regime(), *self._row_space(), *self._residuals(), self.verdict(), ""])

    def _lambda(self) -> list[str]:
        several = len(self.freedom) > 1
        lines = []
        for mode, free in self.freedom.items():
            condition = f" with BatchNorm {mode}" if several else ""
            lines.append(f"Directions that Λ may move in{condition}: {free}.")
        lines += ["", "| policy | λ of each tensor | left-hand side of Eq. (4) |", "|---|---|---|"]
        for result in self.policies:
            name = f"{result.policy}{f', BatchNorm {result.mode}' if several else ''}"
            if result.degrees is None:
                lines.append(f"| {name} | none: {result.refused} | |")
            else:
                same = f", the same as {result.same_as}" if result.same_as else ""
                lines.append(f"| {name} | {_grouped(result.degrees)} | {_listed(result.kept)}{same} |")
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

    def _row_space(self) -> list[str]:
        if self.first_layer is None:
            return []
        lines = (
            self.first_layer.lines()
            if isinstance(self.first_layer, FirstLayer)
            else [f"{self.first_layer[0].upper()}{self.first_layer[1:]}."]
        )
        return [*lines, ""]

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


def _row(name: str, condition: Condition, sets: Sequence[str]) -> str:
    cells = []
    for key in sets:
        cosine = f" ({condition.cosines[key]:.2f})" if condition.cosines else ""
        cells.append(_number(condition.values[key]) + cosine)
    return f"| {name} | {' | '.join(cells)} |"


def _number(value: float) -> str:
    """Three significant digits; in exponential form if there were more digits before the point."""
    return f"{value:.2e}" if abs(value) >= 999.5 else f"{value:#.3g}".rstrip(".")


def _grouped(degrees: Degrees) -> str:
    """The degrees grouped by value: `1: 7.weight, 7.bias; 0: 1.weight and 7 more`."""
    groups: dict[float, list[str]] = {}
    for name, degree in degrees.items():
        groups.setdefault(degree, []).append(name)
    return "; ".join(f"{degree:.3g}: {_listed(groups[degree])}" for degree in sorted(groups, reverse=True))


def _listed(names: Sequence[str], most: int = 3) -> str:
    """The first names, and the number of the others."""
    return ", ".join(names) if len(names) <= most else f"{', '.join(names[: most - 1])} and {len(names) - most + 1} more"
