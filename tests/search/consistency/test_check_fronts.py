"""Records of a sweep with two objectives, a warm start and a budget of steps, damaged on purpose, one fault at a time."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from records.paths import SWEEPS
from records.trial import TrialRecord
from search.consistency import audit
from search.files.paths import CHECKPOINT, WARM_START, recorded_config
from search.policy.ranking import result_trials
from search.run import main
from search.spec.config import SweepConfig
from search.status import read_overview
from search.study.ledger import Ledger
from tests.search.conftest import tiny_sweep
from tests.search.study.test_warm_start import other_sweep
from tests.support.records import check, client, play, read_study, run_of, store, study

pytestmark = [pytest.mark.usefixtures("records"), pytest.mark.long]

TINY = SWEEPS / "tiny"
SECOND = {"metric": "kkt/rho", "direction": "min"}


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory, classifier_cache: Path) -> Iterator[Path]:
    """Trials 0 and 1 took settings of another sweep; 0 to 2 are complete, and the budget of steps cut 3 and 4 short.

    Trial 3 has come to step 6, and 4 was asked for and never started.
    """
    folder = tmp_path_factory.mktemp("fronts")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        other_sweep(6)
        more = {"warm_start": "other", "warm_start_trials": 2, "max_steps": 42, "trials": 5, "keep": 1}
        config = SweepConfig.parse(tiny_sweep(second_objective=SECOND, scheduler={"name": "none"}, **more), "test")
        play(config, classifier_cache, stop={}, leave={3: 6, 4: 0}, fail={})
        yield folder


def entries() -> list[TrialRecord]:
    return read_study(TINY / "study.db")[0]


def front() -> list[int]:
    return [trial.number for trial in result_trials(recorded_config(TINY), entries())]


def parent() -> str:
    return str(client().get_run(run_of(0)).data.tags["mlflow.parentRunId"])


def put_second(trial: int, step: int) -> None:
    """The study's second objective becomes that of the report at `step`."""
    (point,) = [report for report in client().get_metric_history(run_of(trial), "kkt/rho") if report.step == step]
    condition = "key = 'second_objective' AND trial_id = (SELECT trial_id FROM trials WHERE number = ?)"
    study(f"UPDATE trial_user_attributes SET value_json = ? WHERE {condition}", json.dumps(point.value), trial)


def lose_a_report(trial: int, step: int) -> None:
    """The study and MLflow have not heard of it; the second objective in the study stays its."""
    condition = "step = ? AND trial_id = (SELECT trial_id FROM trials WHERE number = ?)"
    study(f"DELETE FROM trial_intermediate_values WHERE {condition}", step, trial)
    store("DELETE FROM metrics WHERE run_uuid = ? AND step = ?", run_of(trial), step)


def lose_the_front() -> str:
    client().delete_tag(parent(), "sweep.front")
    return f"front.* study {' '.join(map(str, front()))}"


def change_a_second_value() -> str:
    store("UPDATE metrics SET value = 0.5 WHERE run_uuid = ? AND key = 'kkt/rho' AND step = 12", run_of(1))
    return "trial-0001: kkt/rho .*MLflow.* 12"


def lose_a_generator_of_the_front() -> str:
    last = front()[-1]
    (TINY / "trials" / f"{last:04d}" / CHECKPOINT).unlink()
    return f"{last:04d}/{CHECKPOINT}: missing.*{'best' if len(front()) == 1 else 'front'}"


def lose_the_studys_last_words() -> str:
    """A power cut took what sqlite had not yet synced."""
    trial = "(SELECT trial_id FROM trials WHERE number = 2)"
    study("UPDATE trials SET state = 'RUNNING', datetime_complete = NULL WHERE number = 2")
    study(f"DELETE FROM trial_intermediate_values WHERE step = 12 AND trial_id = {trial}")
    study(f"DELETE FROM trial_values WHERE trial_id = {trial}")
    put_second(2, step=9)
    return "trial-0002: .*study .*9.*MLflow .*12"


def lose_the_note() -> str:
    (TINY / WARM_START).unlink()
    return r"warm_start\.json: missing"


def damage_the_note() -> str:
    (TINY / WARM_START).write_text((TINY / WARM_START).read_text()[:-9])
    return r"warm_start\.json: damaged"


def lose_mlflows_note() -> str:
    (note,) = Path("mlruns", "artifacts").rglob(WARM_START)
    note.unlink()
    return r"MLflow run .*warm_start\.json"


def leave_the_parent_killed() -> str:
    """The budget of steps is used up: the sweep has ended."""
    client().update_run(parent(), status="KILLED")
    return "MLflow run .*KILLED.*FINISHED"


FAULTS = [
    lose_the_front, change_a_second_value, lose_a_generator_of_the_front, lose_the_studys_last_words, lose_the_note,
    damage_the_note, lose_mlflows_note, leave_the_parent_killed,
]  # fmt: skip


def test_records_that_agree(capsys: pytest.CaptureFixture[str]) -> None:
    code, output = check(capsys)
    assert code == 0 and "5 trials, 14 reports" in output, output
    assert audit(TINY).finished


@pytest.mark.parametrize("fault", FAULTS)
def test_each_fault_is_named_and_mended(fault: Callable[[], str], capsys: pytest.CaptureFixture[str]) -> None:
    before, note = (
        [(trial.values, trial.second, trial.state, trial.origin) for trial in entries()],
        (TINY / WARM_START).read_text(),
    )
    expected = fault()
    code, output = check(capsys)
    assert code == 1 and re.search(expected, output), output
    code, output = check(capsys, "--repair")
    assert code == 0 and re.search(expected, output), output  # it has looked again at everything
    assert [(trial.values, trial.second, trial.state, trial.origin) for trial in entries()] == before
    assert (TINY / WARM_START).read_text() == note
    tags = client().get_run(parent()).data.tags
    assert tags["sweep.front"] == " ".join(map(str, front())) and tags["sweep.best_trial"] == str(front()[0])
    ledger = Ledger(recorded_config(TINY), TINY)  # Optuna has both values again, and the same front
    assert {trial.number for trial in ledger.study.best_trials} == set(front())
    ledger.close()


def test_what_a_warm_start_took_must_be_what_the_trials_took(capsys: pytest.CaptureFixture[str]) -> None:
    study("UPDATE trial_user_attributes SET value_json = '\"other/trial-0077\"' WHERE key = 'warm_start'")
    code, output = check(capsys, "--repair")
    assert code == 1 and re.search("^disagree  trial-0000: .*other/trial-0077.*other/trial-000", output, re.MULTILINE), output
    first = json.loads((TINY / WARM_START).read_text())
    first["first"][1]["params"]["lr"] /= 2
    (TINY / WARM_START).write_text(json.dumps(first))
    study("UPDATE trial_user_attributes SET value_json = ? WHERE key = 'warm_start'", json.dumps(first["first"][1]["origin"]))
    assert re.search(f"trial-0001: .*settings .*{first['first'][1]['origin']}", check(capsys)[1])


def test_a_full_trial_without_a_second_value_is_named_and_on_no_front(capsys: pytest.CaptureFixture[str]) -> None:
    study("DELETE FROM trial_user_attributes WHERE key = 'second_objective' AND trial_id IN (SELECT trial_id FROM trials "
          "WHERE number = 0)")  # fmt: skip
    code, output = check(capsys)
    assert code == 1 and re.search("trial-0000: complete .*objective", output), output
    assert 0 not in front() and read_overview("tiny").best_trial != 0


def test_a_driver_that_died_before_it_wrote_a_report_is_in_order(capsys: pytest.CaptureFixture[str]) -> None:
    """One transaction holds both objectives of a report: the study has the second of the report before."""
    lose_a_report(3, 6)
    put_second(3, step=3)
    code, output = check(capsys)
    assert code == 0 and re.search(r"trial-0003: history\.json .*6.*study .*3", output), output


def test_a_second_objective_of_another_report_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    lose_a_report(3, 6)
    code, output = check(capsys)
    assert code == 1 and re.search("trial-0003: kkt/rho .*MLflow.* 3", output), output
    assert re.search(r"trial-0003: kkt/rho .*history\.json.* 3", output), output


def test_the_status_says_what_ended_the_sweep_and_names_the_front(capsys: pytest.CaptureFixture[str]) -> None:
    overview = read_overview("tiny")
    assert (overview.state, overview.ended_by, overview.steps, overview.steps_left) == ("finished", "steps", 42, 0)
    assert [point["trial"] for point in overview.front] == front() and overview.best_trial == front()[0]
    assert (overview.warm_start, overview.borrowed) == ("other", 2)
    assert main(["--status", "tiny"]) == 0
    shown = capsys.readouterr().out
    assert re.search("^ended     .*--max-steps", shown, re.MULTILINE) and "0 steps left" in shown, shown
    assert re.search(r"\b2 .*sweep other", shown) and "front: " in shown and f"      trial-{front()[-1]:04d}  " in shown, shown
    assert main(["--list"]) == 0
    assert f"(trial {front()[0]}, {len(front())} " in capsys.readouterr().out
    kept = {int(path.parent.name) for path in (TINY / "trials").rglob(CHECKPOINT)}
    assert kept == set(front())  # more than --keep says
