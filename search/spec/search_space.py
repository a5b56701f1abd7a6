"""The search space of a sweep: its dimensions with their conditions, and the constraints between settings.

A setting is searched where its condition (`Dimension.when`) holds, and has its fixed value elsewhere. Conditions and
constraints go by the values that a trial has, searched or not.
"""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from functools import lru_cache
from typing import Any, Final

from gbc.classifier_config import ClassifierConfig
from gbc.config import TrialConfig
from gbc.errors import BadInput
from gbc.settings import suggest
from search.spec.expressions import Expression
from search.spec.space import Dimension, Value, outside, unknown, values_of

CLASSIFIER: Final = "classifier."
"""The beginning of the settings of the classifier, of which each choice is trained once."""
_DRAWS: Final = 1000
"""Draws among which one must keep the constraints."""
_MOST_CLASSIFIERS: Final = 16
_MOST_CONSTRAINTS: Final = 50
_MOST_CONTEXTS: Final = 64
"""Combinations of the settings in a condition with which the ends of a dimension are tried."""
_MOST_LISTED: Final = 100_000
"""Combinations that are listed: points of a grid with conditions or constraints, choices that make classifiers."""


class SearchSpace:
    """The searched settings of a sweep, over those that are fixed."""

    def __init__(self, dimensions: Mapping[str, Dimension], constraints: Sequence[str], trial: TrialConfig) -> None:
        """`trial` holds the fixed settings, and the value of each searched one where it is not searched.

        Raises:
            ValueError: a key that cannot be searched, a condition that cannot hold, or a constraint that cannot be read.
        """
        self.dimensions, self._texts, self._trial = dimensions, tuple(constraints), trial
        self._fixed = values_of(trial)
        self._conditions = {key: dimension.conditions for key, dimension in dimensions.items()}
        if faults := [*self._unknown_keys(), *self._faulty_conditions()]:
            raise ValueError("\n".join(faults))
        self._order = self._sampling_order()
        self._constraints = self._parsed_constraints()

    @property
    def conditional(self) -> frozenset[str]:
        """The settings that not every trial has."""
        return frozenset(key for key, dimension in self.dimensions.items() if dimension.when)

    @property
    def constrained(self) -> bool:
        """True if there are constraints."""
        return bool(self._constraints)

    def walk(self, pick: Callable[[str, Dimension], Value]) -> dict[str, Value]:
        """The settings of a trial: `pick` is asked for the value of each active one, after those in its condition."""
        params, values = dict[str, Value](), dict(self._fixed)
        for key in self._order:
            if self._condition_of(key, values):
                params[key] = values[key] = pick(key, self.dimensions[key])
        return params

    def fitting(self, given: Mapping[str, Any]) -> dict[str, Value]:
        """The part of `given` that a trial may have: values in their dimensions, whose conditions hold beside the others."""
        params, values = dict[str, Value](), self._not_searched()
        for key in self._order:
            active = self._condition_of(key, values)
            if active is False:
                values[key] = self._fixed[key]
            elif active and key in given and self.dimensions[key].holds(given[key]):
                params[key] = values[key] = given[key]
        return params

    def possible(self, known: Mapping[str, Value]) -> set[str]:
        """The settings that are active, or may be, in a trial with the `known` values."""
        values, active = self._not_searched() | dict(known), set[str]()
        for key in self._order:
            if self._condition_of(key, values) is False:
                values[key] = self._fixed[key]
            else:
                active.add(key)
        return active

    def is_whole(self, params: Mapping[str, Any]) -> bool:
        """True if `params` are the settings of a trial: every active one, and no other."""
        return params.keys() == self.walk(lambda key, _: params.get(key, self._fixed[key])).keys()

    def broken(self, params: Mapping[str, Any]) -> str | None:
        """The first constraint that the settings of a trial break; None if they keep all."""
        values = {**self._fixed, **params} if self._constraints else {}
        return next((constraint.text for constraint in self._constraints if not constraint.holds(values)), None)

    def draw(self, generator: random.Random, known: Mapping[str, Value] | None = None, tries: int = _DRAWS) -> dict[str, Value]:
        """Draw settings at random, again while they break a constraint; those that are `known` stay.

        Raises:
            ValueError: none of so many draws keeps the constraints; the message names the one that most of them break.
        """
        given = known or {}
        broken: dict[str, int] = {}
        for _ in range(tries):
            params = self.walk(lambda key, dimension: given[key] if key in given else dimension.at(generator.random()))
            if (text := self.broken(params)) is None:
                return params
            broken[text] = broken.get(text, 0) + 1
        worst = max(broken, key=lambda text: broken[text])
        raise ValueError(f"of {tries:,} draws from the space none keeps all constraints; {broken[worst]:,} break {worst!r}")

    def fault_of(self, given: Mapping[str, Any]) -> tuple[str, str] | None:
        """The fault of settings that somebody lists, perhaps not all: (its key or none, message); None if they may be tried."""
        for key, value in given.items():
            if key not in self.dimensions:
                return "", unknown(key, self.dimensions)
            if not self.dimensions[key].holds(value):
                return key, outside(value, self.dimensions[key])
        fitting = self.fitting(given)
        if inactive := [key for key in given if key not in fitting]:
            return inactive[0], f"is searched only {self.dimensions[inactive[0]].where}; give that beside it, or leave it out"
        if self.is_whole(given):
            text = self.broken(given)
            return ("", f"breaks the constraint {text!r}") if text else None
        try:
            self.draw(random.Random(0), given)
        except ValueError as fault:
            return "", f"with these, {fault}"
        return None

    def leaves(self, keys: Iterable[str], values: Callable[[Dimension], Iterable[Value]]) -> list[dict[str, Value]]:
        """Every combination of the `values` of some dimensions, and of the choices in their conditions.

        Raises:
            ValueError: they are too many to list.
        """
        wanted = self._with_conditions(keys)
        points: list[dict[str, Value]] = [{}]
        for key in self._order:
            if key not in wanted:
                continue
            dimension = self.dimensions[key]
            points = [
                extended
                for point in points
                for extended in (
                    [{**point, key: value} for value in values(dimension)]
                    if self._condition_of(key, {**self._fixed, **point})
                    else [point]
                )
            ]
            if len(points) > _MOST_LISTED:
                raise ValueError(f"space: the choices up to {key} have more than {_MOST_LISTED:,} combinations; take some away")
        return points

    def classifiers(self) -> list[dict[str, Value]]:
        """The choices that make each classifier of the space, with those in their conditions; one without any by default."""
        return self.leaves([key for key in self.dimensions if key.startswith(CLASSIFIER)], _choices)

    def trials(self) -> list[TrialConfig]:
        """The fixed settings of a trial with each classifier of the space."""
        return [self._trial.updated(params, "space") if params else self._trial for params in self.classifiers()]

    def grid(self) -> list[dict[str, Value]]:
        """Every point of the grid that keeps the constraints."""
        return _grid(self)

    @property
    def grid_size(self) -> int:
        """The number of points of the grid."""
        size = math.prod(dimension.grid_size for dimension in self.dimensions.values())
        return len(self.grid()) if (self.conditional or self.constrained) and size <= _MOST_LISTED else size

    def check(self, first_trials: Sequence[Mapping[str, Value]]) -> None:
        """Try the ends of every dimension against the schema of a trial, the constraints and the listed settings.

        Raises:
            ValueError: what does not fit; the message names it.
        """
        if faults := [fault for key in self.dimensions for fault in self._refused_end(key)]:
            raise ValueError("\n".join(faults))
        searched = [key for key in self.dimensions if key.startswith(CLASSIFIER)]
        count = len({tuple(params.get(key) for key in searched) for params in self.classifiers()})
        if count > _MOST_CLASSIFIERS:
            raise ValueError(f"space: {count} classifiers are too many to train; at most {_MOST_CLASSIFIERS} may be searched")
        try:
            self.draw(random.Random(0))
        except ValueError as fault:
            raise ValueError(f"constraints: {fault}; relax that, or widen the space") from None
        for index, settings in enumerate(first_trials):
            if located := self.fault_of(settings):
                key, message = located
                raise ValueError(f"first_trials[{index}]{key and '.'}{key}: {message}")

    def check_grid(self, most: int) -> None:
        """Check the number of points of the grid.

        Raises:
            ValueError: they are too many, or none.
        """
        size = math.prod(dimension.grid_size for dimension in self.dimensions.values())
        listed = bool(self.conditional or self.constrained)
        if size > (min(most, _MOST_LISTED) if listed else most):
            raise ValueError(f"sampler grid: {size:,} points are too many; lower `points` in the space, or use qmc")
        if not self.grid_size:
            raise ValueError("sampler grid: no point of the grid keeps the constraints; raise `points`, or use random")

    def __eq__(self, other: object) -> bool:
        return isinstance(other, SearchSpace) and self._key == other._key

    def __hash__(self) -> int:
        return hash(self._key)

    @property
    def _key(self) -> str:
        return repr((dict(self.dimensions), self._texts, self._trial))

    def _condition_of(self, key: str, values: Mapping[str, Any]) -> bool | None:
        """True if a setting is searched beside `values`; None while one that decides is not among them."""
        undecided = False
        for parent, wanted in self._conditions[key].items():
            if parent not in values:
                undecided = True
            elif values[parent] not in wanted:
                return False
        return None if undecided else True

    def _not_searched(self) -> dict[str, Any]:
        return {key: value for key, value in self._fixed.items() if key not in self.dimensions}

    def _with_conditions(self, keys: Iterable[str]) -> set[str]:
        """Some settings, with those that their conditions name."""
        pending, closure = list(keys), set[str]()
        while pending:
            key = pending.pop()
            if key not in closure:
                closure.add(key)
                pending += self._conditions[key]
        return closure

    def _unknown_keys(self) -> Iterable[str]:
        fixed = {"seed", "dataset", "classifier", "device", "steps", "report_every"}
        top = (TrialConfig.model_fields.keys() & self._fixed.keys()) - fixed
        inner = set(ClassifierConfig.model_fields) - {"factory", "weights", "card"}
        known = top | {f"{CLASSIFIER}{name}" for name in inner}
        for key, dimension in self.dimensions.items():
            if key == "classifier":
                yield "space: 'classifier' cannot be searched as a whole; write classifier.name: {choice: [mlp, mlp_bn]}"
            elif key not in known:
                yield f"space: {key!r} cannot be searched; {suggest(key, known)}"
            elif key.startswith(CLASSIFIER) and dimension.choice is None:
                yield f"space: {key}: a classifier is trained for each value; write a choice"
        if f"{CLASSIFIER}name" in self.dimensions and self._trial.classifier.factory:
            yield "space: classifier.name has no effect beside trial.classifier.factory; write the factory as a choice"

    def _faulty_conditions(self) -> Iterable[str]:
        for key, conditions in self._conditions.items():
            for parent, values in conditions.items():
                source = f"space: {key}: when.{parent}"
                if parent not in self.dimensions:
                    yield f"{source}: {unknown(parent, self.dimensions)}"
                elif self.dimensions[parent].choice is None:
                    yield f"{source}: {parent} is a range; a condition names a setting with a choice"
                else:
                    for value in values:
                        if not self.dimensions[parent].holds(value):
                            yield f"{source}: {outside(value, self.dimensions[parent])}"
                            break

    def _sampling_order(self) -> tuple[str, ...]:
        """The settings in the order of the file, but each after those in its condition."""
        order: dict[str, None] = {}
        while len(order) < len(self.dimensions):
            left = [key for key in self.dimensions if key not in order]
            ready = next((key for key in left if self._conditions[key].keys() <= order.keys()), None)
            if ready is None:
                raise ValueError(f"space: the conditions of {', '.join(left)} go around in a circle; take one `when` away")
            order[ready] = None
        return tuple(order)

    def _parsed_constraints(self) -> tuple[Expression, ...]:
        if len(self._texts) > _MOST_CONSTRAINTS:
            raise ValueError(f"constraints: {len(self._texts)} are too many; at most {_MOST_CONSTRAINTS}")
        faults, expressions = [], []
        examples = self._fixed | {key: dimension.bounds()[0] for key, dimension in self.dimensions.items()}
        for index, text in enumerate(self._texts):
            try:
                expressions.append(Expression(text))
                expressions[-1].check(examples)
            except ValueError as fault:
                faults.append(f"constraints[{index}]: {fault}")
        if faults:
            raise ValueError("\n".join(faults))
        return tuple(expressions)

    def _refused_end(self, key: str) -> Iterable[str]:
        """The fault of the first end of a dimension that a trial would refuse, where it is active."""
        parents: Collection[str] = self._with_conditions([key]) - {key}
        contexts = self.leaves(parents, _choices)
        active = [context for context in contexts if self._condition_of(key, {**self._fixed, **context})]
        for context, value in itertools.product(active[:_MOST_CONTEXTS], self.dimensions[key].bounds()):
            try:
                self._trial.updated({**context, key: value}, "space")
            except BadInput as fault:
                yield str(fault)
                return


def _choices(dimension: Dimension) -> tuple[Value, ...]:
    return dimension.choice or ()


@lru_cache(maxsize=4)
def _grid(space: SearchSpace) -> list[dict[str, Value]]:
    points = space.leaves(space.dimensions, Dimension.grid)
    return [point for point in points if space.broken(point) is None]


def take_out(key: str, fixed: Mapping[str, Any], space: dict[str, Any], first_trials: Sequence[dict[str, Any]]) -> None:
    """Take a setting out of a space in plain data, with those searched only beside other values than its `fixed` one."""
    for settings in (space, *first_trials):
        settings.pop(key, None)
    for name, dimension in list(space.items()):
        condition = dimension.get("when") if isinstance(dimension, dict) else None
        if not isinstance(condition, dict) or key not in condition:
            continue
        wanted = condition.pop(key)
        if fixed.get(key) not in (wanted if isinstance(wanted, list) else [wanted]):
            take_out(name, fixed, space, first_trials)
        elif not condition:
            del dimension["when"]
