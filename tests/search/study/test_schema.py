"""A study whose tables another version of Optuna laid out: Optuna's own interface is used, or the sweep is refused."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from gbc.errors import BadInput
from records import schema
from records.paths import STUDY_FILE
from search.spec.config import SweepConfig
from search.study.ledger import Ledger
from search.study.orders import Order, give, recorded_orders
from search.study.store import recorded_trials, study_of
from search.study.transaction import InterfaceWriter
from tests.search.conftest import fill


def _filled(config: SweepConfig, folder: Path) -> Ledger:
    ledger = Ledger(config, folder)
    fill(ledger, (0.25, "complete"), (0.125, "stopped"), (0.0625, "failed"), (0.5, None))
    ledger.count_lost_worker(3)
    ledger.set_seconds(12.5)
    return ledger


def test_a_sweep_whose_tables_are_unknown_goes_on_through_optuna(
    config: SweepConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _filled(config, tmp_path).close()
    through_tables, frozen = recorded_trials(config, tmp_path), study_of(config, tmp_path).frozen_trials()
    monkeypatch.setattr(schema, "KNOWN", frozenset({("v9.9.9.a", "9")}))
    assert repr(recorded_trials(config, tmp_path)) == repr(through_tables)
    assert repr(study_of(config, tmp_path).frozen_trials()) == repr(frozen)

    ledger = Ledger(config, tmp_path)
    assert isinstance(ledger._writer, InterfaceWriter) and repr(ledger.entries()) == repr(through_tables[0])
    fill(ledger, (0.75, "complete"))
    order = Order("enqueue", settings={"lr": 5e-3})
    give(config, tmp_path, order)
    assert ledger.orders() == [order] == recorded_orders(config, tmp_path, ledger.entries())
    ledger.ask(order)
    assert ledger.orders() == [] and ledger.repeat(4).repeats == 4
    with pytest.raises(BadInput, match="--retry-failed"):
        ledger.reopen(2)
    ledger.close()
    entries, seconds = recorded_trials(config, tmp_path)
    assert entries[4].state == "complete" and entries[4].value == 0.75 and seconds == 12.5
    assert [(trial.number, trial.state) for trial in entries[:4]] == [(e.number, e.state) for e in through_tables[0]]


def test_the_same_settings_are_sampled_either_way(config: SweepConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ours, optunas = tmp_path / "ours", tmp_path / "optunas"
    for folder in (ours, optunas):
        folder.mkdir()
    first = _filled(config, ours)
    monkeypatch.setattr(schema, "KNOWN", frozenset())
    second = _filled(config, optunas)
    assert [trial.params for trial in first.entries()] == [trial.params for trial in second.entries()]
    assert first.ask().params == second.ask().params
    first.close(), second.close()


def test_tables_that_optuna_does_not_know_either_are_refused_in_one_line(config: SweepConfig, tmp_path: Path) -> None:
    _filled(config, tmp_path).close()
    with closing(sqlite3.connect(tmp_path / STUDY_FILE)) as study, study:
        study.execute("UPDATE alembic_version SET version_num = 'v9.9.9.a'")
    for use in (lambda: recorded_trials(config, tmp_path), lambda: Ledger(config, tmp_path)):
        with pytest.raises(
            BadInput, match=r"^study .*study\.db: The runtime optuna version \S+ is no longer compatible"
        ) as caught:
            use()
        assert "\n" not in str(caught.value)
