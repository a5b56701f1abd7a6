"""`python search/export.py`: what it takes out of a sweep, and what it refuses before anything is written."""

from __future__ import annotations

import json
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

SWEEP = paths.SWEEPS / "tiny"


@pytest.fixture(scope="module")
def sweeps(tmp_path_factory: pytest.TempPathFactory, classifier_cache: Path) -> Iterator[Path]:
    """`tiny`: trials 0 and 1 complete, 2 stopped, 3 open after step 6; `early`: nothing finished."""
    place = tmp_path_factory.mktemp("sweeps")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        play(SweepConfig.parse(tiny_sweep(), "test"), classifier_cache, stop={2: 6}, leave={3: 6}, fail={})
        play(SweepConfig.parse(tiny_sweep(name="early", trials=1), "test"), classifier_cache, stop={}, leave={0: 3}, fail={})
        shutil.copytree(classifier_cache, place / paths.CLASSIFIERS, dirs_exist_ok=True)
        yield place


@pytest.fixture(autouse=True)
def _there(sweeps: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.chdir(sweeps)
    before = {path for path in sweeps.rglob("*") if ".lock" not in path.name}
    yield
    shutil.rmtree(sweeps / "new", ignore_errors=True)
    assert {path for path in sweeps.rglob("*") if ".lock" not in path.name} == before  # nothing half-written


def test_the_best_trial_in_all_formats(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--sweep", "tiny", "--out", "new", "--format", "safetensors,torch,onnx", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert {path.name for path in Path("new").iterdir()} == {
        "README.md", "config.json", "generator.safetensors", "generator.pt2", "generator.onnx", "judged.npz", "samples.png"
    }  # fmt: skip
    entries, _ = read_study(SWEEP / paths.STUDY_FILE)
    assert found["trial"] == max((0, 1), key=lambda number: entries[number].value or 0.0)
    generator = export.load("new")
    assert generator.metrics == found["metrics"]
    # From the checkpoint of a worker to the folder no bit was lost.
    assert evaluate(["evaluate", "--model", "new", "--json"]) == 0
    again = json.loads(capsys.readouterr().out)["judged"]
    assert [row["difference"] for row in again["metrics"].values()] == [0.0] * 6 and again["notes"] == []
    card = Path("new/README.md").read_text()
    assert f"Trial {found['trial']} of 4 in sweep `tiny`, after 12 steps." in card and "torch.export.load" in card


def test_safetensors_alone_unless_more_is_asked_for(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--sweep", "tiny", "--trial", "3", "--out", "new"]) == 0  # an open trial of a sweep that does not run
    assert {path.name for path in Path("new").iterdir()} == {"README.md", "config.json", "generator.safetensors", "samples.png"}
    assert "torch.export" not in Path("new/README.md").read_text()
    assert "new: trial-0003 of tiny" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--sweep", "tinny"], "no sweep 'tinny' here; did you mean 'tiny'?"),
        (["--sweep", "early"], "sweep 'early' has no trial that reached its full horizon yet; continue it, or name one"),
        (["--sweep", "tiny", "--trial", "9"], "sweep 'tiny' has no trial 9; it has 0 to 3"),
        (["--sweep", "tiny", "--trial", "-1"], "sweep 'tiny' has no trial -1; it has 0 to 3"),
        (["--sweep", "tiny", "--trial", "2"], "the generator of trial 2 was not kept; there are those of 0, 1, 3 (--keep K)"),
        (["--sweep", "tiny", "--out", "mlruns"], "mlruns: exists already; choose another --out or remove it"),
        (["--sweep", "tiny", "--format", "onnxx"], "--format: unknown format 'onnxx'; did you mean 'onnx'?"),
        (["--sweep", "tiny", "--format", "zip"], "--format: unknown format 'zip'; known: onnx, safetensors, torch"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--out", "new", *arguments]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ") and message in line


def test_a_running_sweep_needs_a_finished_trial(capsys: pytest.CaptureFixture[str]) -> None:
    with driver_lock(SWEEP):
        assert main(["--sweep", "tiny", "--out", "new"]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert "sweep 'tiny' is still running (pid " in line and "name a finished trial with --trial N" in line
        assert main(["--sweep", "tiny", "--out", "new", "--trial", "3"]) == 2
        assert "trial 3 of sweep 'tiny' is still running" in capsys.readouterr().err
        assert main(["--sweep", "tiny", "--out", "new", "--trial", "1"]) == 0


def test_a_missing_extra_is_one_line(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setitem(sys.modules, "onnx", None)  # as if it were not installed
    assert main(["--sweep", "tiny", "--out", "new", "--format", "onnx"]) == 2
    assert capsys.readouterr().err == (
        "error: --format onnx: the package onnx is missing; pip install onnx onnxruntime onnxscript, "
        "or '.[onnx]' in a copy of this repository\n"
    )
