"""The Optuna study of a sweep, read from its tables; nothing is written.

Optuna's own storage would open a study for writing, takes longer to import than reading takes, and builds a thousand trials
in seconds. It is asked where its tables are laid out in a way that is not known here (`records.schema`).
`tests/contracts/test_optuna.py` compares with what Optuna says.
"""

from __future__ import annotations

import functools
import json
import math
import sqlite3
from collections import defaultdict
from collections.abc import Sequence
from contextlib import AbstractContextManager, closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import quote

from records import schema
from records.addresses import sqlite_url
from records.database import connected, study_through_optuna
from records.errors import Damaged, Unreadable
from records.trial import TrialRecord, seconds_spent, trial_from_optuna

if TYPE_CHECKING:
    from optuna.study import Study as OptunaStudy
    from optuna.trial import FrozenTrial

SETTINGS: Final = "sweep"
"""The attribute of a study that holds the settings of its sweep."""

_PATIENCE: Final = 5.0  # seconds, for another process that has locked the file
_NO_ACCESS: Final = (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_CANTOPEN)  # of a file that may be whole

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
_ATTRIBUTES: Final = "SELECT key, value_json FROM study_user_attributes WHERE {which}"
_FOR_RECORDS: Final = (*_COMMON, _ATTRIBUTES)
_FOR_OPTUNA: Final = (
    *_COMMON,
    f"SELECT trial_id, key, value_json FROM trial_system_attributes WHERE trial_id IN ({_TRIALS})",
    f"SELECT trial_id, value, value_type FROM trial_values WHERE trial_id IN ({_TRIALS}) ORDER BY trial_id, objective",
)

_HAS_TABLES: Final = "SELECT to_regclass('version_info') IS NOT NULL AND to_regclass('alembic_version') IS NOT NULL"
"""Query of PostgreSQL for whether the study's tables are there: Optuna creates all of them at once, `alembic_version` last."""


@dataclass(frozen=True)
class Study:
    """The place of a sweep's study: a database that holds those of many sweeps, or a file of its own."""

    name: str
    url: str | None
    """Address of the PostgreSQL database; None: the study is in the file."""
    file: Path

    def trials(self) -> tuple[list[TrialRecord], float]:
        """Return every trial, by number, and the seconds spent, at one consistent moment.

        Raises:
            Damaged: the file is no study.
            Unreadable: the file is missing, or the database cannot be reached.
        """
        try:
            trials, params, reports, attributes, shared = self._tables(_FOR_RECORDS)
        except schema.UnknownSchema:
            return self._trials_through_optuna()
        rows = _TrialRows(params, reports, attributes)
        records = [
            trial_from_optuna(
                number,
                state,
                schema.local_time(began),
                schema.local_time(ended),
                rows.params[trial],
                rows.reports[trial],
                rows.attributes[trial],
            )
            for trial, number, state, began, ended in trials
        ]
        return records, seconds_spent({key: json.loads(text) for key, text in shared})

    def attributes(self) -> dict[str, Any]:
        """Return the attributes of the study itself, by name; raises as `trials`."""
        try:
            (rows,) = self._tables((_ATTRIBUTES,))
        except schema.UnknownSchema:
            with self._through_optuna() as study:
                return dict(study.user_attrs)
        return {key: json.loads(text) for key, text in rows}

    def frozen_trials(self) -> list[FrozenTrial]:
        """Return every trial, by number, as Optuna would give it; raises as `trials`."""
        from optuna.trial import FrozenTrial, TrialState

        try:
            trials, params, reports, attributes, system, values = self._tables(_FOR_OPTUNA)
        except schema.UnknownSchema:
            with self._through_optuna() as study:
                return list(study.get_trials(deepcopy=False))
        rows = _TrialRows(params, reports, attributes)
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
                params=rows.params[trial],
                distributions={name: _distribution(text) for name, text in rows.distributions[trial].items()},
                user_attrs=rows.attributes[trial],
                system_attrs=system_attributes[trial],
                intermediate_values=rows.reports[trial],
                trial_id=trial,
            )
            for trial, number, state, began, ended in trials
        ]

    def _tables(self, queries: Sequence[str]) -> list[Table]:
        if self.url:
            return _database_tables(self.url, self.name, queries)
        if not self.file.exists():
            raise Unreadable(f"{self.file}: no such file; the sweep {self.name!r} has not begun")
        return _file_tables(self.file, queries)

    def _trials_through_optuna(self) -> tuple[list[TrialRecord], float]:
        with self._through_optuna() as study:
            return [record_of_trial(trial) for trial in study.get_trials(deepcopy=False)], seconds_spent(study.user_attrs)

    def _through_optuna(self) -> AbstractContextManager[OptunaStudy]:
        url, name = (self.url, self.name) if self.url else (sqlite_url(self.file), None)  # the only study in its file
        return study_through_optuna(url, name)


def settings_in_file(path: Path) -> dict[str, Any] | None:
    """Return the settings of the sweep that the study in this file holds; None when an earlier version did not put them there.

    Raises:
        Damaged: it is no study, or a part of it is missing or damaged.
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


def record_of_trial(trial: FrozenTrial) -> TrialRecord:
    """The record of a trial from what Optuna gives."""
    began, ended = trial.datetime_start, trial.datetime_complete
    values, attributes = trial.intermediate_values, trial.user_attrs
    return trial_from_optuna(trial.number, trial.state.name, began, ended, dict(trial.params), values, attributes)


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


def _file_tables(path: Path, queries: Sequence[str]) -> list[Table]:
    try:
        try:
            return _read(path, queries)
        except sqlite3.DatabaseError:  # a driver may have started to write at this very moment
            return _read(path, queries)
    except sqlite3.DatabaseError as fault:
        if getattr(fault, "sqlite_errorcode", 0) & 0xFF in _NO_ACCESS:
            raise Unreadable(f"{path}: cannot be read: {fault}") from None
        raise _damaged(path, fault) from None


def _damaged(path: Path, fault: object) -> Damaged:
    return Damaged(f"{path}: damaged ({str(fault).splitlines()[-1]})")


def _read(path: Path, queries: Sequence[str]) -> list[Table]:
    # Without a write-ahead log nobody has the file open, and it is read without creating one.
    mode = "mode=ro" if path.with_name(f"{path.name}-wal").exists() else "mode=ro&immutable=1"
    address = f"file:{quote(str(path.resolve()))}?{mode}"
    with closing(sqlite3.connect(address, uri=True, timeout=_PATIENCE, isolation_level=None)) as study:
        study.execute("BEGIN")
        if not schema.is_known(study.execute(schema.VERSION)):
            raise schema.UnknownSchema
        return [study.execute(query.format(which="1 = 1")).fetchall() for query in queries]


def _database_tables(url: str, name: str, queries: Sequence[str]) -> list[Table]:
    from sqlalchemy import text

    with connected(url) as engine, engine.connect() as connection:
        connection.execute(text("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY"))
        if not connection.execute(text(_HAS_TABLES)).scalar():  # the first sweep has not begun
            return [[] for _ in queries]
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
