"""Rules that stop trials early. What a rule knows is rebuilt from the study at every start, so it outlives the process."""

from __future__ import annotations

import math
from bisect import insort
from collections.abc import Mapping, Sequence
from enum import Enum
from typing import Final, Protocol

from records.rungs import brackets, mean_steps
from records.trial import TrialRecord
from search.policy.fronts import Point, count_before
from search.spec.config import SweepConfig

_FEWEST: Final = 3  # full trials before there is a median worth the name; as in Ray


class Decision(Enum):
    """The answer to a report: whether its trial goes on."""

    KEEP = "keep"
    STOP = "stop"


class StoppingRule(Protocol):
    """Decides from the values of the objectives alone."""

    def decide(self, number: int, step: int, value: float, second: float | None = None) -> Decision:
        """Decide if trial `number` goes on after its value at `step`. Other trials are compared with that value from now on.

        `second` is the value of the second objective, if there is one. A value may be repeated: it counts once.
        """


class NeverStop:
    """Every trial goes on to the full horizon."""

    def decide(self, number: int, step: int, value: float, second: float | None = None) -> Decision:
        """Always keep it."""
        return Decision.KEEP


class ASHA:
    """Asynchronous successive halving (Li et al. 2020) over optimiser steps, with the decisions of Ray's `ASHAScheduler`.

    A trial that reaches a rung is stopped if its value is below the (1 − 1/η) quantile of those that were there before it.
    """

    def __init__(self, config: SweepConfig, trials: Sequence[TrialRecord], *, skip: int = 0) -> None:
        """Every value that `trials` recorded takes its place in the rungs again. The first `skip` rungs are left out."""
        import numpy as np

        self._horizon, self._reduction = config.trial.steps, config.scheduler.reduction_factor
        self._sign = config.objective.sign
        # As Ray has it, to the last bit: where the quotient should be whole, another logarithm may give a rung less.
        count = int(np.log(self._horizon / config.first_rung) / np.log(self._reduction) + 1)
        self._rungs: dict[int, dict[int, float]] = {
            config.first_rung * self._reduction**rung: {} for rung in reversed(range(skip, count))
        }
        """By step, the last rung first: the value of each trial that came there, by number; larger is better."""
        for trial in trials:
            for step, value in trial.values.items():
                self.decide(trial.number, step, value)

    def decide(self, number: int, step: int, value: float, second: float | None = None) -> Decision:
        """Stop a trial whose value is too low for the highest rung that is new to it, and every trial at the horizon."""
        import numpy as np

        if step >= self._horizon:
            return Decision.STOP
        score = self._sign * value
        for rung, scores in self._rungs.items():
            if step < rung or number in scores:
                continue
            others = [other for other in scores.values() if not math.isnan(other)]
            low = bool(others) and score < np.percentile(others, (1 - 1 / self._reduction) * 100)
            scores[number] = score
            return Decision.STOP if low else Decision.KEEP
        return Decision.KEEP


class FrontASHA:
    """ASHA for two objectives: trials at a rung are in the order of `search.policy.fronts`, with no weights between objectives.

    A trial that reaches a rung is stopped if more than 1/η of those that were there before it come before it in that order.
    """

    def __init__(self, config: SweepConfig, trials: Sequence[TrialRecord], *, skip: int = 0) -> None:
        """Both values that `trials` recorded take their place in the rungs again. The first `skip` rungs are left out."""
        self._horizon, self._reduction = config.trial.steps, config.scheduler.reduction_factor
        self._signs = [objective.sign for objective in config.objectives]
        self._rungs: dict[int, dict[int, Point]] = {rung: {} for rung in config.rungs[skip:]}
        for trial in trials:
            for step, second in trial.second_at.items():
                if step in self._rungs and step in trial.values:
                    self._rungs[step][trial.number] = self._point(trial.values[step], second)

    def decide(self, number: int, step: int, value: float, second: float | None = None) -> Decision:
        """Stop a trial that too many others come before, at a rung that is new to it, and every trial at the horizon."""
        if step >= self._horizon:
            return Decision.STOP
        if second is None or step not in self._rungs or number in self._rungs[step]:
            return Decision.KEEP
        point, others = self._point(value, second), list(self._rungs[step].values())
        self._rungs[step][number] = point
        return Decision.STOP if count_before(point, others) > len(others) / self._reduction else Decision.KEEP

    def _point(self, value: float, second: float) -> Point:
        if math.isnan(value) or math.isnan(second):
            return (-math.inf, -math.inf)
        return (self._signs[0] * value, self._signs[1] * second)


class Hyperband:
    """Hyperband (Li et al. 2018) that never waits: brackets of ASHA (Li et al. 2020), each with rungs of its own.

    Bracket b leaves out the first b rungs; the last has none, and its trials are never stopped. The number of a trial says
    which bracket it belongs to: each gets about the same optimiser steps. Trials are compared within their bracket.
    """

    def __init__(self, config: SweepConfig, trials: Sequence[TrialRecord]) -> None:
        """Every value that `trials` recorded takes its place in its bracket again."""
        self._costs = bracket_costs(config)
        self._spent, self._bracket_of = [0.0] * len(self._costs), list[int]()
        members: list[list[TrialRecord]] = [[] for _ in self._costs]
        for trial in trials:
            members[self.bracket(trial.number)].append(trial)
        kind = FrontASHA if config.second_objective else ASHA
        self._brackets = [kind(config, each, skip=skip) for skip, each in enumerate(members)]

    def bracket(self, number: int) -> int:
        """The bracket of trial `number`, from 0: the one whose trials so far, and this one, take the fewest steps."""
        while len(self._bracket_of) <= number:
            with_this = [spent + cost for spent, cost in zip(self._spent, self._costs, strict=True)]
            least = with_this.index(min(with_this))
            self._spent[least] = with_this[least]
            self._bracket_of.append(least)
        return self._bracket_of[number]

    def decide(self, number: int, step: int, value: float, second: float | None = None) -> Decision:
        """Decide as ASHA does over the rungs of the trial's bracket."""
        return self._brackets[self.bracket(number)].decide(number, step, value, second)


def bracket_costs(config: SweepConfig) -> list[float]:
    """Optimiser steps of an average trial in each bracket of Hyperband."""
    factor, steps = config.scheduler.reduction_factor, config.trial.steps
    return [mean_steps(rungs, factor, steps) for rungs in brackets(config.first_rung, factor, steps)]


class MedianRule:
    """The median stopping rule (Golovin et al. 2017, section 3.2.2).

    A trial is stopped at step s if its best value so far is worse than the median, over the trials that reached the full
    horizon, of the mean of their values up to s. Ray's own rule is not used: it pauses trials where there is little to
    compare with, and counts a trial's last value twice.
    """

    def __init__(self, config: SweepConfig, trials: Sequence[TrialRecord]) -> None:
        """The values of `trials` are all that the rule has to know."""
        self._config = config
        self._values = {trial.number: dict(trial.values) for trial in trials}
        self._means: dict[int, list[float]] = {}
        """By step, in order: of each full trial the mean of its values up to there."""
        for values in self._values.values():
            self._add_means(values)

    def decide(self, number: int, step: int, value: float, second: float | None = None) -> Decision:
        """Stop a trial that is worse than the median, from the first rung on."""
        values = self._values.setdefault(number, {})
        if step not in values:
            values[step] = value
            self._add_means(values)
        worse = self._config.first_rung <= step < self._config.trial.steps and self._worse_than_median(number, step)
        return Decision.STOP if worse else Decision.KEEP

    def _add_means(self, values: Mapping[int, float]) -> None:
        if self._config.trial.steps not in values:
            return
        total = 0.0
        for count, (step, value) in enumerate(sorted(values.items()), start=1):
            total += value
            if math.isfinite(total):
                insort(self._means.setdefault(step, []), total / count)

    def _worse_than_median(self, number: int, step: int) -> bool:
        means = self._means.get(step, [])
        if len(means) < _FEWEST:
            return False
        middle = 0.5 * (means[(len(means) - 1) // 2] + means[len(means) // 2])
        sign = self._config.objective.sign
        best = max((sign * value for value in self._values[number].values() if not math.isnan(value)), default=math.nan)
        return best < sign * middle


def stopping_rule(config: SweepConfig, trials: Sequence[TrialRecord]) -> StoppingRule:
    """The rule that `config` names, as far as `trials` have come. Repetitions are not compared with, and not stopped."""
    trials = [trial for trial in trials if trial.repeats is None]
    match config.scheduler.name:
        case "asha":
            return FrontASHA(config, trials) if config.second_objective else ASHA(config, trials)
        case "hyperband":
            return Hyperband(config, trials)
        case "median":
            return MedianRule(config, trials)
        case "none":
            return NeverStop()
