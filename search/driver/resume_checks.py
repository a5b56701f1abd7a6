"""Continuation of a sweep from its records: which settings may change, and what is lost or disagrees."""

from __future__ import annotations

import math
from collections.abc import Collection
from pathlib import Path
from typing import Any, Final

from gbc.errors import BadInput
from records.addresses import public
from records.format import listed
from records.mlflow_store import missing
from records.paths import RECORD, STUDY_FILE
from search.files.paths import has_study, sweep_folder
from search.spec.config import MAY_CHANGE, SweepConfig
from search.study.recorded_settings import check_study, settings_on_record
from search.study.store import recorded_in_database, recorded_trials
from search.tracking.client import address
from search.tracking.tracker import Tracker

_MOST_DIFFERENCES: Final = 8
_LONGEST_VALUE: Final = 60


class SweepMismatch(BadInput):
    """A sweep of this name was started with other settings."""

    def __init__(self, name: str, differences: dict[str, tuple[Any, Any]]) -> None:
        """`differences` maps each key to (asked for, on record)."""
        keys = _telling(differences)
        shown = [f"{key}: {_short(differences[key][1])} on record, {_short(differences[key][0])} asked for" for key in keys]
        more = len(shown) - _MOST_DIFFERENCES
        shown[_MOST_DIFFERENCES:] = [f"and {more} more"] if more > 0 else []
        super().__init__(
            f"sweep {name!r} was started with other settings ({'; '.join(shown)}); choose another --name, "
            "or repeat the command that started it"
        )
        self.differences = differences


def _telling(differences: Collection[str]) -> list[str]:
    """The keys without those that only follow from others: what is fixed leaves the space, and with it the first trials."""
    fixed = tuple(f"space.{key.removeprefix('trial.')}" for key in differences if key.startswith("trial."))
    keys = [key for key in differences if not any(f"{key}.".startswith(f"{name}.") for name in fixed)]
    space_differs = any(key.startswith("space.") for key in differences)
    keys = [key for key in keys if key != "first_trials" or not space_differs]
    return sorted(keys, key=lambda key: not key.startswith("trial."))


def _short(value: Any) -> str:
    if value is None:
        return "nothing"
    text = str(value)
    return text if len(text) <= _LONGEST_VALUE else f"{text[: _LONGEST_VALUE - 1]}…"


def settle_with_record(config: SweepConfig, explicit: set[str]) -> SweepConfig:
    """The configuration to run: `config` itself, or adapted to the record when the sweep exists.

    Those of `MAY_CHANGE` named in `explicit` are taken from `config`, the others from the record. A place that `config`
    leaves open is the record's. Where this host has no record the study may have a copy, in its file or its database.

    Raises:
        SweepMismatch: any other setting differs.
        BadInput: a record was lost, damaged or changed, or the study's database cannot be reached.
    """
    folder = sweep_folder(config.name)
    check_study(config, folder)
    if (folder / RECORD).exists() or (folder / STUDY_FILE).exists():
        record, fault = settings_on_record(folder)
        if fault is not None and (folder / RECORD).exists():
            raise BadInput(f"{fault}; `{repair_command(config.name)}` puts back the study's copy")
    elif config.places.study_url is not None and (recorded := recorded_in_database(config)):
        record = recorded
    else:
        return config
    config = config.model_copy(update={"places": config.places.over(record.places)})
    if differences := config.differences(record):
        raise SweepMismatch(config.name, differences)
    kept = {key: getattr(record, key) for key in MAY_CHANGE if key not in explicit}
    kept |= _finalist_time(config.model_copy(update=kept), record)
    kept["space"] = record.space  # equal, but perhaps not in order, and samplers go by the order
    return config.model_copy(update=kept)


def _finalist_time(config: SweepConfig, record: SweepConfig) -> dict[str, Any]:
    """The time of the finalists, and of the whole sweep, as it is continued.

    Other finalists are measured anew. Where they were given time on top of the budget (`with_time`), the budget that they were
    put on top of, given again, does not take that back.
    """
    if (config.finalists, config.seeds) != (record.finalists, record.seeds):
        return {"finalist_time": None}
    if record.finalist_time is None or record.time_budget is None or config.time_budget is None:
        return {}
    search = record.time_budget - record.finalist_time
    return {"time_budget": record.time_budget} if config.time_budget <= search else {}


def repair_command(name: str) -> str:
    """The command that mends the records of a sweep."""
    return f"python search/run.py --check {name} --repair"


def lost_records(config: SweepConfig, folder: Path) -> list[str]:
    """A line for each record of the sweep that is gone, with the one from which it is made again."""
    if not has_study(config):
        return []
    lost, uri = [], address(config)
    if not (folder / RECORD).exists():
        lost.append(f"{folder / RECORD} is gone; it is written again from the study")
    if missing(uri) and recorded_trials(config, folder)[0]:
        lost.append(f"MLflow's store {public(uri)} is gone; it is made again from the study and the files of its trials")
    return lost


def check_against_mlflow(config: SweepConfig, folder: Path, tracker: Tracker) -> None:
    """Refuse a study that MLflow contradicts: it was replaced, cut back or changed. A kill leaves MLflow behind, not ahead.

    Raises:
        BadInput: with what differs.
    """
    if config.places.study_url is not None and not has_study(config):  # begun on another host
        return
    trials = {trial.number: trial for trial in recorded_trials(config, folder)[0]} if has_study(config) else {}
    store, remedy = f"MLflow's store {public(tracker.uri)}", f"`{repair_command(config.name)}` mends what can be mended"
    if unknown := sorted(tracker.numbers() - trials.keys()):
        if not trials:
            raise BadInput(
                f"{store} has {len(unknown)} trials of a sweep {config.name!r} whose study is not here; restore "
                f"{folder / STUDY_FILE}, choose another --name, or delete those runs on MLflow's pages"
            )
        raise BadInput(f"{store} has trials that the study lacks: {listed(unknown)}; {remedy}")
    differing = [
        number for number, trial in trials.items()
        if trial.last_step and trial.last_step == tracker.last_step(number)
        and math.isfinite(value := trial.values[trial.last_step])
        and tracker.metrics(number).get(config.objective.metric, value) != value
    ]  # fmt: skip
    if differing:
        metric = config.objective.metric
        raise BadInput(f"{store} and the study differ in {metric} at the end of trials {listed(differing)}; {remedy}")
