"""Reads a study from its tables; nothing is written.

Optuna's own storage would open a study for writing, takes longer to import than reading takes, and builds a thousand trials
in seconds. It is asked where its tables are laid out in a way that is not known here (`search.study.schema`).
`tests/contracts/test_optuna.py` compares with what Optuna says.
"""

from __future__ import annotations

import functools
import json
import math
import sqlite3
from collections import defaultdict
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import quote

from gbc.errors import CorruptFile
from search.files.paths import STUDY_FILE
from search.spec.config import SweepConfig
from search.spec.locations import sqlite_url
from search.spec.trial_record import TrialRecord, seconds_spent, trial_from_optuna
from search.study import schema
from search.study.store import SETTINGS, connected, study_through_optuna

if TYPE_CHECKING:
    from optuna.trial import FrozenTrial

Table = Sequence[Sequence[Any]]

_NOT_FINITE: Final = {"NAN": math.nan, "INF_POS": math.inf, "INF_NEG": -math.inf}
_NAMED: Final = "study_id = (SELECT study_id FROM studies WHERE study_name = :name)"
_TRIALS: Final = "SELECT trial_id FROM trials WHERE {which}"
_COMMON: Final = (
    "SELECT trial_id, number, state, datetime_start, datetime_complete FROM trials WHERE {which} ORDER BY number",
    "SELECT trial_id, param_name, param_value, distribution_json FROM trial_params "
    f"WHERE trial_id IN ({_TRIALS}) ORDER BY trial_id, param_id",
    "SELECT trial_id, step, intermediate_value, intermediate_value_type FROM trial_intermediate_values "
    f"WHERE trial_id IN ({_TRIALS}) ORDER BY trial_id, step",
    f"SELECT trial_id, key, value_json FROM trial_user_attributes WHERE trial_id IN ({_TRIALS})",
)
_FOR_ENTRIES: Final = (*_COMMON, "SELECT key, value_json FROM study_user_attributes WHERE {which}")
_FOR_OPTUNA: Final = (
    *_COMMON,
    f"SELECT trial_id, key, value_json FROM trial_system_attributes WHERE trial_id IN ({_TRIALS})",
    f"SELECT trial_id, value, value_type FROM trial_values WHERE trial_id IN ({_TRIALS}) ORDER BY trial_id, objective",
)


def recorded_trials(config: SweepConfig, folder: Path) -> tuple[list[TrialRecord], float]:
    """Return every trial of a sweep, by number, and the seconds spent, at one consistent moment.

    Raises:
        CorruptFile: the study's file is damaged.
        BadInput: the database cannot be reached.
    """
    url = config.places.study_url
    if url is None:
        return read_study(folder / STUDY_FILE)
    try:
        return _entries(_database_tables(url, config.name, _FOR_ENTRIES))
    except schema.UnknownSchema:
        return _entries_through_optuna(url, config.name)


def read_study(path: Path) -> tuple[list[TrialRecord], float]:
    """Return every trial of the only study in this file, and the seconds spent.

    Raises:
        CorruptFile: it is no study.
    """
    try:
        return _entries(_file_tables(path, _FOR_ENTRIES))
    except schema.UnknownSchema:
        return _entries_through_optuna(sqlite_url(path), None)


def settings_in_study(path: Path) -> dict[str, Any] | None:
    """Return the settings of the sweep that the study in this file holds; None when an earlier version did not put them there.

    Raises:
        CorruptFile: it is no study, or a part of its file is missing or damaged.
    """
    query = f"SELECT value_json FROM study_user_attributes WHERE key = '{SETTINGS}'"
    try:
        states, rows = _file_tables(path, ("PRAGMA quick_check(1)", query))
    except schema.UnknownSchema:
        with study_through_optuna(sqlite_url(path), None) as study:
            return study.user_attrs.get(SETTINGS)
    if states[0][0] != "ok":
        raise _damaged(path, states[0][0])
    return json.loads(rows[0][0]) if rows else None


def frozen_trials(config: SweepConfig, folder: Path) -> list[FrozenTrial]:
    """Return every trial of a sweep, by number, as Optuna would give it.

    Raises:
        UnknownSchema: another version of Optuna laid out the tables.
        CorruptFile: the study's file is damaged.
        BadInput: the database cannot be reached.
    """
    from optuna.trial import FrozenTrial, TrialState

    url = config.places.study_url
    tables = _database_tables(url, config.name, _FOR_OPTUNA) if url else _file_tables(folder / STUDY_FILE, _FOR_OPTUNA)
    trials, params, reports, attributes, system, values = tables
    by_trial = _TrialRows(params, reports, attributes)
    system_attributes: dict[int, dict[str, Any]] = defaultdict(dict)
    for trial, key, text in system:
        system_attributes[trial][key] = json.loads(text)
    objectives: dict[int, list[float]] = defaultdict(list)
    for trial, value, kind in values:
        objectives[trial].append(_number(value, kind))
    return [
        FrozenTrial(
            number=number,
            state=TrialState[state],
            value=None,
            values=objectives.get(trial),
            datetime_start=schema.local_time(began),
            datetime_complete=schema.local_time(ended),
            params=by_trial.params[trial],
            distributions={name: _distribution(text) for name, text in by_trial.distributions[trial].items()},
            user_attrs=by_trial.attributes[trial],
            system_attrs=system_attributes[trial],
            intermediate_values=by_trial.reports[trial],
            trial_id=trial,
        )
        for trial, number, state, began, ended in trials
    ]


def entry_of_trial(trial: FrozenTrial) -> TrialRecord:
    """A trial as Optuna gives it, as an entry of the ledger."""
    return trial_from_optuna(
        trial.number, trial.state.name, trial.datetime_complete, dict(trial.params), trial.intermediate_values, trial.user_attrs
    )


class _TrialRows:
    """The rows that belong to trials, by the trial's id."""

    def __init__(self, params: Table, reports: Table, attributes: Table) -> None:
        self.params: dict[int, dict[str, Any]] = defaultdict(dict)
        self.distributions: dict[int, dict[str, str]] = defaultdict(dict)
        self.reports: dict[int, dict[int, float]] = defaultdict(dict)
        self.attributes: dict[int, dict[str, Any]] = defaultdict(dict)
        for trial, name, value, distribution in params:
            self.params[trial][name] = _sampled_value(value, distribution)
            self.distributions[trial][name] = distribution
        for trial, step, value, kind in reports:
            self.reports[trial][step] = _number(value, kind)
        for trial, key, text in attributes:
            self.attributes[trial][key] = json.loads(text)


def _entries(tables: Sequence[Table]) -> tuple[list[TrialRecord], float]:
    trials, params, reports, attributes, shared = tables
    rows = _TrialRows(params, reports, attributes)
    entries = [
        trial_from_optuna(
            number, state, schema.local_time(ended), rows.params[trial], rows.reports[trial], rows.attributes[trial]
        )
        for trial, number, state, _, ended in trials
    ]
    return entries, seconds_spent({key: json.loads(text) for key, text in shared})


def _entries_through_optuna(url: str, name: str | None) -> tuple[list[TrialRecord], float]:
    with study_through_optuna(url, name) as study:
        entries = [entry_of_trial(trial) for trial in study.get_trials(deepcopy=False)]
        return entries, seconds_spent(study.user_attrs)


def _file_tables(path: Path, queries: Sequence[str]) -> list[Table]:
    try:
        try:
            return _read(path, queries)
        except sqlite3.DatabaseError:  # a driver may have started to write at this very moment
            return _read(path, queries)
    except sqlite3.DatabaseError as fault:
        raise _damaged(path, fault) from None


def _damaged(path: Path, why: object) -> CorruptFile:
    return CorruptFile(f"{path}: damaged ({str(why).splitlines()[-1]}); restore it, or choose another --name")


def _read(path: Path, queries: Sequence[str]) -> list[Table]:
    # Without a write-ahead log nobody has the file open, and it is read without creating one.
    mode = "mode=ro" if path.with_name(f"{path.name}-wal").exists() else "mode=ro&immutable=1"
    address = f"file:{quote(str(path.resolve()))}?{mode}"
    with closing(sqlite3.connect(address, uri=True, timeout=5, isolation_level=None)) as study:
        study.execute("BEGIN")
        if not schema.is_known(study.execute(schema.VERSION)):
            raise schema.UnknownSchema
        return [study.execute(query.format(which="1 = 1")).fetchall() for query in queries]


def _database_tables(url: str, name: str, queries: Sequence[str]) -> list[Table]:
    from sqlalchemy import text

    with connected(url) as engine, engine.connect() as connection:
        connection.execute(text("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY"))
        if not schema.is_known(connection.execute(text(schema.VERSION))):
            raise schema.UnknownSchema
        return [connection.execute(text(query.format(which=_NAMED)), {"name": name}).all() for query in queries]


def _number(value: float, kind: str) -> float:
    return _NOT_FINITE.get(kind, value)


def _sampled_value(value: float, distribution: str) -> Any:
    """A parameter as it was sampled: Optuna stores choices by index."""
    parsed = _parsed_distribution(distribution)
    if parsed["name"] == "CategoricalDistribution":
        return parsed["attributes"]["choices"][int(value)]
    return int(value) if parsed["name"] == "IntDistribution" else value


@functools.cache
def _parsed_distribution(distribution: str) -> dict[str, Any]:
    parsed: dict[str, Any] = json.loads(distribution)
    return parsed


@functools.cache
def _distribution(text: str) -> Any:
    from optuna.distributions import json_to_distribution

    return json_to_distribution(text)
