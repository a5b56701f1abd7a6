"""Differences between the study and another record of a trial: in its steps, its values, its settings."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from gbc.settings import flatten
from records.format import listed
from records.trial import TrialRecord
from search.consistency.mlflow_facts import Facts
from search.spec.config import SweepConfig
from search.worker.trial import settings_of

_LONGEST: Final = 6000  # characters of a parameter in MLflow


def wrong_steps(steps: list[int], every: int) -> str | None:
    """The faults in the steps of a trial's reports, which must be the multiples of `every`."""
    expected = [every * (index + 1) for index in range(len(steps))]
    if steps == expected:
        return None
    if len(set(steps)) < len(steps):
        return f"repeat: {listed(sorted({step for step in steps if steps.count(step) > 1}))}"
    missing = sorted(set(range(every, max(steps) + 1, every)) - set(steps))
    return f"have a gap: {listed(missing)}" if missing else f"are out of order or no multiples of {every}"


def wrong_values(trial: TrialRecord, recorded: Mapping[int, float | None]) -> list[int]:
    """The steps at which another record has another objective than the study."""
    return [step for step, value in trial.values.items() if step in recorded and recorded[step] != value]


def wrong_second(config: SweepConfig, trial: TrialRecord, recorded: Mapping[int, float | None], record: str) -> str | None:
    """The difference of the study's second objective from that of another record; None when there is none.

    The study keeps the last value alone, and writes it together with its report. Nothing can be said where the other record
    ends before that report, as MLflow may by some and a checkpoint by one.
    """
    if config.second_objective is None or trial.second is None or trial.last_step not in recorded:
        return None
    if trial.second == recorded[trial.last_step]:
        return None
    return f"{config.second_objective.metric} differs between {record} and the study at step {trial.last_step}"


def wrong_params(config: SweepConfig, trial: TrialRecord, run: Facts) -> list[str]:
    """The parameters of a trial's MLflow run that are missing or not the study's, in words."""
    wanted = flatten(settings_of(config, trial).model_dump(mode="json"))
    missing = [f"{key} is missing" for key in trial.params if key not in run.params]
    # A setting that is younger than the run is not in it; the device may change when a sweep goes on.
    return missing + [
        f"{key} is {run.params[key]}, not {value}"
        for key, value in wanted.items()
        if key in run.params and key != "device" and run.params[key] != str(value)[:_LONGEST]
    ]


def wrong_settings(config: SweepConfig, trial: TrialRecord, recorded: dict[str, Any]) -> list[str]:
    """The settings that a trial's file was written with and that are not the study's, in words."""
    recorded, wanted = flatten(recorded), flatten(settings_of(config, trial).model_dump(mode="json"))
    return [
        f"{key} {recorded[key]}, not {value}"
        for key, value in wanted.items()
        if key in recorded and key != "device" and recorded[key] != value
    ]


def is_beginning(config: SweepConfig, trial: TrialRecord, run: Facts) -> bool:
    """True if only later reports are missing in an MLflow run of a trial, and nothing in it is wrong."""
    steps = list(trial.values)
    return (
        run.steps == steps[: len(run.steps)]
        and all(run.values.get(step) == trial.values[step] for step in run.steps)
        and not wrong_second(config, trial, run.second, "MLflow")
        and not wrong_params(config, trial, run)
    )
