"""Records that are damaged on purpose, one fault at a time; real training, a real study, a real MLflow store."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest
import torch

from gbc import checkpoint
from records.paths import SWEEPS
from search.consistency import check as check_command
from search.files.paths import CHECKPOINT, LOG, PREVIOUS, trial_folder
from search.run import main
from search.spec.config import SweepConfig
from tests.search.conftest import tiny_sweep
from tests.search.files.test_lock import another_driver
from tests.search.worker.test_trial import flip_a_bit
from tests.support import missing
from tests.support.damage import FAULTS, TRIALS, best, change_an_outcome, leave_a_run_open
from tests.support.records import check, client, play, read_study, run_of, store, study

pytestmark = pytest.mark.usefixtures("records")


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory, classifier_cache: Path) -> Iterator[Path]:
    """Trials 0 and 1 complete, 2 stopped at step 6, 3 failed after step 3, 4 open after step 6. One checkpoint is kept."""
    folder = tmp_path_factory.mktemp("records")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        config = SweepConfig.parse(tiny_sweep(trials=5, keep=1), "test")
        play(config, classifier_cache, stop={2: 6}, leave={4: 6}, fail={3: "ray.exceptions.OutOfMemoryError: too much"})
        yield folder


def test_records_that_agree(capsys: pytest.CaptureFixture[str]) -> None:
    assert check(capsys) == (0, "sweep tiny: 5 trials, 13 reports: all records agree\n")  # golden
    code, output = check(capsys, "--json", "--repair")
    assert code == 0
    assert json.loads(output) == {
        "name": "tiny", "agree": True, "running": False, "trials": 5, "findings": [], "notes": [], "repaired": [],
    }  # fmt: skip


def test_progress_is_shown_beside_the_result(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def lines(*flags: str) -> list[str]:
        assert main(["--check", "tiny", *flags]) == 0
        return capsys.readouterr().err.splitlines()

    assert lines() == []  # five trials are read at once
    monkeypatch.setattr(check_command, "_SHOWN_FROM", 5)
    counted = [f"{label} {done}/5" for label in ("MLflow runs", "files of trials") for done in range(1, 6)]
    assert lines() == lines("--json") == counted


def named(mark: str, names: Sequence[str], output: str) -> bool:
    """True if one line with this mark shows every name and value."""
    return any(line.startswith(f"{mark}  ") and not missing(names, line) for line in output.splitlines())


@pytest.mark.parametrize("fault", FAULTS)
def test_each_fault_is_named_and_mended(fault: Callable[[], list[str]], capsys: pytest.CaptureFixture[str]) -> None:
    before = {trial.number: trial.values for trial in read_study(SWEEPS / "tiny" / "study.db")[0]}
    names = fault()
    code, output = check(capsys)
    assert code == 1 and named("disagree", names, output) and "--check tiny --repair" in output, (names, output)
    code, output = check(capsys, "--repair")
    assert code == 0 and named("repaired", names, output), (names, output)  # it has looked again at everything
    # The study has every value it had, and what MLflow holds is what an undisturbed sweep holds.
    after = {trial.number: trial.values for trial in read_study(SWEEPS / "tiny" / "study.db")[0]}
    assert after == before
    for number, values in before.items():
        history = client().get_metric_history(run_of(number), "loss/total")
        assert [point.step for point in history] == list(values)
        assert "ssim/nearest" in client().get_run(run_of(number)).data.metrics


def test_a_best_checkpoint_that_was_damaged_is_trained_again_bit_for_bit(capsys: pytest.CaptureFixture[str]) -> None:
    path = TRIALS / f"{best():04d}" / CHECKPOINT
    before = checkpoint.load(path)["trainer"]
    flip_a_bit(path)
    code, output = check(capsys, "--repair")
    assert code == 0 and re.search(f"^repaired  trial-{best():04d}: .*trained again", output, re.MULTILINE), output
    after = checkpoint.load(path)["trainer"]
    assert after["step"] == before["step"]
    assert all(torch.equal(after["generator"][key], value) for key, value in before["generator"].items())


def test_the_last_open_trial_ends_the_sweep_when_it_is_closed(capsys: pytest.CaptureFixture[str]) -> None:
    """The driver died between the decision to stop and the trial's end."""
    columns = "trial_user_attributes (trial_id, key, value_json)"
    study(f"INSERT INTO {columns} SELECT trial_id, 'stopped_at', '6' FROM trials WHERE number = 4")
    code, output = check(capsys)
    assert code == 1 and re.search("trial-0004: open .*stopped", output), output
    code, output = check(capsys, "--repair")
    assert code == 0, output
    parent = client().get_run(client().get_run(run_of(4)).data.tags["mlflow.parentRunId"])
    assert parent.info.status == "FINISHED" and parent.data.tags["sweep.best_trial"] == str(best())
    assert client().get_run(run_of(4)).data.tags["sweep.outcome"] == "stopped"


def test_a_kill_between_checkpoint_and_report_is_in_order(capsys: pytest.CaptureFixture[str]) -> None:
    """One report more or less is what a kill leaves, and what the next run mends by itself."""
    study("DELETE FROM trial_intermediate_values WHERE step = 6 AND trial_id = (SELECT trial_id FROM trials WHERE number = 4)")
    run = run_of(4)
    store("DELETE FROM metrics WHERE run_uuid = ? AND step = 6", run)
    code, output = check(capsys)
    assert code == 0 and re.search(r"^note      trial-0004: last\.ckpt .*6.* study .*3", output, re.MULTILINE), output


def test_what_cannot_be_mended_stays_a_disagreement(capsys: pytest.CaptureFixture[str]) -> None:
    study("DELETE FROM trial_intermediate_values WHERE step = 3 AND trial_id = (SELECT trial_id FROM trials WHERE number = 2)")
    for flags in ((), ("--repair",)):
        code, output = check(capsys, *flags)
        assert code == 1 and re.search("^disagree  trial-0002: .*study.* gap: 3", output, re.MULTILINE), output


def test_lost_checkpoints_of_an_open_trial_are_the_next_runs_to_mend(capsys: pytest.CaptureFixture[str]) -> None:
    for name in (CHECKPOINT, PREVIOUS):
        (TRIALS / "0004" / name).unlink()
    code, output = check(capsys, "--repair")
    assert code == 1 and re.search("trial-0004: no checkpoint .*next run", output), output


def test_a_running_sweep_is_audited_and_not_repaired(records: Path, capsys: pytest.CaptureFixture[str]) -> None:
    leave_a_run_open()
    change_an_outcome()
    with another_driver(records / SWEEPS / "tiny") as driver:
        code, output = check(capsys)
        assert code == 1 and "trial-0002: stopped" in output and "trial-0004" not in output
        assert main(["--check", "tiny", "--repair"]) == 2
        error = capsys.readouterr().err
        assert error.count("\n") == 1 and re.search(rf"sweep 'tiny' .*pid {driver.pid}\b", error), error
        client().set_tag(run_of(2), "sweep.outcome", "stopped")
        assert check(capsys)[0] == 0


def test_a_failed_trial_says_why_and_where_to_read_more() -> None:
    run = client().get_run(run_of(3))
    assert run.info.status == "FAILED"
    assert run.data.tags["sweep.reason"] == "ray.exceptions.OutOfMemoryError: too much"
    assert run.data.tags["sweep.retries"] == "2"
    log = Path(run.data.tags["sweep.log"])
    assert log == trial_folder(SWEEPS / "tiny", 3) / LOG and log.read_text().startswith("Traceback")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--check", "tinny"], "'tinny'.*'tiny'"),
        (["--status", "tinny"], "'tinny'.*'tiny'"),
        (["--check", "../tiny"], "'../tiny'"),
        (["--repair"], "--repair .*--check NAME"),
        (["--repair", "--list"], "--repair .*--check NAME"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and error.count("\n") == 1 and re.search(message, error), error


def test_records_that_cannot_be_read_are_named(capsys: pytest.CaptureFixture[str]) -> None:
    (SWEEPS / "tiny" / "study.db").write_bytes(b"not a database" * 500)
    assert main(["--check", "tiny"]) == 2
    assert "study.db: damaged" in capsys.readouterr().err
    (SWEEPS / "tiny" / "sweep.yaml").write_text("trial: [")
    assert main(["--check", "tiny"]) == 2  # it could be made again from the study alone
    assert "study.db: damaged" in capsys.readouterr().err
    Path("mlflow.db").write_bytes(b"not a database" * 500)
    assert main(["--status", "tiny"]) == 2


def test_the_new_run_of_a_repetition_says_what_it_repeats(capsys: pytest.CaptureFixture[str]) -> None:
    repeats = "INSERT INTO trial_user_attributes (trial_id, key, value_json)"
    study(f"{repeats} SELECT trial_id, 'repeats', '0' FROM trials WHERE number = 1")
    client().delete_run(run_of(1))
    check(capsys, "--repair")
    assert client().get_run(run_of(1)).data.tags["sweep.repeats"] == "0"
