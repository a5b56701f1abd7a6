"""Data set `none`: a classifier with weights and a card is all there is, and what needs images says so in one line."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image

from gbc import export
from gbc.__main__ import main
from gbc.classifier_config import DatasetConfig
from gbc.config import TrialConfig
from gbc.data.data_free import DataFreeTask
from gbc.data.datasets import ImageDataset
from gbc.data.matching import matched
from gbc.errors import BadInput
from gbc.metrics.scores import METRICS
from gbc.training import tasks
from tests.conftest import TINY
from tests.support import missing
from tests.support.data_free import without_images

SHAPE, NAMES = (1, 28, 28), [str(number) for number in range(10)]


def obtain(settings: dict[str, Any], cache: Path) -> tasks.TrialInputs:
    return tasks.obtain(TrialConfig.parse(settings, "tests"), cache)


@pytest.fixture(scope="module")
def trained(classifier_cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An exported generator."""
    folder = tmp_path_factory.mktemp("none")
    (folder / "trial.yaml").write_text(yaml.safe_dump(without_images(classifier_cache)))
    out = folder / "model"
    assert main(["train", "--config", str(folder / "trial.yaml"), "--out", str(out), "--cache", str(classifier_cache)]) == 0
    return out


def test_the_card_says_what_the_images_were(classifier_cache: Path, images: ImageDataset) -> None:
    inputs = obtain(without_images(classifier_cache), classifier_cache)
    assert inputs.data == DataFreeTask("none", images.class_names, SHAPE)
    assert inputs.reference("cpu") is None and inputs.classifier.samples == 100
    assert "accuracy" not in inputs.regimes[0]
    dataset = {"name": "none", "shape": list(SHAPE), "class_names": list(images.class_names)}
    assert obtain(without_images(classifier_cache, dataset=dataset), classifier_cache).data.digest() == inputs.data.digest()


def test_several_classifiers_without_images_have_the_classes_of_all(classifier_cache: Path, tmp_path: Path) -> None:
    settings = without_images(classifier_cache)
    weights = Path(settings["classifier"]["weights"])
    card = yaml.safe_load(weights.with_suffix(".yaml").read_text())
    (tmp_path / "other.yaml").write_text(yaml.safe_dump({**card, "class_names": NAMES}))
    other = {**settings["classifier"], "card": str(tmp_path / "other.yaml")}
    expert = {"classifier": other, "dataset": {"name": "none", "class_names": NAMES}}
    data = obtain({**settings, "experts": [expert]}, classifier_cache).data
    assert data == DataFreeTask("none", (*card["class_names"], *NAMES), SHAPE)


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"dataset": {"name": "none", "per_class": 10}}, ["per_class"]),
        ({"dataset": {"name": "none", "classes": [0, 1]}}, ["dataset.classes"]),
        ({"dataset": {"name": "none", "path": "here"}}, ["dataset.path", "images"]),
        ({"dataset": {"name": "none", "data_root": "here"}}, ["dataset.data_root", "none"]),
        ({"dataset": {"name": "none", "shape": [3, 32, 32]}}, ["dataset.shape", "[3, 32, 32]", "[1, 28, 28]"]),
        ({"dataset": {"name": "none", "class_names": NAMES}}, ["dataset.class_names", "0, 1", "T-shirt"]),
        ({"dataset": {"name": "none", "class_names": "cat"}}, ["dataset.class_names", "'cat'"]),
        ({"dataset": {"name": "mnist", "shape": [1, 28, 28]}}, ["dataset.shape", "none", "mnist"]),
        ({"dataset": "nine"}, ["'none'"]),
        ({"classifier": TINY["classifier"]}, ["none", "weights"]),
        ({"student_steps": 5}, ["student_steps", "5", "none"]),
        ({"experts": [{"dataset": {"name": "mnist", "per_class": 10}}]}, ["experts", "none"]),
    ],
)
def test_what_does_not_fit_is_named(changes: dict[str, Any], named: list[str], classifier_cache: Path) -> None:
    with pytest.raises(BadInput) as fault:
        obtain(without_images(classifier_cache, **changes), classifier_cache)
    assert not missing(named, fault.value) and "\n" not in str(fault.value)


@pytest.mark.parametrize(
    ("shape", "named"), [([2], ["[2]", "points"]), ([1, 30, 28], ["[1, 30, 28]", "4"]), (None, ["net.yaml"])]
)
def test_a_card_must_describe_images(shape: list[int] | None, named: list[str], classifier_cache: Path, tmp_path: Path) -> None:
    settings = without_images(classifier_cache)
    weights = Path(shutil.copy(settings["classifier"]["weights"], tmp_path / "net.safetensors"))
    if shape:
        card = {"class_names": ["a", "b"], "shape": shape, "samples": 5}
        weights.with_suffix(".yaml").write_text(yaml.safe_dump(card))
    with pytest.raises(BadInput) as fault:
        obtain({**settings, "classifier": {**settings["classifier"], "weights": str(weights)}}, classifier_cache)
    assert not missing([str(weights), *named], fault.value)


def test_scores_against_images_are_absent_and_the_rest_is_measured(trained: Path) -> None:
    generator = export.load(trained)
    assert not set(generator.metrics) & {*METRICS, "tstr/cnn"}
    assert {"free/score", "classifier/accuracy", "kkt/rho"} <= set(generator.metrics)
    assert all(map(math.isfinite, generator.metrics.values()))
    assert generator.sample([0, 9], seed=1).shape == (2, *SHAPE) and generator.class_names[0] == "T-shirt"


def test_the_picture_has_generated_rows_alone(trained: Path) -> None:
    with Image.open(trained / export.PICTURE) as picture:
        assert picture.size == (2 * 10 * 30, 2 * 5 * 30)  # framed and doubled


def test_the_model_card_says_that_nothing_was_measured_against_images(trained: Path) -> None:
    card = (trained / "README.md").read_text()
    assert not missing(["data set `none`", "python -m gbc evaluate", "free/score", "name: none", "T-shirt", "column"], card)
    for absent in ("ssim/", "tstr/", "| black |", "training image", "datasets:"):
        assert absent not in card.replace("name: none", "")


def test_evaluate_names_the_flag_that_gives_images(trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for flags in ([], ["--per-class", "5"]):
        assert main(["evaluate", "--model", str(trained), *flags]) == 2
        lines = capsys.readouterr().err.splitlines()
        assert len(lines) == 1 and not missing(["--images"], lines[0])


@pytest.mark.parametrize("command", [["distil", "--model"], ["leak", "--model"], ["audit", "--set"]])
def test_other_commands_say_that_there_are_no_images(
    command: list[str], trained: Path, classifier_cache: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = "dataset=none" if command[0] == "audit" else str(trained)
    assert main([*command, given, "--cache", str(classifier_cache)]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1 and "images" in lines[0]


def test_a_student_is_taught_without_images_and_not_tested(
    trained: Path, classifier_cache: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["distil", "--model", str(trained), "--cache", str(classifier_cache), "--student", "mlp", "--hidden", "16"]
    arguments += ["--count", "50", "--steps", "10", "--out", str(tmp_path / "student.safetensors")]
    assert main(arguments) == 0 and (tmp_path / "student.safetensors").exists()
    assert not missing(["student.safetensors", "no images"], capsys.readouterr().out)
    assert main([*arguments[:-1], str(tmp_path / "again.safetensors"), "--dataset", "fashion_mnist", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["test_images"] == 2000


def test_a_baseline_needs_no_images(classifier_cache: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    weights = without_images(classifier_cache)["classifier"]["weights"]
    given = ["dataset=none", f"classifier.weights={weights}", "classifier.hidden=24", "steps=2", "report_every=2"]
    flags = [flag for setting in given for flag in ("--set", setting)]
    out = tmp_path / "pixels"
    assert main(["baseline", "bn-inversion", "--out", str(out), *flags, "--cache", str(classifier_cache)]) == 0
    assert "ssim/" not in capsys.readouterr().out and (out / "samples.png").exists()


def test_images_that_come_later_measure_it(
    trained: Path, images: ImageDataset, classifier_cache: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    np.savez(tmp_path / "later.npz", images=images.test_images, labels=images.test_labels, class_names=images.class_names)
    flags = ["--images", str(tmp_path / "later.npz"), "--per-class", "20", "--cache", str(classifier_cache)]
    assert main(["evaluate", "--model", str(trained), *flags, "--json"]) == 0
    shown = capsys.readouterr()
    report = json.loads(shown.out)
    metrics = report["judged"]["metrics"]
    assert metrics["ssim/coverage"]["logged"] is None and metrics["free/confidence"]["difference"] == 0
    assert report["judged"]["agree"] and "black" in report["scores"] and shown.err == ""
    assert main(["evaluate", "--model", str(trained), "--dataset", "mnist", "--cache", str(classifier_cache)]) == 0
    shown = capsys.readouterr()
    assert not missing(["T-shirt = 0", "5 more"], shown.err) and "nan" not in shown.out


def test_classes_are_matched_by_name(images: ImageDataset, tmp_path: Path) -> None:
    back = images.class_names[::-1]
    data, remark = matched(DatasetConfig(per_class=10), SHAPE, back)
    assert remark is None and data.class_names == back
    assert (data.test_labels == 9 - images.test_labels).all()


@pytest.mark.parametrize(("shape", "names", "named"), [((3, 28, 28), NAMES, "[3, 28, 28]"), (SHAPE, NAMES[:9], "9")])
def test_other_images_are_refused(shape: tuple[int, ...], names: list[str], named: str) -> None:
    with pytest.raises(BadInput) as fault:
        matched(DatasetConfig(name="mnist", per_class=10), shape, names)
    assert not missing(["mnist", named], fault.value)


def test_commands_about_the_classifier_need_no_images(
    classifier_cache: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "trial.yaml").write_text(yaml.safe_dump(without_images(classifier_cache)))
    flags = ["--config", str(tmp_path / "trial.yaml"), "--cache", str(classifier_cache)]
    assert main(["pretrain", *flags]) == 0
    assert "own-mlp_bn-" in capsys.readouterr().out
    assert main(["audit", *flags, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["conditions"] == []
