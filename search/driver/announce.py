"""The lines with which a run of a sweep begins."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console

from records.format import duration
from search.driver.progress import expected_steps
from search.driver.resources import Machine
from search.policy.budget import planning_ended_by
from search.policy.samplers import LEARNING, Prior
from search.spec.config import SweepConfig
from search.study.ledger import Ledger


def run(config: SweepConfig, machine: Machine, speed: float, ledger: Ledger, console: Console) -> None:
    """Say what will run and how long it should take; `speed` is in steps/s of one trial alone."""
    trials = ledger.entries()
    counted = [trial for trial in trials if trial.counts]
    over = planning_ended_by(config, trials, ledger.seconds) is not None
    planned = len(counted) if over else max(config.trials, len(counted))
    left = planned - sum(trial.finished for trial in counted)
    steps = left * expected_steps(config) - sum(e.last_step for e in counted if not e.finished)
    steps += max(0, config.finalist_steps - sum(e.last_step for e in trials if e.repeats is not None))
    longest = _longest_trial(config, [trial.last_step for trial in counted if not trial.finished], left)
    if config.max_steps is not None:
        allowed = max(0, config.max_steps - sum(trial.last_step for trial in trials))
        steps, longest = min(steps, allowed), min(longest, allowed)
    seconds = max(steps / machine.concurrency, longest, 0) / speed
    if config.time_budget is not None:
        seconds = min(seconds, config.time_budget * 60 - ledger.seconds)
    extent = f"continues after its {planned}" if over and not left else f"continues with {left} of {planned}"
    extent = extent if trials else f"{planned}"
    stopping = f"stopped early by {config.scheduler.name}" if config.scheduler.name != "none" else "never stopped early"
    console.print(
        f"sweep {config.name}: {extent} trial{'s' * (planned != 1)} of {config.trial.steps} steps, {stopping}, "
        f"sampled by {config.sampler}, {machine.concurrency} at a time on {machine.describe()}; "
        f"objective {' and '.join(f'{o.metric} ({o.direction})' for o in config.objectives)}{_limits(config)}.\n"
        f"{speed:.0f} steps/s a trial: about {duration(seconds)} once the workers have started. "
        f"Ctrl-C is safe: the same command continues.{_finalists(config)}",
        highlight=False, soft_wrap=True,
    )  # fmt: skip


def _longest_trial(config: SweepConfig, open_steps: Sequence[int], left: int) -> int:
    """Steps that one trial still makes, one after the other: the best is never stopped.

    `open_steps` are the steps that open trials have made; `left` counts these trials and those that have not started.
    """
    if left > len(open_steps):
        return config.trial.steps
    return config.trial.steps - min(open_steps, default=config.trial.steps)


def _finalists(config: SweepConfig) -> str:
    """A line on the finalists, and the time that is kept for them; empty without any."""
    if not config.finalists:
        return ""
    minutes = config.finalist_time
    kept = "" if minutes is None else f"; {duration(minutes * 60)} of the time budget are kept for that"
    return f"\nAt the end its best {config.finalists} settings run again on {config.seeds} fresh seeds each{kept}."


def warm_start(config: SweepConfig, prior: Prior, console: Console) -> None:
    """Say what the sweep takes from another one."""
    learns, taken = config.sampler in LEARNING, len(prior.first) - len(config.first_trials)
    console.print(
        f"warm start: {taken} of the first trials take settings of sweep {config.warm_start}; "
        f"sampler {config.sampler} "
        + (f"knows {len(prior.history)} of its full trials" if learns else "does not learn from it"),
        highlight=False, soft_wrap=True,
    )  # fmt: skip


def _limits(config: SweepConfig) -> str:
    """Requirements on the best, and budgets other than trials and time, in words for people."""
    limits = [f"the best needs {config.objective.required}"] if config.objective.require else []
    if config.max_steps is not None:
        limits.append(f"at most {config.max_steps} steps in all")
    if config.patience is not None:
        limits.append(f"ends after {config.patience} full trials without a better one")
    return "".join(f"; {limit}" for limit in limits)
