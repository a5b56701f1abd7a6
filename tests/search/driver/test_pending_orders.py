"""Orders from another terminal, before a real study and a real store: what the driver does, and what a later one does."""

from __future__ import annotations

import pytest
from ray.tune.search import Searcher

from gbc.errors import BadInput
from records.trial import BY_HAND, ENQUEUED
from search import status
from search.control import end_trial, enqueue, parse_setting, pause, stop
from search.driver.recorder import WorkerFailure
from search.files.lock import driver_lock
from search.policy.budget import ended_by, has_work_left
from search.policy.early_stopping import Decision
from search.spec.config import SweepConfig
from search.study.orders import Order, give
from tests.search.conftest import fill
from tests.support import missing
from tests.support.runs import FOLDER, Run

pytestmark = pytest.mark.usefixtures("run_folder")


def test_a_driver_that_is_told_to_stop_leaves_its_trials_open_and_the_next_one_goes_on() -> None:
    run = Run()
    run.start()
    assert not run.adapter.stopper.stop_all()
    for _ in range(2):  # a second order takes the place of the first
        run.order(Order("stop"))
    assert run.adapter.stopper.stop_all() and run.start() == Searcher.FINISHED
    assert "stop" in run.screen.getvalue()
    give(run.config, FOLDER, Order("stop"))  # it dies before it sees this one, or takes back the others
    run.ledger.close()

    again = Run()
    again.poll()
    assert not again.orders.stopping and again.ledger.orders() == []
    assert again.start()["number"] == 0  # the trial that was open
    again.finish()


def test_a_driver_that_is_told_to_pause_ends_after_the_trials_that_run() -> None:
    run = Run()
    first = run.start()
    run.order(Order("pause"))
    assert run.start() == Searcher.FINISHED and not run.adapter.stopper.stop_all()
    assert run.report(first, 3) is Decision.KEEP
    run.adapter.searcher.run_again(0)  # its worker was lost
    assert run.start()["number"] == 0
    run.finish()
    again = Run()
    again.poll()
    assert [again.start()["number"], again.start()["number"]] == [0, 1]
    again.finish()


def test_a_trial_that_is_told_to_end_ends_at_its_next_report_for_good() -> None:
    run = Run(trials=3)
    first, second, _ = run.start(), run.start(), run.start()
    run.report(second, 3)
    run.order(Order("end", trial=0))
    assert run.report(first, 3) is Decision.STOP
    assert not run.recorder.ended(0)
    trial = run.ledger.entry(0)
    assert (trial.state, trial.stopped_at, trial.reason) == ("stopped", 3, BY_HAND) and run.ledger.orders() == []

    run.order(Order("end", trial=1))  # this one's worker dies instead, with retries left
    assert not run.recorder.ended(1, WorkerFailure("killed", "Failure # 1\n")) and run.ledger.entry(1).state == "stopped"
    run.finish()
    give(run.config, FOLDER, Order("end", trial=2))  # no driver runs
    again = Run(trials=3)
    again.orders.poll()
    again.recorder.reconcile()
    assert (again.ledger.entry(2).state, again.ledger.entry(2).reason) == ("stopped", BY_HAND)
    again.finish()
    assert [again.tracker._client.get_run(again.tracker.run(n) or "").info.status for n in range(3)] == ["FINISHED"] * 3


def test_settings_by_hand_start_next_in_their_order_and_on_top_of_the_trials_of_the_sweep() -> None:
    first_trials = [{"lr": 1e-3}, {"lr": 2e-3}]
    run = Run(trials=3, first_trials=first_trials)
    run.start()
    for lr in (5e-3, 6e-3):
        run.order(Order("enqueue", settings={"lr": lr}))
    for _ in range(4):
        run.start()
    run.poll()
    settings_and_origins = [(trial.params["lr"], trial.origin) for trial in run.ledger.entries()]
    assert settings_and_origins[:4] == [(1e-3, "first_trials"), (5e-3, ENQUEUED), (6e-3, ENQUEUED), (2e-3, "first_trials")]
    assert settings_and_origins[4][1] is None and run.start() == Searcher.FINISHED and run.ledger.orders() == []
    assert [trial.counts for trial in run.ledger.entries()] == [True, False, False, True, True]
    run.finish()


def test_settings_by_hand_are_among_the_trials_that_the_progress_counts() -> None:
    run = Run(trials=2)
    run.order(Order("enqueue", settings={"lr": 5e-3}))
    run.play(0.5, 0.25)
    assert "(2 of 3 trials" in run.screen.getvalue(), run.screen.getvalue()
    run.finish()
    again = Run(trials=2)
    again.recorder.reconcile()
    again.play(0.125)
    assert "(3 of 3 trials" in again.screen.getvalue() and again.recorder._display.seconds_left() == 0
    again.finish()


def test_a_setting_is_tried_once_whenever_the_driver_dies(config: SweepConfig) -> None:
    run = Run()
    give(config, FOLDER, Order("enqueue", settings={"lr": 5e-3, "batch_size": 32}))
    run.ledger.close()  # before it heard of it
    run = Run()
    run.poll()
    assert run.start()["settings"]["batch_size"] == 32
    run.ledger.close()  # right after it began
    again = Run()
    again.poll()
    assert again.orders.next_setting() is None and again.start()["number"] == 0
    assert again.start()["settings"]["lr"] != 5e-3
    again.finish()


def test_a_finished_sweep_has_work_again_when_it_is_given_a_setting(capsys: pytest.CaptureFixture[str]) -> None:
    run = Run(trials=1, patience=5)
    fill(run.ledger, (0.5, "complete"))
    assert ended_by(run.config, run.ledger.entries(), 0.0) == "trials"
    run.finish()
    assert enqueue("tiny", "lr=5e-3, batch_size=16", as_json=False) == 0
    assert missing(["lr=5e-3", "tiny", "not running"], capsys.readouterr().out) == []
    status.show_status("tiny", as_json=False)
    assert missing(["interrupted", "1 of 1", "order", "lr=0.005"], capsys.readouterr().out) == []
    again = Run(trials=1, patience=5)
    assert again.ledger.settings_wait() and has_work_left(again.config, again.ledger.entries(), 0.0, waiting=True)
    again.poll()
    assert again.start()["number"] == 1
    again.finish()


def test_orders_say_whether_a_driver_runs(capsys: pytest.CaptureFixture[str]) -> None:
    run = Run()
    fill(run.ledger, (0.5, "complete"), (0.1, None))
    assert stop("tiny", as_json=False) == pause("tiny", as_json=False) == 0
    assert capsys.readouterr().out.count("not running") == 2 and run.ledger.orders() == []
    end_trial("tiny", 1, as_json=False)
    assert missing(["trial 1", "not running"], capsys.readouterr().out) == []
    with driver_lock(FOLDER):
        stop("tiny", as_json=False, wait=0)
        assert missing(["tiny", "pid", "--status"], capsys.readouterr().out) == []
        pause("tiny", as_json=False)
        assert [order.kind for order in run.ledger.orders()] == ["end", "stop", "pause"]
        status.show_status("tiny", as_json=False)
        assert capsys.readouterr().out.count("order ") == 3
    status.show_status("tiny", as_json=False)  # what was said to a driver that is gone is of no interest
    assert capsys.readouterr().out.count("order ") == 1
    run.ledger.close()


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("lr", ["--enqueue", "'lr'"]),
        ("lr=", ["--enqueue", "lr"]),
        ("lr=1", ["--enqueue lr", "1", "0.000316228", "0.01"]),
        ("lr=true", ["--enqueue lr", "True"]),
        ("lr=1e-3,lr=2e-3", ["--enqueue lr", "twice"]),
        ("rl=1e-3", ["--enqueue", "'rl'", "lr"]),
        ("batch_size=17", ["--enqueue batch_size", "17", "16, 32"]),
        ("steps=40", ["--enqueue", "'steps'"]),
    ],
)
def test_a_setting_that_cannot_be_tried_is_refused(config: SweepConfig, text: str, named: list[str]) -> None:
    with pytest.raises(BadInput) as fault:
        parse_setting(text, config)
    assert missing(named, fault.value) == [] and "\n" not in str(fault.value)


def test_a_trial_that_cannot_be_ended_is_refused() -> None:
    run = Run()
    fill(run.ledger, (0.5, "complete"))
    for number, named in ((0, ["--trial 0", "complete"]), (1, ["--trial 1", "0 to 0"]), (-1, ["--trial -1"])):
        with pytest.raises(BadInput) as fault:
            end_trial("tiny", number, as_json=False)
        assert missing(named, fault.value) == []
    run.ledger.close()


def test_a_sweep_that_is_being_prepared_takes_no_orders_yet() -> None:
    with driver_lock(FOLDER), pytest.raises(BadInput, match=r"tiny.*prepared"):
        stop("tiny", as_json=False)
