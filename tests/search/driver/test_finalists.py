"""Finalists before a real study and a real store: what starts, what is recorded, and what a later run does."""

from __future__ import annotations

from typing import Any, Final

import pytest
from ray.tune.search import Searcher

from records.mlflow_store import REPEATS
from search import status
from search.driver.resume_checks import settle_with_record
from search.driver.summary import summarise
from search.policy.early_stopping import Decision
from search.spec.config import SweepConfig
from search.worker.trial import settings_of
from tests.search.conftest import tiny_sweep
from tests.support import missing
from tests.support.runs import FOLDER, Run

pytestmark = pytest.mark.usefixtures("run_folder")

FINALISTS: Final[dict[str, Any]] = {"trials": 3, "finalists": 2, "seeds": 2, "scheduler": {"name": "none"}}


def test_finalists_run_again_when_the_search_is_over_and_the_best_mean_is_the_result(
    capsys: pytest.CaptureFixture[str],
) -> None:
    run = Run(**FINALISTS)
    run.play(0.3, 0.5)
    last = run.start()
    assert run.start() == Searcher.FINISHED  # as long as this one may become a finalist
    run.report(last, 12, 0.4)
    run.recorder.ended(2)
    run.play(0.1, 0.38)
    run.finish()

    again = Run(**FINALISTS)  # killed and continued
    again.play(0.2, 0.37)
    assert again.start() == Searcher.FINISHED
    trials = again.ledger.entries()
    assert [trial.repeats for trial in trials] == [None] * 3 + [1, 2, 1, 2]
    assert trials[3].params == trials[1].params and [trial.state for trial in trials] == ["complete"] * 7
    assert len({settings_of(again.config, trial).seed for trial in trials}) == 7
    again.finish()
    assert [again.tracker._trial_runs[n].tags.get(REPEATS) for n in (2, 3, 4)] == [None, "1", "2"]
    summary = summarise(again.config, again.ledger, again.tracker.metrics, FOLDER)
    assert (summary.finished, summary.best_trial, summary.complete, summary.extra) == (True, 2, 3, 4)
    assert [point["trial"] for point in summary.finalists] == [2, 1]
    assert missing(["trial 2", "0.375 ± 0.007", "trial 1", "0.150 ± 0.071"], summary.verdict[0]) == []
    status.show_status("tiny", as_json=False)
    assert missing(["3 of 3", "4 repetitions", "0.375 ± 0.007", "trial 2"], capsys.readouterr().out) == []


def test_no_rule_stops_a_repetition_and_no_sampler_learns_from_it() -> None:
    run = Run(**{**FINALISTS, "scheduler": {"reduction_factor": 2, "grace": 3}, "trials": 14, "patience": 11})
    run.play(*[0.5] * 12)
    assert run.ledger.entries()[-1].repeats is None
    repetition = run.start()
    assert run.ledger.entry(repetition["number"]).repeats is not None
    assert run.report(repetition, 3, 0.0) is Decision.KEEP  # a trial of the search would be stopped
    run.finish()
    plain = Run(**{**FINALISTS, "scheduler": {"reduction_factor": 2, "grace": 3}, "trials": 20})
    seen = plain.ledger._proposer._updated_study(plain.ledger._trials).get_trials(deepcopy=False)
    assert [trial.state.name for trial in seen[12:]] == ["FAIL"] and not seen[12].intermediate_values
    plain.ledger.close()


def test_the_search_gives_way_to_its_finalists_when_its_part_of_the_budget_is_spent() -> None:
    run = Run(**{**FINALISTS, "trials": 9, "max_steps": 12 * 4 + 30})
    run.play(0.3, 0.5)
    open_trial, by_hand = run.start(), run.start()
    assert [run.report(open_trial, step, 0.4) for step in (3, 6, 9)] == [Decision.KEEP, Decision.KEEP, Decision.STOP]
    run.recorder.ended(2)
    run.recorder.close_open_trials({by_hand["number"]})
    run.play(0.1)
    assert [(trial.state, trial.repeats) for trial in run.ledger.entries()[2:]] == [
        ("stopped", None), ("stopped", None), ("complete", 1)
    ]  # fmt: skip
    run.finish()


def test_finalists_are_given_to_a_sweep_that_ended_long_ago() -> None:
    before = Run(trials=3, scheduler={"name": "none"}, time_budget=1.0)
    before.play(0.3, 0.5, 0.4)
    before.ledger.set_seconds(70.0)
    before.ledger.close()
    asked = SweepConfig.parse(tiny_sweep(**FINALISTS, time_budget=1.0), "test")
    settled = settle_with_record(asked, {"finalists", "seeds"})
    assert (settled.finalists, settled.finalist_time, settled.time_budget) == (2, None, 1.0)

    # Their time was put on top, and the driver died: the same command does not take it back.
    Run(**FINALISTS, time_budget=1.5, finalist_time=0.3).ledger.close()
    same = settle_with_record(asked, {"finalists", "seeds", "time_budget"})
    assert (same.finalist_time, same.time_budget) == (0.3, 1.5)
    other = settle_with_record(asked.model_copy(update={"seeds": 4}), {"finalists", "seeds"})
    assert other.finalist_time is None
