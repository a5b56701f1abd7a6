"""The ranking of trials, by one objective or by two (a Pareto front).

A trial that meets what the sweep requires is better than any that does not.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from records.repetitions import repeated
from search.spec.config import SweepConfig

if TYPE_CHECKING:
    from records.trial import TrialRecord


RankKey = tuple[bool, tuple[float, ...]]
"""(True if a trial meets what is required, its objectives as larger-is-better numbers); the larger key is better."""


def maximised_objectives(config: SweepConfig, trial: TrialRecord) -> tuple[float, ...]:
    """Each objective of a full trial, turned so that larger is better."""
    return tuple(objective.sign * value for objective, value in zip(config.objectives, trial.objectives, strict=True))


def rank_key(config: SweepConfig, trial: TrialRecord) -> RankKey:
    """The sort key of a full trial: larger is better."""
    return not trial.missed, maximised_objectives(config, trial)


def full_trials(config: SweepConfig, trials: Sequence[TrialRecord]) -> list[TrialRecord]:
    """Trials that reached the full horizon, with a value of each objective. Repetitions are none: they are of their trial."""
    full = [trial for trial in trials if trial.state == "complete" and trial.repeats is None]
    return [trial for trial in full if len(trial.objectives) == len(config.objectives)]


def best_trial(config: SweepConfig, trials: Sequence[TrialRecord]) -> TrialRecord | None:
    """The full trial that is best by the first objective, by the second among equals. It lies on the front.

    Where none meets what is required, it is the best of all. Where settings ran again on fresh seeds, it is the trial of the
    one with the best mean.
    """
    if results := repeated(trials, config.objective.sign):
        return next(trial for trial in trials if trial.number == results[0].trial)
    return max(full_trials(config, trials), key=lambda trial: rank_key(config, trial), default=None)


def pareto_front(config: SweepConfig, trials: Sequence[TrialRecord]) -> list[TrialRecord]:
    """Full trials that no other beats: none is as good in each objective and better in one. The best comes first."""
    ranked = sorted(full_trials(config, trials), key=lambda trial: rank_key(config, trial), reverse=True)
    scores = [rank_key(config, trial) for trial in ranked]
    return [trial for trial, score in zip(ranked, scores, strict=True) if not any(_dominates(other, score) for other in scores)]


def ranked_trials(config: SweepConfig, trials: Sequence[TrialRecord]) -> list[TrialRecord]:
    """Full trials, best first: the front, then the others, both by the first objective; the earlier among equals."""
    leaders = {trial.number for trial in pareto_front(config, trials)}

    def key(trial: TrialRecord) -> tuple[bool, RankKey]:
        return trial.number in leaders, rank_key(config, trial)

    return sorted(full_trials(config, trials), key=key, reverse=True)


def trials_to_keep(config: SweepConfig, trials: Sequence[TrialRecord]) -> list[TrialRecord]:
    """The `keep` best, and with two objectives the whole front however long it is: each of it is a result.

    What ran again on fresh seeds stays as well: a mean is not beaten by a single value.
    """
    count = config.keep
    if config.second_objective is not None:
        count = max(count, len(pareto_front(config, trials)))
    repeated_trials = {trial.repeats for trial in trials}
    return [
        trial for rank, trial in enumerate(ranked_trials(config, trials)) if rank < count or trial.number in repeated_trials
    ]


def result_trials(config: SweepConfig, trials: Sequence[TrialRecord]) -> list[TrialRecord]:
    """The results of a sweep: the best trial, with two objectives the front. The best comes first."""
    if config.second_objective is not None:
        return pareto_front(config, trials)
    best = best_trial(config, trials)
    return [] if best is None else [best]


def trials_since_improvement(config: SweepConfig, trials: Sequence[TrialRecord]) -> int:
    """Count the full trials since the last that none before it equalled, in the order in which they ended."""
    count, leaders = 0, list[RankKey]()
    for trial in sorted(full_trials(config, trials), key=lambda trial: trial.ended or 0.0):
        score = rank_key(config, trial)
        if any(_at_least_as_good(leader, score) for leader in leaders):
            count += 1
        else:
            count = 0
            leaders = [leader for leader in leaders if not _at_least_as_good(score, leader)] + [score]
    return count


def _at_least_as_good(key: RankKey, other: RankKey) -> bool:
    if key[0] != other[0]:
        return key[0]
    return all(mine >= its for mine, its in zip(key[1], other[1], strict=True))


def _dominates(key: RankKey, other: RankKey) -> bool:
    return key != other and _at_least_as_good(key, other)
