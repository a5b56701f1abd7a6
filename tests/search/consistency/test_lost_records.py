"""Records that are lost, cut, overwritten or changed between two runs; and a project folder that was moved or copied.

The sweep is over, so that the same command needs no Ray to bring its records to their end.
"""

from __future__ import annotations

import contextlib
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import yaml

from records.paths import RECORD, STUDY_FILE, SWEEPS
from search.files.paths import CLASSIFIERS
from search.run import main
from search.spec.config import SweepConfig
from search.tracking.tracker import Tracker
from tests.search.conftest import tiny_sweep
from tests.support.records import check, client, play, run_of, sql, store, study
from tests.support.servers import mlflow_server

pytestmark = pytest.mark.long

COMMAND = ["--config", "tiny.yaml", "--no-report"]
SWEEP = SWEEPS / "tiny"
RECORDS = {"mlflow": Path("mlflow.db"), "study": SWEEP / STUDY_FILE, "settings": SWEEP / RECORD}


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory, classifier_cache: Path) -> Iterator[Path]:
    """Trials 0 and 1 complete, 2 stopped at step 6: the sweep has ended, and was not concluded."""
    folder = tmp_path_factory.mktemp("ended")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        settings = tiny_sweep(trials=3)
        Path("tiny.yaml").write_text(yaml.safe_dump(settings))
        play(SweepConfig.parse(settings, "test"), classifier_cache, stop={2: 6}, leave={}, fail={})
        shutil.copytree(classifier_cache, CLASSIFIERS, dirs_exist_ok=True)
        yield folder


def delete(path: Path) -> None:
    path.unlink()


def empty(path: Path) -> None:
    path.write_bytes(b"")


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def overwrite(path: Path) -> None:
    path.write_bytes(b"{neither YAML nor a database" * 500)


def change_mlflow(_: Path) -> None:
    store("UPDATE latest_metrics SET value = 0.99 WHERE run_uuid = ? AND key = 'ssim/coverage'", run_of(1))
    store("UPDATE metrics SET value = 0.99 WHERE run_uuid = ? AND key = 'ssim/coverage' AND step = 12", run_of(1))


def change_study(_: Path) -> None:
    condition = "step = 12 AND trial_id = (SELECT trial_id FROM trials WHERE number = 1)"
    study(f"UPDATE trial_intermediate_values SET intermediate_value = 0.99 WHERE {condition}")


def lose_a_trial(_: Path) -> None:
    last = "trial_id = (SELECT trial_id FROM trials WHERE number = 2)"
    for table in ("trial_params", "trial_values", "trial_intermediate_values", "trial_user_attributes", "trials"):
        study(f"DELETE FROM {table} WHERE {last}")


def lose_all_trials(_: Path) -> None:
    study("DELETE FROM trials")


def change_settings(path: Path) -> None:
    path.write_text(path.read_text().replace("steps: 12", "steps: 24"))


REBUILT, REFUSED, MENDED, NAMED = "rebuilt", "refused", "mended", "named"
"""The effect of the same command: it makes the record again, or refuses; then `--repair` mends or `--check` names it."""
DIFFER = "study .*ssim/coverage .*trials 1; "
CASES = [
    ("mlflow", delete, REBUILT, "mlflow.db .*gone"),
    ("mlflow", empty, REBUILT, "mlflow.db .*gone"),
    ("mlflow", cut, REFUSED, "mlflow.db: "),
    ("mlflow", overwrite, REFUSED, "mlflow.db: "),
    ("mlflow", change_mlflow, MENDED, DIFFER),
    ("study", delete, REFUSED, "study.db: missing.*--name"),
    ("study", empty, REFUSED, "study.db: damaged"),
    ("study", cut, REFUSED, "study.db: damaged"),
    ("study", overwrite, REFUSED, "study.db: damaged"),
    ("study", change_study, NAMED, DIFFER),
    ("study", lose_a_trial, MENDED, "trials .*study lacks: 2; "),
    ("study", lose_all_trials, REFUSED, "3 trials .*'tiny' .*restore "),
    ("settings", delete, REBUILT, "sweep.yaml .*gone"),
    ("settings", empty, MENDED, "sweep.yaml: .*mapping"),
    ("settings", cut, MENDED, "sweep.yaml: "),
    ("settings", overwrite, MENDED, "sweep.yaml: .*YAML"),
    ("settings", change_settings, MENDED, "sweep.yaml: .*trial.steps 24, not 12; "),
]


@pytest.mark.usefixtures("records")
@pytest.mark.parametrize(("record", "harm", "follows", "message"), CASES)
def test_a_record_that_is_lost_or_changed_is_named_and_nothing_is_overwritten(
    record: str, harm: Callable[[Path], None], follows: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    harm(RECORDS[record])
    before = {path: path.read_bytes() for path in RECORDS.values() if path.exists()}
    code = main(COMMAND)
    shown = capsys.readouterr()
    if follows != REBUILT:
        assert code == 2 and shown.err.startswith("error: ") and shown.err.count("\n") == 1, shown.err
        assert re.search(message, shown.err), shown.err
        assert {path: path.read_bytes() for path in RECORDS.values() if path.exists()} == before
        if follows == REFUSED:
            return
        assert "--check tiny" in shown.err and check(capsys)[0] == 1
        code, output = check(capsys, "--repair")
        if follows == NAMED:  # the trial's files contradict the study: it is not for a program to say who is right
            assert code == 1 and re.search(r"trial-0001: ssim/coverage .*last\.ckpt.* 12", output), output
            return
        assert code == 0 and "repaired  " in output, output
        if harm is lose_a_trial:  # the same command trains it again, which takes Ray
            return
        code = main(COMMAND)
        shown = capsys.readouterr()
    else:
        assert re.search(message, shown.out), shown.out
    assert code == 0, shown
    code, output = check(capsys)
    assert code == 0 and "3 trials, 10 reports" in output, output


@pytest.mark.parametrize("copied", [False, True], ids=["moved", "copied"])
def test_a_folder_that_went_elsewhere_is_noticed_and_mended(
    copied: bool, records: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A copy must not write into the folder that it was copied from."""
    old, new = records / "old place", records / "new %41 é#place"
    shutil.copytree(records, old, ignore=shutil.ignore_patterns("old place"))
    _point_to(old / "mlflow.db", records, old)
    shutil.copytree(old, new) if copied else old.rename(new)
    monkeypatch.chdir(new)

    code, output = check(capsys)
    line = f"^disagree  .*{re.escape(f'{old}/mlruns/artifacts')}; .*{re.escape(f'{new}/mlruns/artifacts')}"
    assert code == 1 and output.count("disagree  ") == 1 and re.search(line, output, re.MULTILINE), output
    assert "--check tiny --repair" in output
    code, output = check(capsys, "--repair")
    assert code == 0 and "repaired  " in output, output
    code, output = check(capsys)
    assert code == 0 and "3 trials, 10 reports" in output, output
    for number in range(3):
        assert {file.path for file in client().list_artifacts(run_of(number))} >= {"samples.png"}
    assert client().get_run(run_of(0)).info.artifact_uri.startswith(new.as_uri())
    if copied:
        assert str(sql(old / "mlflow.db", "SELECT artifact_uri FROM runs")[0][0]).startswith(old.as_uri())


def test_the_same_command_in_a_moved_folder_sets_the_addresses_right(records: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _point_to(records / "mlflow.db", records, records / "gone")
    assert main(COMMAND) == 0
    assert re.search(rf"/gone/mlruns/artifacts; .*{records}/mlruns/artifacts", capsys.readouterr().out)
    assert check(capsys)[0] == 0


def test_a_store_of_several_folders_is_left_alone(records: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A folder that uses another's store has its files there."""
    from search.tracking import relocation

    other = tmp_path / "other"
    other.mkdir()
    monkeypatch.chdir(other)
    assert relocation.moved(f"sqlite:///{records / 'mlflow.db'}") is None


def test_a_sweep_folder_copied_alone_gets_its_runs_from_its_files(
    records: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A copy for another machine, without MLflow's store."""
    other = tmp_path / "machine"
    shutil.copytree(records / SWEEP, other / SWEEP)
    monkeypatch.chdir(other)
    assert check(capsys)[0] == 1
    code, output = check(capsys, "--repair")
    assert code == 0, output
    assert "ssim/nearest" in client().get_run(run_of(0)).data.metrics


def test_a_repair_whose_server_dies_ends_in_one_line(
    tmp_path: Path, classifier_cache: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    for key, value in {"MAX_RETRIES": "1", "BACKOFF_FACTOR": "0", "TIMEOUT": "5"}.items():
        monkeypatch.setenv(f"MLFLOW_HTTP_REQUEST_{key}", value)
    with contextlib.ExitStack() as stack:
        server = stack.enter_context(mlflow_server(tmp_path, f"sqlite:///{tmp_path / 'store.db'}", {}))
        config = SweepConfig.parse(tiny_sweep(trials=1, places={"tracking_uri": server}), "test")
        play(config, classifier_cache, stop={}, leave={}, fail={})
        tracker = Tracker(config, {})
        tracker.discard(str(tracker.run(0)))
        opens = Tracker.open_trial

        def die(self: Tracker, *arguments: object) -> None:
            stack.close()
            opens(self, *arguments)  # type: ignore[arg-type]

        monkeypatch.setattr(Tracker, "open_trial", die)
        assert main(["--check", "tiny", "--repair"]) == 130
    error = capsys.readouterr().err
    assert error.startswith("stopped: ") and f" {server} " in error and error.count("\n") == 1, error


def _point_to(file: Path, now: Path, then: Path) -> None:
    """Make a store name its files in another folder."""
    for table, column in (("experiments", "artifact_location"), ("runs", "artifact_uri")):
        sql(file, f"UPDATE {table} SET {column} = replace({column}, ?, ?)", now.as_uri(), then.as_uri())
