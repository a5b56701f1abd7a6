"""Samplers propose the settings of new trials. Each is a function of (seed, trials so far): it has no state that could be lost.

A setting is sampled in a study in memory that holds what the sampler may learn from, and enters the ledger whole. A driver
that dies in between has not asked, and asks the same at its next start. That study follows the ledger's trials, for to make it
anew for each setting would take longer with every trial.
"""

from __future__ import annotations

import random
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from gbc.errors import BadInput
from records.trial import ENQUEUED, ORIGIN, REPEATS
from search.policy.rung_view import FEWEST, as_seen, at_highest_rung, fewest_values
from search.spec.config import SweepConfig
from search.spec.space import Dimension, Value

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution
    from optuna.samplers import BaseSampler
    from optuna.storages import InMemoryStorage
    from optuna.study import Study
    from optuna.trial import FrozenTrial, Trial, TrialState


_SAMPLER_TRIES: Final = 20
"""Settings that a sampler may propose before one that keeps the constraints is drawn at random."""
_RANDOM_TRIES: Final = 100_000
_SOBOL_BATCH, _SOBOL_BATCHES = 64, 2048
"""Points of a sequence that are looked through for those that keep the constraints."""
_FEWEST_SOURCES: Final = 10  # the best tenth becomes the first distribution of a warm CMA-ES; of fewer it is nothing


@dataclass(frozen=True)
class SourceTrial:
    """Settings of another sweep's trial, and what came of them."""

    origin: str
    """For example `other/trial-0007`."""
    params: Mapping[str, Any]
    values: Sequence[float]
    """Each objective at the full horizon."""


@dataclass(frozen=True)
class Prior:
    """Trials that are known before the first one of a sweep."""

    first: Sequence[SourceTrial] = ()
    """Settings to try before any is sampled; where one lacks an active dimension, that is sampled."""
    history: Sequence[SourceTrial] = ()
    """Trials that samplers that learn know beside the sweep's own. Each has all active dimensions and all objectives."""


class Proposer:
    """Proposes trials, from a study in memory that follows the trials on record."""

    def __init__(self, config: SweepConfig, prior: Prior) -> None:
        """`prior` holds the trials that are known before the first one."""
        self._config, self._prior, self._space = config, prior, config.search_space
        self._distributions = {key: dimension.distribution() for key, dimension in config.space.items()}
        self._history = [_completed_trial(config, known) for known in prior.history]
        self._study: Study | None = None
        self._storage: InMemoryStorage | None = None
        self._states: list[TrialState] = []
        """States of the sweep's trials as the study in memory holds them, by trial number."""

    def propose(self, trials: Sequence[FrozenTrial]) -> FrozenTrial:
        """A new trial, running, to follow `trials`, which are all of the sweep's."""
        own = [trial for trial in trials if REPEATS not in trial.user_attrs and trial.user_attrs.get(ORIGIN) != ENQUEUED]
        if len(own) < len(self._prior.first):
            return self.complete(trials, self._prior.first[len(own)])
        attributes: dict[str, Any] = {}
        if sequence := SEQUENCES.get(self._config.sampler):
            params = sequence(self._config, sum(ORIGIN not in trial.user_attrs for trial in own))
        else:
            params, attributes = self._sample(trials, {})
        return self._running(params, {}, attributes)

    def complete(self, trials: Sequence[FrozenTrial], known: SourceTrial) -> FrozenTrial:
        """A new trial with known settings, running, to follow `trials`; what they leave open is sampled."""
        params, _ = self._sample(trials, known.params)
        return self._running(params, {ORIGIN: known.origin}, {})

    def repeat(self, trial: FrozenTrial) -> FrozenTrial:
        """A new trial, running, with the settings of another one."""
        return self._running(trial.params, {REPEATS: trial.number}, {})

    def _running(self, params: dict[str, Any], user: dict[str, Any], system: dict[str, Any]) -> FrozenTrial:
        from optuna.trial import TrialState, create_trial

        return create_trial(
            state=TrialState.RUNNING,
            params=params,
            distributions={key: self._distributions[key] for key in params},
            user_attrs=user,
            system_attrs=system,
        )

    def _sample(self, trials: Sequence[FrozenTrial], fixed: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
        """Sample settings, and the attributes that the sampler reads on the trial later (CMA-ES keeps its state there).

        Settings that break a constraint are sampled again, in a study that does not know of them: a driver that starts in
        between tries the same ones in the same order.
        """
        for attempt in range(_SAMPLER_TRIES):
            params, attributes = self._ask_sampler(trials, fixed, attempt)
            if self._space.broken(params) is None:
                return params, attributes
            self._study = None
        return random_setting(self._config, len(trials), fixed), {}

    def _ask_sampler(
        self, trials: Sequence[FrozenTrial], fixed: Mapping[str, Any], attempt: int
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        import optuna

        optuna.logging.set_verbosity(optuna.logging.ERROR)  # the GP's import would say that it could be quicker
        seed = (self._config.seed * 100_003 + len(trials) + attempt * 1_000_000_007) % 2**32
        at_rung = self._config.sampler in AT_RUNG
        study = self._study_at_rung(trials) if at_rung else self._updated_study(trials)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            study.sampler = SAMPLERS[self._config.sampler](self._config, seed, self._history)
        if fixed:
            study.enqueue_trial(dict(fixed))
        asked = study.ask()
        self._space.walk(lambda key, dimension: _suggest(asked, key, dimension))
        frozen = study.get_trials(deepcopy=False)[-1]
        if self._config.sampler in LEARNING and not at_rung:
            self._states.append(frozen.state)
        return dict(frozen.params), dict(frozen.system_attrs)

    def _study_at_rung(self, trials: Sequence[FrozenTrial]) -> Study:
        """A new study in memory: from one proposal to the next the rung, and with it every value, may be another."""
        import optuna

        study = optuna.create_study(direction=f"{self._config.objective.direction}imize")
        study.add_trials(at_highest_rung(self._config, trials, self._history))
        return study

    def _updated_study(self, trials: Sequence[FrozenTrial]) -> Study:
        """Bring the study in memory to where `trials` are; for a sampler that does not learn it is empty."""
        import optuna

        if self._study is None or self._config.sampler not in LEARNING or not self._is_prefix_of(trials):
            self._states = []
            self._storage = optuna.storages.InMemoryStorage()
            self._study = optuna.create_study(
                storage=self._storage, directions=[f"{objective.direction}imize" for objective in self._config.objectives]
            )
        if self._config.sampler not in LEARNING:
            return self._study
        if not self._states:
            self._study.add_trials(self._history)
        for number, trial in enumerate(trials):
            state, values = as_seen(self._config, trial)
            if number == len(self._states):
                self._study.add_trial(trial if state == trial.state else _copy(trial, state, values))
                self._states.append(state)
            elif self._states[number] != state:
                self._end_trial(number, trial, state, values)
        return self._study

    def _is_prefix_of(self, trials: Sequence[FrozenTrial]) -> bool:
        """True if the study in memory is an earlier state of these trials: none ended there has been opened again since."""
        return len(self._states) <= len(trials) and all(
            not known.is_finished() or known == as_seen(self._config, trial)[0]
            for known, trial in zip(self._states, trials, strict=False)
        )

    def _end_trial(self, number: int, trial: FrozenTrial, state: TrialState, values: Sequence[float] | None) -> None:
        assert self._study is not None and self._storage is not None
        mine = self._study.get_trials(deepcopy=False)[len(self._history) + number]
        for step, value in trial.intermediate_values.items():
            if step not in mine.intermediate_values:
                self._storage.set_trial_intermediate_value(mine._trial_id, step, value)
        self._storage.set_trial_state_values(mine._trial_id, state, values)
        self._states[number] = state


def _copy(trial: FrozenTrial, state: TrialState, values: Sequence[float] | None) -> FrozenTrial:
    from optuna.trial import create_trial

    return create_trial(state=state, values=values, params=trial.params, distributions=trial.distributions)


def _suggest(trial: Trial, key: str, dimension: Dimension) -> Value:
    """Let the sampler choose the value of one setting."""
    if dimension.choice is not None:
        return trial.suggest_categorical(key, dimension.choice)
    low, high = dimension.bounds()
    if dimension.int is not None:
        return trial.suggest_int(key, int(low), int(high), log=bool(dimension.log))
    return trial.suggest_float(key, float(low), float(high), log=dimension.log10 is not None)


def random_setting(config: SweepConfig, number: int, fixed: Mapping[str, Any]) -> dict[str, Any]:
    """A random setting for trial `number` that keeps the constraints; what is `fixed` stays.

    Raises:
        BadInput: so few settings keep them that none is drawn.
    """
    generator = random.Random(f"{config.seed}/{number}")
    try:
        return config.search_space.draw(generator, fixed, tries=_RANDOM_TRIES)
    except ValueError as fault:
        raise BadInput(f"constraints: {fault}; relax that, or widen the space, under another --name") from None


def grid_point(config: SweepConfig, index: int) -> dict[str, Any]:
    """Point `index` of the grid, in an order shuffled by the sweep's seed: a part of the grid covers the whole space."""
    import numpy as np

    space = config.search_space
    # Once around after the last, for a trial that should not have been asked for.
    point = np.random.default_rng(config.seed).permutation(space.grid_size)[index % space.grid_size]
    if space.conditional or space.constrained:
        return dict(space.grid()[point])
    axes = [dimension.grid() for dimension in config.space.values()]
    indices = np.unravel_index(point, [len(axis) for axis in axes]) if axes else ()
    return {key: axis[i] for key, axis, i in zip(config.space, axes, indices, strict=True)}


def sobol_point(config: SweepConfig, index: int) -> dict[str, Any]:
    """Point `index` of the Sobol sequence (Owen-scrambled by the sweep's seed) over the space.

    Points that break a constraint are not counted.
    """
    from scipy.stats.qmc import Sobol

    if not config.space:
        return {}
    space, engine = config.search_space, Sobol(len(config.space), scramble=True, seed=config.seed)

    def setting(point: Sequence[float]) -> dict[str, Any]:
        shares = dict(zip(config.space, map(float, point), strict=True))
        return space.walk(lambda key, dimension: dimension.at(shares[key]))

    if not space.constrained:
        if index:
            engine.fast_forward(index)
        return setting(engine.random(1)[0])
    kept = 0
    for _ in range(_SOBOL_BATCHES):
        for point in engine.random(_SOBOL_BATCH):
            params = setting(point)
            if space.broken(params) is None:
                if kept == index:
                    return params
                kept += 1
    return random_setting(config, index, {})


def _completed_trial(config: SweepConfig, known: SourceTrial) -> FrozenTrial:
    from optuna.trial import create_trial

    params = dict(known.params)
    distributions = {key: config.space[key].distribution() for key in params}
    return create_trial(values=list(known.values), params=params, distributions=distributions)


def _tpe(config: SweepConfig, seed: int, history: Sequence[FrozenTrial], start: int = FEWEST) -> BaseSampler:
    """A distribution for each setting by itself, which finds more than one of all settings (docs/search.md).

    Settings with a condition are sampled together with those beside which they are active (`group`).
    """
    from optuna.samplers import TPESampler

    if config.search_space.conditional and config.second_objective is None:
        return TPESampler(seed=seed, n_startup_trials=start, constant_liar=True, multivariate=True, group=True)
    return TPESampler(seed=seed, n_startup_trials=start, constant_liar=True, multivariate=False)


def _bohb(config: SweepConfig, seed: int, history: Sequence[FrozenTrial]) -> BaseSampler:
    """TPE, in a study that holds the values at one rung (`search.policy.rung_view`)."""
    return _tpe(config, seed, history, fewest_values(config))


def _gp(config: SweepConfig, seed: int, history: Sequence[FrozenTrial]) -> BaseSampler:
    from optuna.samplers import GPSampler

    return GPSampler(seed=seed, warn_independent_sampling=False)


def _cmaes(config: SweepConfig, seed: int, history: Sequence[FrozenTrial]) -> BaseSampler:
    """Ranges without a condition only: the others are sampled at random beside it.

    Trials that ASHA or Hyperband stopped count with their last value, as Optuna advises for rungs: they are what most of a
    generation comes to.
    """
    from optuna.samplers import CmaEsSampler
    from optuna.trial import create_trial

    ranges = {key: d.distribution() for key, d in config.space.items() if d.choice is None and not d.when}

    class FixedDimensions(CmaEsSampler):  # type: ignore[misc]  # Optuna imports it lazily
        """CMA-ES gives up when the number of its dimensions changes, as it would where early trials have a conditional one."""

        def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
            every = super().infer_relative_search_space(study, trial)
            return {key: distribution for key, distribution in every.items() if key in ranges}

    source = [
        create_trial(value=trial.value, params={key: trial.params[key] for key in ranges}, distributions=ranges)
        for trial in history
    ]
    if len(source) < _FEWEST_SOURCES:
        source *= _FEWEST_SOURCES  # the best tenth is then the best trial
    return FixedDimensions(
        seed=seed,
        source_trials=source or None,
        consider_pruned_trials=config.scheduler.name in ("asha", "hyperband"),
        warn_independent_sampling=False,
    )


def _random(config: SweepConfig, seed: int, history: Sequence[FrozenTrial]) -> BaseSampler:
    from optuna.samplers import RandomSampler

    return RandomSampler(seed=seed)


SAMPLERS: Final[dict[str, Callable[[SweepConfig, int, Sequence[FrozenTrial]], BaseSampler]]] = {
    "tpe": _tpe,
    "bohb": _bohb,
    "random": _random,
    "cmaes": _cmaes,
    "gp": _gp,
    "qmc": _random,  # for what a warm start leaves open
    "grid": _random,
}
LEARNING: Final = frozenset({"tpe", "bohb", "cmaes", "gp"})
AT_RUNG: Final = frozenset({"bohb"})
"""Samplers that learn from the values at one rung, in place of the last value of each trial."""
SEQUENCES: Final[dict[str, Callable[[SweepConfig, int], dict[str, Any]]]] = {"qmc": sobol_point, "grid": grid_point}
