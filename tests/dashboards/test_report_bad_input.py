"""Every error that a user of the report can cause: one line, exit code 2, and no page half written."""

from __future__ import annotations

import os
import re
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
import yaml

from dashboards.errors import ReportError
from dashboards.rendering import write_page
from dashboards.report import main
from gbc.checkpoint import writer_pid
from records.mlflow_store import runs_of
from tests.dashboards.conftest import client
from tests.support import missing

SWEEP = Path("mlruns/sweeps/tiny")


def error_of(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    capsys.readouterr()
    assert main(arguments) == 2
    out, error = capsys.readouterr()
    assert out == "" and error.startswith("error: ") and error.count("\n") == 1, error
    return error


def test_a_sweep_that_does_not_exist(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "no sweep 'tinny' here; did you mean 'tiny'?" in error_of(capsys, "--sweep", "tinny")  # golden
    assert "'../sweeps/tiny'" in error_of(capsys, "--sweep", "../sweeps/tiny")
    assert "known: tiny" in error_of(capsys, "--sweep", "zzz")


def test_a_wrong_name_and_a_wrong_place_are_said_before_sweeps_are_read(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dashboards.sweep.read_sweep", None)  # it would be called
    assert "no sweep 'tinny'" in error_of(capsys, "--compare", "tiny", "tinny")
    assert "is a folder" in error_of(capsys, "--sweep", "tiny", "--out", str(folder))
    assert "/proc/x.html: cannot be written" in error_of(capsys, "--sweep", "tiny", "--out", "/proc/x.html")


def test_a_folder_without_sweeps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    assert "python search/run.py" in error_of(capsys, "--sweep", "tiny")


def test_a_sweep_without_a_finished_trial(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with closing(sqlite3.connect(SWEEP / "study.db")) as study, study:
        study.execute("UPDATE trials SET state = 'PRUNED' WHERE state = 'COMPLETE'")
    error = error_of(capsys, "--sweep", "tiny")
    assert not missing(["sweep 'tiny'", "10 stopped, 1 failed"], error)
    assert not (SWEEP / "report.html").exists()


def test_a_sweep_whose_scores_are_not_finite(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with closing(sqlite3.connect(SWEEP / "study.db")) as study, study:
        study.execute("UPDATE trial_intermediate_values SET intermediate_value = NULL, intermediate_value_type = 'NAN'")
    assert not missing(["sweep 'tiny'", "finite ssim/coverage"], error_of(capsys, "--sweep", "tiny"))


def test_a_store_of_an_older_mlflow(folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    # MLflow looks at a store's schema once in a process, by address.
    Path("old.db").write_bytes(Path("mlflow.db").read_bytes())
    with closing(sqlite3.connect("old.db")) as store, store:
        store.execute("UPDATE alembic_version SET version_num = '7f2a7d5fae7d'")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{folder}/old.db")
    error = error_of(capsys, "--sweep", "tiny")
    assert f"`mlflow db upgrade sqlite:///{folder}/old.db`" in error


def test_a_store_that_cannot_be_used(folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{folder}/none.db")
    assert not missing(["none.db: ", "MLFLOW_TRACKING_URI"], error_of(capsys, "--sweep", "tiny"))
    assert not Path("none.db").exists()
    Path("bad.db").write_bytes(b"not a database" * 500)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{folder}/bad.db")
    assert "bad.db: " in error_of(capsys, "--sweep", "tiny")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://me:secret@127.0.0.1:1")
    error = error_of(capsys, "--sweep", "tiny")
    assert "http://me@127.0.0.1:1: " in error and "secret" not in error


def test_a_store_without_the_sweep(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (parent,), _ = runs_of(client(), "fashion_mnist", "tiny")
    client().delete_run(parent.info.run_id)
    assert not missing(["mlflow.db: ", "'tiny'"], error_of(capsys, "--sweep", "tiny"))


def test_a_study_that_cannot_be_read(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (SWEEP / "study.db").write_bytes(b"not a database" * 500)
    assert "study.db: damaged" in error_of(capsys, "--sweep", "tiny")
    (SWEEP / "study.db").unlink()
    assert not missing(["study.db: ", "'tiny'", "begun"], error_of(capsys, "--sweep", "tiny"))
    assert [path.name for path in SWEEP.glob("study.db*")] == []


def test_a_record_that_cannot_be_read(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (SWEEP / "sweep.yaml").write_text("trial: [")
    assert re.search(r"sweep\.yaml: .*YAML", error_of(capsys, "--sweep", "tiny"))
    (SWEEP / "sweep.yaml").write_text("- a list")
    assert re.search(r"sweep\.yaml: .*mapping", error_of(capsys, "--sweep", "tiny"))
    (SWEEP / "sweep.yaml").write_bytes(b"\xff\xfe\x00")
    assert re.search(r"sweep\.yaml: .*UTF-8", error_of(capsys, "--sweep", "tiny"))
    (SWEEP / "sweep.yaml").write_text("- " * 20_000 + "x")
    assert re.search(r"sweep\.yaml: .*deep", error_of(capsys, "--sweep", "tiny"))


@pytest.mark.parametrize(
    "part",
    [
        {"trial": "x"}, {"trial": {"dataset": "x"}}, {"trial": {"steps": "many"}}, {"space": [1]}, {"space": {"lr": 3}},
        {"objective": "x"}, {"scheduler": "asha"}, {"scheduler": {"name": "asha", "reduction_factor": "x"}}, {"places": "x"},
        {"places": {"study_url": 3}},
    ],
)  # fmt: skip
def test_a_record_with_a_part_of_another_form(
    folder: Path, capsys: pytest.CaptureFixture[str], part: dict[str, object]
) -> None:
    record = yaml.safe_load((SWEEP / "sweep.yaml").read_text())
    (SWEEP / "sweep.yaml").write_text(yaml.safe_dump(record | part))
    assert re.search(r"sweep\.yaml: .*record|study 3: ", error_of(capsys, "--sweep", "tiny"))


def test_a_place_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "folder").mkdir()
    for path in ("file/page.html", "folder"):
        with pytest.raises(ReportError, match=f"{path}: "):
            write_page(tmp_path / path, "text")
    assert not list(tmp_path.glob(".folder*"))  # nothing half-written


def test_an_unfinished_page_is_known_as_a_file_of_its_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    writers = []
    replace = os.replace
    monkeypatch.setattr(os, "replace", lambda part, path: (writers.append(writer_pid(Path(part))), replace(part, path)))
    write_page(tmp_path / "page.html", "text")
    assert writers == [os.getpid()]


def test_a_study_in_a_database_that_does_not_answer(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    record = yaml.safe_load((SWEEP / "sweep.yaml").read_text())
    record["places"] = {"study_url": "postgresql+psycopg://me:secret@127.0.0.1:1/studies"}
    (SWEEP / "sweep.yaml").write_text(yaml.safe_dump(record))
    error = error_of(capsys, "--sweep", "tiny")
    assert "study postgresql+psycopg://me@127.0.0.1:1/studies: " in error and "secret" not in error
