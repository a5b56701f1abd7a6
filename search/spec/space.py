"""Search spaces: one dimension a setting, written in YAML, sampled by Optuna."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

from pydantic import Field, model_validator

from gbc.config import TrialConfig
from gbc.errors import BadInput
from gbc.settings import Config, assign, suggest

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution

Value = int | float | str | bool
Whole = int
"""The type `int`, for a class that has a field of that name."""

_GRID_POINTS: Final = 5
_EXPONENT: Final = 300
_LARGEST: Final = 2**53


class Dimension(Config):
    """Exactly one of: `log10: [low, high]` exponents of ten, `uniform: [low, high]`, `int: [low, high]`, `choice: [a, b, …]`.

    Both ends of `int` are in it; with `log: true` each doubling in it is as likely as any other. `points` says into how many
    values, both ends among them, the grid sampler cuts a range (5 by default).
    """

    log10: tuple[float, float] | None = None
    uniform: tuple[float, float] | None = None
    int: tuple[Whole, Whole] | None = None
    log: bool | None = None
    choice: tuple[Value, ...] | None = None
    points: Whole | None = Field(None, ge=2, le=1000)

    @model_validator(mode="after")
    def _one_kind(self) -> Dimension:
        given = {name: value for name, value in self if value is not None and name not in ("points", "log")}
        if len(given) != 1:
            raise ValueError("must have exactly one of log10, uniform, int and choice")
        (kind, value), *_ = given.items()
        if self.log is not None and kind != "int":
            raise ValueError(
                f"log belongs to int, as in {{int: [2, 64], log: true}}, not to {kind}; log10 has exponents of ten"
            )
        if self.log and value[0] < 1:
            raise ValueError(f"int: with log the low end {value[0]} must be at least 1")
        if kind == "int" and max(map(abs, value)) > _LARGEST:
            raise ValueError(f"int: the ends lie between -{_LARGEST} and {_LARGEST}")
        if kind == "choice":
            if self.points is not None:
                raise ValueError("points is for ranges; a grid has every choice")
            if not value:
                raise ValueError("choice must not be empty")
            if repeated := [choice for number, choice in enumerate(value) if choice in value[:number]]:
                raise ValueError(f"choice has {repeated[0]!r} twice")
        elif kind == "log10" and max(map(abs, value)) > _EXPONENT:
            raise ValueError(f"log10: exponents lie between -{_EXPONENT} and {_EXPONENT}, as in [-3, -2]")
        elif not value[0] < value[1]:
            raise ValueError(f"{kind}: the low end {value[0]} must be below the high end {value[1]}")
        return self

    def bounds(self) -> tuple[Value, ...]:
        """The ends of the range, or every choice."""
        if self.choice is not None:
            return self.choice
        if self.log10 is not None:
            return tuple(10.0**exponent for exponent in self.log10)
        ends = self.uniform or self.int
        assert ends is not None
        return ends

    def at(self, share: float) -> Value:
        """The value `share` of the way from the low end (0) to the high end (1), or from the first choice to the last."""
        if self.choice is not None:
            return self.choice[min(int(share * len(self.choice)), len(self.choice) - 1)]
        if self.int is not None:
            return self._whole_at(share)
        low, high = map(float, self.bounds())
        if self.uniform is not None:
            return min(low + share * (high - low), high)
        assert self.log10 is not None
        return min(max(10.0 ** (self.log10[0] + share * (self.log10[1] - self.log10[0])), low), high)

    def _whole_at(self, share: float) -> Whole:
        """Every whole number has a part of (0, 1): equal parts, or with `log` those of its logarithm, as Optuna samples."""
        assert self.int is not None
        low, high = self.int
        if not self.log:
            return min(low + math.floor(share * (high - low + 1)), high)
        first, last = math.log(low - 0.5), math.log(high + 0.5)
        return min(max(round(math.exp(first + share * (last - first))), low), high)

    def holds(self, value: object) -> bool:
        """True if `value` lies in the range or is one of the choices."""
        if self.choice is not None:
            return any(value == choice and type(value) is type(choice) for choice in self.choice)
        low, high = map(float, self.bounds())
        kinds = int if self.int is not None else int | float
        return isinstance(value, kinds) and not isinstance(value, bool) and low <= value <= high

    def grid(self) -> tuple[Value, ...]:
        """The values that the grid sampler tries: every choice, or `points` values from end to end."""
        if self.choice is not None:
            return self.choice
        count = self.points or _GRID_POINTS
        shares = [index / (count - 1) for index in range(count)]
        if self.int is None:
            return tuple(map(self.at, shares))
        low, high = self.int
        ratio = high / low if self.log else 1.0
        near = [low * ratio**share if self.log else low + share * (high - low) for share in shares]
        return tuple(dict.fromkeys(map(round, near)))  # a short range has fewer values than points

    @property
    def grid_size(self) -> Whole:
        """The number of values that the grid sampler tries."""
        return len(self.grid()) if self.choice or self.int else self.points or _GRID_POINTS

    def distribution(self) -> BaseDistribution:
        """The dimension as a distribution of Optuna."""
        from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

        if self.choice is not None:
            return CategoricalDistribution(self.choice)
        if self.int is not None:
            return IntDistribution(*self.int, log=bool(self.log))
        low, high = map(float, self.bounds())
        return FloatDistribution(low, high, log=self.log10 is not None)


def grid_size(space: Mapping[str, Dimension]) -> int:
    """The number of settings in the grid over `space`."""
    return math.prod(dimension.grid_size for dimension in space.values())


def check_space(space: Mapping[str, Dimension], trial: TrialConfig) -> None:
    """Try both ends of every dimension against the schema of a trial.

    Raises:
        ValueError: an unknown setting, or an end that a trial would refuse; the message names it.
    """
    reserved = {"seed", "dataset", "classifier", "device", "steps", "report_every"}
    settings = sorted(set(TrialConfig.model_fields) - reserved)
    faults = []
    for key, dimension in space.items():
        if key not in settings:
            faults.append(f"space: {key!r} cannot be searched; {suggest(key, settings)}")
            continue
        for value in dimension.bounds():
            try:
                trial.updated({key: value}, "space")
            except BadInput as fault:
                faults.append(str(fault))
                break
    if faults:
        raise ValueError("\n".join(faults))


def check_first_trials(first_trials: Sequence[Mapping[str, Value]], space: Mapping[str, Dimension]) -> None:
    """Hold the listed settings against the space.

    Raises:
        ValueError: a setting that is not searched, or a value outside its dimension; the message names it.
    """
    for index, settings in enumerate(first_trials):
        for key, value in settings.items():
            if key not in space:
                raise ValueError(f"first_trials[{index}]: {unknown(key, space)}")
            if not space[key].holds(value):
                raise ValueError(f"first_trials[{index}].{key}: {outside(value, space[key])}")


def unknown(key: str, space: Mapping[str, Dimension]) -> str:
    """The fault of a setting that is not searched, in words."""
    return f"{key!r} is not in the space; {suggest(key, list(space))}"


def outside(value: object, dimension: Dimension) -> str:
    """The fault of a value that `dimension` does not hold, in words."""
    ends = [f"{end:.6g}" if isinstance(end, float) else str(end) for end in dimension.bounds()]
    among = f"one of {', '.join(ends)}" if dimension.choice is not None else f"between {' and '.join(ends)}"
    return f"{value} must be {among}, as in the space"


def settle(trial: TrialConfig, sampled: Mapping[str, Any], seed: int) -> TrialConfig:
    """The settings of one trial: what was sampled, over what is fixed."""
    data = trial.model_dump(mode="json")
    for key, value in {**sampled, "seed": seed}.items():
        assign(data, key, value, "sampled")
    return TrialConfig.parse(data, "sampled settings")
