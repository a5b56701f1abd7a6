"""`python -m gbc evaluate`: what was logged, measured again."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from gbc import export
from gbc.__main__ import main
from gbc.config import TrialConfig
from gbc.data import datasets
from gbc.export.remeasure import OF_CLASSIFIER, remeasure
from gbc.training import tasks
from tests.conftest import TINY
from tests.support import missing
from tests.support.exports import TWO_TASKS, Trained, trained

OF_IMAGES = ("ssim/nearest", "ssim/coverage", "tstr/1nn")


@pytest.fixture(scope="module")
def made(classifier_cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Trained:
    return trained(classifier_cache, tmp_path_factory.mktemp("made") / "model")


def evaluate(capsys: pytest.CaptureFixture[str], folder: Path, cache: Path, code: int = 0) -> dict[str, Any]:
    assert main(["evaluate", "--model", str(folder), "--cache", str(cache), "--json"]) == code
    report: dict[str, Any] = json.loads(capsys.readouterr().out)
    return report


def altered(made: Trained, copy: Path, **metrics: float) -> Path:
    shutil.copytree(made.folder, copy)
    header = json.loads((copy / export.CONFIG).read_text())
    header["metrics"].update({name.replace("__", "/"): value for name, value in metrics.items()})
    (copy / export.CONFIG).write_text(json.dumps(header))
    return copy


@pytest.mark.parametrize("changes", [{}, TWO_TASKS], ids=["one task", "two tasks"])
def test_on_the_same_machine_nothing_differs(
    changes: dict[str, Any], classifier_cache: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = trained(classifier_cache, tmp_path / "model", **changes).folder
    report = evaluate(capsys, folder, classifier_cache)
    assert set(report["judged"]["metrics"]) == {*OF_IMAGES, *OF_CLASSIFIER}
    assert [row["difference"] for row in report["judged"]["metrics"].values()] == [0.0] * 6
    assert report["judged"]["agree"] and report["judged"]["notes"] == []
    logged = export.load(folder).metrics
    for name in OF_IMAGES:  # the controls' table speaks of the same samples
        assert report["scores"]["model"][name] == logged[name] == report["judged"]["metrics"][name]["logged"]


def test_it_is_shown_as_a_table(made: Trained, classifier_cache: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["evaluate", "--model", str(made.folder), "--cache", str(classifier_cache)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["logged", "now", "difference"]
    assert [line.split()[0] for line in lines[1:7]] == [*OF_IMAGES, *OF_CLASSIFIER]
    assert {line.split()[-1] for line in lines[1:7]} == {"0"}
    assert lines[9].startswith("model ") and any(line.startswith("other real images") for line in lines)


def test_without_the_classifier_it_says_so(made: Trained, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    report = evaluate(capsys, made.folder, tmp_path / "empty")
    assert set(report["judged"]["metrics"]) == set(OF_IMAGES) and report["judged"]["agree"]
    (note,) = report["judged"]["notes"]
    assert not missing(["classifier/accuracy, free/confidence, free/bn: ", str(tmp_path / "empty")], note)
    assert not (tmp_path / "empty").exists()  # none is trained for this


def test_a_disagreement_is_a_line_and_exit_code_1(
    made: Trained, classifier_cache: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    copy = altered(made, tmp_path / "copy", ssim__coverage=0.9, free__bn=float("nan"))
    report = evaluate(capsys, copy, classifier_cache, code=1)
    assert not report["judged"]["agree"] and report["judged"]["metrics"]["ssim/coverage"]["logged"] == 0.9
    main(["evaluate", "--model", str(copy), "--cache", str(classifier_cache)])
    error = capsys.readouterr().err.splitlines()
    assert len(error) == 1 and error[0].startswith("failed: ssim/coverage, free/bn: ")


def test_rounding_is_no_disagreement(made: Trained, classifier_cache: Path, tmp_path: Path) -> None:
    copy = altered(made, tmp_path / "copy", ssim__coverage=made.metrics["ssim/coverage"] + 0.005)
    generator = export.load(copy)
    data = datasets.load(generator.settings.dataset)
    assert remeasure(generator, data, None, "none").disagreeing() == []


def test_other_data_and_other_classifiers_are_not_compared(made: Trained, tmp_path: Path) -> None:
    generator = export.load(altered(made, tmp_path / "copy", ssim__coverage=0.9, classifier__accuracy=0.9))
    other = TrialConfig.parse({**TINY, "classifier": {"hidden": 24, "steps": 3}, "dataset": {"per_class": 8}}, "test")
    inputs = tasks.obtain(other, tmp_path / "cache")
    comparison = remeasure(generator, inputs.images, inputs.classifiers)
    assert comparison.disagreeing() == [] and set(comparison.now) == {*OF_IMAGES, *OF_CLASSIFIER}
    about_data, about_classifiers = comparison.notes
    assert "data" in about_data and "classifiers" in about_classifiers


def test_other_samples_for_the_controls(made: Trained, classifier_cache: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["evaluate", "--model", str(made.folder), "--cache", str(classifier_cache), "--json", "--seed", "5"]
    assert main(command) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["judged"]["agree"]
    assert report["scores"]["model"]["tstr/1nn"] != report["judged"]["metrics"]["tstr/1nn"]["now"]
