"""Search spaces: one dimension a setting, written in YAML, sampled by Optuna."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from pydantic import model_validator

from gbc.config import TrialConfig
from gbc.errors import BadInput
from gbc.settings import Config, assign, suggest

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution

Value = int | float | str | bool


class Dimension(Config):
    """Exactly one of: `log10: [low, high]` exponents of ten, `uniform: [low, high]`, `choice: [a, b, …]`."""

    log10: tuple[float, float] | None = None
    uniform: tuple[float, float] | None = None
    choice: tuple[Value, ...] | None = None

    @model_validator(mode="after")
    def _one_kind(self) -> Dimension:
        given = {name: value for name, value in self if value is not None}
        if len(given) != 1:
            raise ValueError("must have exactly one of log10, uniform and choice")
        (kind, value), *_ = given.items()
        if kind == "choice":
            if not value:
                raise ValueError("choice must not be empty")
        elif not value[0] < value[1]:
            raise ValueError(f"{kind}: the low end {value[0]} must be below the high end {value[1]}")
        return self

    def bounds(self) -> tuple[Value, ...]:
        """The ends of the range, or every choice."""
        if self.choice is not None:
            return self.choice
        if self.log10 is not None:
            return tuple(10.0**exponent for exponent in self.log10)
        assert self.uniform is not None
        return self.uniform

    def distribution(self) -> BaseDistribution:
        """The same as Optuna knows it."""
        from optuna.distributions import CategoricalDistribution, FloatDistribution

        if self.choice is not None:
            return CategoricalDistribution(self.choice)
        low, high = map(float, self.bounds())
        return FloatDistribution(low, high, log=self.log10 is not None)


def check_space(space: Mapping[str, Dimension], trial: TrialConfig) -> None:
    """Try both ends of every dimension against the schema of a trial.

    Raises:
        ValueError: an unknown setting, or an end that a trial would refuse; the message names it.
    """
    reserved = {"seed", "dataset", "classifier", "device", "steps", "report_every"}
    settings = sorted(set(TrialConfig.model_fields) - reserved)
    for key, dimension in space.items():
        if key not in settings:
            raise ValueError(f"space: {key!r} cannot be searched; {suggest(key, settings)}")
        for value in dimension.bounds():
            try:
                trial.updated({key: value}, "space")
            except BadInput as fault:
                raise ValueError(str(fault)) from None


def settle(trial: TrialConfig, sampled: Mapping[str, Any], seed: int) -> TrialConfig:
    """The settings of one trial: what was sampled, over what is fixed."""
    data = trial.model_dump(mode="json")
    for key, value in {**sampled, "seed": seed}.items():
        assign(data, key, value, "sampled")
    return TrialConfig.parse(data, "sampled settings")
