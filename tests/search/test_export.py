"""`python search/export.py`: what it takes out of a sweep, and what it refuses before anything is written."""

from __future__ import annotations

import json
import os
import re
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from gbc import export
from gbc.__main__ import main as evaluate
from search.export import main
from search.files import paths
from search.files.lock import driver_lock
from search.spec.config import SweepConfig
from tests.search.conftest import tiny_sweep
from tests.support.records import play, read_study

pytestmark = pytest.mark.long

SWEEP = paths.SWEEPS / "tiny"


@pytest.fixture(scope="module")
def sweeps(tmp_path_factory: pytest.TempPathFactory, classifier_cache: Path) -> Iterator[Path]:
    """`tiny`: trials 0 and 1 complete, 2 stopped, 3 open after step 6; `early`: nothing finished."""
    folder = tmp_path_factory.mktemp("sweeps")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        play(SweepConfig.parse(tiny_sweep(), "test"), classifier_cache, stop={2: 6}, leave={3: 6}, fail={})
        play(SweepConfig.parse(tiny_sweep(name="early", trials=1), "test"), classifier_cache, stop={}, leave={0: 3}, fail={})
        shutil.copytree(classifier_cache, folder / paths.CLASSIFIERS, dirs_exist_ok=True)
        yield folder


@pytest.fixture(autouse=True)
def _there(sweeps: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.chdir(sweeps)
    before = {path for path in sweeps.rglob("*") if ".lock" not in path.name}
    yield
    shutil.rmtree(sweeps / "new", ignore_errors=True)
    assert {path for path in sweeps.rglob("*") if ".lock" not in path.name} == before  # nothing half-written


def test_the_best_trial_in_all_formats(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--sweep", "tiny", "--out", "new", "--format", "safetensors,torch,onnx", "--json"]) == 0
    summary = json.loads(capsys.readouterr().out)
    assert {path.name for path in Path("new").iterdir()} == {
        "README.md", "config.json", "generator.safetensors", "generator.pt2", "generator.onnx", "judged.npz", "samples.png"
    }  # fmt: skip
    entries, _ = read_study(SWEEP / paths.STUDY_FILE)
    assert summary["trial"] == max((0, 1), key=lambda number: entries[number].value or 0.0)
    generator = export.load("new")
    assert generator.metrics == summary["metrics"]
    # From the checkpoint of a worker to the folder no bit was lost.
    assert evaluate(["evaluate", "--model", "new", "--json"]) == 0
    again = json.loads(capsys.readouterr().out)["judged"]
    assert [row["difference"] for row in again["metrics"].values()] == [0.0] * 6 and again["notes"] == []
    card = Path("new/README.md").read_text()
    assert re.search(rf"rial {summary['trial']} of 4 .*`tiny`.*\b12 ", card) and "torch.export.load" in card


def test_safetensors_alone_unless_more_is_asked_for(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--sweep", "tiny", "--trial", "3", "--out", "new"]) == 0  # an open trial of a sweep that does not run
    assert {path.name for path in Path("new").iterdir()} == {"README.md", "config.json", "generator.safetensors", "samples.png"}
    assert "torch.export" not in Path("new/README.md").read_text()
    assert "new: trial-0003 " in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--sweep", "tinny"], "'tinny'.*'tiny'"),
        (["--sweep", "early"], "'early' .*continue"),
        (["--sweep", "tiny", "--trial", "9"], r"'tiny' .*trial 9\b.*3"),
        (["--sweep", "tiny", "--trial", "-1"], r"'tiny' .*trial -1\b.*3"),
        (["--sweep", "tiny", "--trial", "2"], "trial 2 .*0, 1, 3 .*--keep"),
        (["--sweep", "tiny", "--out", "mlruns"], "mlruns: .*--out"),
        (["--sweep", "tiny", "--format", "onnxx"], "--format: .*'onnxx'.*'onnx'"),
        (["--sweep", "tiny", "--format", "zip"], "--format: .*'zip'.*onnx, safetensors, torch"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--out", "new", *arguments]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ") and re.search(message, line), line


def test_a_running_sweep_needs_a_finished_trial(capsys: pytest.CaptureFixture[str]) -> None:
    with driver_lock(SWEEP):
        assert main(["--sweep", "tiny", "--out", "new"]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert re.search(rf"'tiny' .*\(pid {os.getpid()}\b.*--trial N", line), line
        assert main(["--sweep", "tiny", "--out", "new", "--trial", "3"]) == 2
        assert re.search("trial 3 .*'tiny'", capsys.readouterr().err)
        assert main(["--sweep", "tiny", "--out", "new", "--trial", "1"]) == 0


def test_a_missing_extra_is_one_line(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setitem(sys.modules, "onnx", None)  # as if it were not installed
    assert main(["--sweep", "tiny", "--out", "new", "--format", "onnx"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert (
        line.startswith("error: --format onnx: ") and "pip install onnx onnxruntime onnxscript" in line and "'.[onnx]'" in line
    )
