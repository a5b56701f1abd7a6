from __future__ import annotations

from pathlib import Path

import pytest
from sqlalchemy import event

from gbc.errors import BadInput, CorruptFile
from records.paths import STUDY_FILE
from search.spec.config import SweepConfig
from search.study.ledger import Ledger
from tests.search.conftest import tiny_sweep


def test_what_was_recorded_is_there_after_a_restart(config: SweepConfig, tmp_path: Path) -> None:
    first = Ledger(config, tmp_path)
    trial = first.ask()
    first.record(0, 3, 0.1, stop=False)
    first.record(0, 6, 0.3, stop=True)
    first.set_seconds(12.5)
    first.record(0, 9, 0.4, stop=False)
    del first  # killed: nothing is closed, and what was not flushed never happened

    second = Ledger(config, tmp_path)
    (again,) = second.entries()
    assert again.params == trial.params and set(again.params) == {"lr", "batch_size", "tv_weight"}
    assert again.values == {3: 0.1, 6: 0.3}
    assert (again.last_step, again.value, again.stopped_at, again.finished) == (6, 0.3, 6, False)
    assert second.seconds == 12.5


def test_recording_and_telling_twice_changes_nothing(config: SweepConfig, tmp_path: Path) -> None:
    ledger = Ledger(config, tmp_path)
    ledger.ask()
    ledger.record(0, 3, 0.1, stop=False)
    ledger.record(0, 3, 0.9, stop=True)
    assert ledger.entry(0).values == {3: 0.1} and ledger.entry(0).stopped_at is None
    ledger.tell(0, "complete")
    ledger.tell(0, "failed", "late")
    assert ledger.entry(0).state == "complete" and ledger.entry(0).reason is None


@pytest.mark.parametrize(("outcome", "state"), [("complete", "COMPLETE"), ("stopped", "PRUNED"), ("failed", "FAIL")])
def test_outcomes_are_optunas_states(config: SweepConfig, tmp_path: Path, outcome: str, state: str) -> None:
    ledger = Ledger(config, tmp_path)
    ledger.ask()
    ledger.record(0, 3, 0.25, stop=False)
    ledger.tell(0, outcome, "why" if outcome == "failed" else None)
    trial = ledger.study.trials[0]
    assert trial.state.name == state
    assert ledger.entry(0).state == outcome
    assert ledger.entry(0).reason == ("why" if outcome == "failed" else None)
    if outcome != "failed":
        assert trial.value == 0.25


def test_a_trial_that_never_reported_can_be_closed(config: SweepConfig, tmp_path: Path) -> None:
    ledger = Ledger(config, tmp_path)
    ledger.ask()
    ledger.tell(0, "stopped")
    assert ledger.entry(0).state == "stopped" and ledger.entry(0).value is None
    assert ledger.best() is None


def test_settings_enter_the_study_whole(config: SweepConfig, tmp_path: Path) -> None:
    """One transaction: a driver that dies while it asks has not asked."""
    ledger = Ledger(config, tmp_path)
    written: list[str] = []
    engine = ledger._storage.engine
    event.listen(engine, "before_cursor_execute", lambda _c, _u, statement, *_: written.append(statement.split()[0]))
    event.listen(engine, "commit", lambda _: written.append("COMMIT"))
    ledger.ask()
    first = written.index("INSERT")
    end = written.index("COMMIT", first)
    assert written[first:end].count("INSERT") == 2  # the trial, and all its settings
    assert not {"INSERT", "UPDATE", "DELETE"} & set(written[end:])


def test_the_best_is_a_complete_trial_in_the_right_direction(tmp_path: Path) -> None:
    for direction, best in (("max", 1), ("min", 0)):
        config = SweepConfig.parse(tiny_sweep(objective={"metric": "kkt/rho", "direction": direction}), "test")
        folder = tmp_path / direction
        folder.mkdir()
        ledger = Ledger(config, folder)
        for number, (value, outcome) in enumerate([(0.1, "complete"), (0.2, "complete"), (0.9, "stopped"), (0.0, "stopped")]):
            ledger.ask()
            ledger.record(number, 12, value, stop=False)
            ledger.tell(number, outcome)
        best_trial = ledger.best()
        assert best_trial is not None and best_trial.number == best


def test_a_damaged_study_is_named(config: SweepConfig, tmp_path: Path) -> None:
    (tmp_path / STUDY_FILE).write_bytes(b"not a database" * 500)
    with pytest.raises(CorruptFile, match=r"study\.db: damaged"):
        Ledger(config, tmp_path)


def test_a_folder_without_room_for_a_study_is_named(config: SweepConfig, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"study\.db: .*opened"):
        Ledger(config, tmp_path / "missing")


def test_a_failed_trial_is_opened_again_under_its_number(config: SweepConfig, tmp_path: Path) -> None:
    """Optuna cannot do that; what is done to its table instead is what its own interface then shows."""
    ledger = Ledger(config, tmp_path)
    before = ledger.ask()
    ledger.ask()
    ledger.record(0, 3, 0.1, stop=False)
    ledger.count_lost_worker(0)
    ledger.tell(0, "failed", "MemoryError")
    ledger.reopen(0)
    ledger.reopen(0)  # nothing to do
    for opened in (ledger, Ledger(config, tmp_path)):
        trial = opened.entry(0)
        assert (trial.state, trial.reason, trial.lost, trial.retried) == ("running", None, 0, 1)
        assert (trial.params, trial.values) == (before.params, {3: 0.1})
        assert [trial.number for trial in opened.study.trials] == [0, 1]
        assert opened.study.trials[0].datetime_complete is None
    ledger.record(0, 12, 0.4, stop=False)
    ledger.tell(0, "complete")
    assert ledger.study.trials[0].value == 0.4 and ledger.study.best_trial.number == 0
    ledger.tell(1, "stopped")
    ledger.reopen(1)
    assert ledger.entry(1).state == "stopped"
