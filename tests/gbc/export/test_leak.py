"""`python -m gbc leak` on an export that a trainer made."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from gbc import export
from gbc.__main__ import main
from gbc.data import datasets
from gbc.export import leak, model_card
from gbc.training import tasks
from tests.support import missing
from tests.support.exports import Trained, trained


@pytest.fixture(scope="module")
def made(classifier_cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Trained:
    return trained(classifier_cache, tmp_path_factory.mktemp("made") / "model")


def test_the_command(
    made: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("gbc.metrics.features.STEPS", 30)
    command = ["leak", "--model", str(made.folder), "--cache", str(tmp_path / "cache")]
    assert main([*command, "--count", "100", "--json"]) == 0
    shown = capsys.readouterr()
    report = json.loads(shown.out)
    assert (report["members"], report["samples"], report["threshold"], report["notes"]) == (100, 100, 0.4, [])
    scores = [case["z"] for case in report["ranking"]]
    assert scores == sorted(scores, reverse=True) and len({case["sample"] for case in report["ranking"]}) == 100
    assert {"ssim", "feature_distance", "control"} <= set(report) and not missing(["10 of 10"], shown.err)
    assert main([*command, "--out", str(tmp_path / "leak.png")]) == 0
    shown = capsys.readouterr()
    assert not missing(["training images", "held-out images", "AUC", "leak.png"], shown.out)
    with Image.open(tmp_path / "leak.png") as picture:
        assert picture.width > 3 * picture.height > 300


def test_other_data_than_the_exports_are_named(
    made: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("gbc.metrics.features.STEPS", 1)
    copy = tmp_path / "copy"
    shutil.copytree(made.folder, copy)
    header = json.loads((copy / export.CONFIG).read_text())
    header["origin"]["data"]["digest"] = "0" * 16
    (copy / export.CONFIG).write_text(json.dumps(header))
    assert main(["leak", "--model", str(copy), "--cache", str(tmp_path / "cache"), "--count", "100", "--json"]) == 0
    assert len(json.loads(capsys.readouterr().out)["notes"]) == 1


@pytest.mark.parametrize(
    ("flags", "named"),
    [
        (["--count", "99"], ["--count 99", "100"]),
        (["--count", "1e9"], ["--count 1000000000", "200000"]),
        (["--out", "leak.gif"], ["--out leak.gif", ".png"]),
    ],
)
def test_bad_input_is_one_line(
    flags: list[str], named: list[str], made: Trained, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["leak", "--model", str(made.folder), "--cache", str(tmp_path / "cache"), *flags]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert not missing(named, line) and not (tmp_path / "cache").exists()


def test_the_card_has_the_numbers_of_the_export(made: Trained) -> None:
    generator = export.load(made.folder)
    leak_report, samples = leak.measure(generator, datasets.load(generator.settings.dataset))
    assert len(samples) == leak_report.samples == 4 * leak_report.members == 400
    _, _, privacy = (made.folder / export.CARD).read_text().partition("## Privacy")
    named = [
        leak_report.ssim.text(),
        leak_report.control.text(),
        f"| {leak_report.reconstructed} | {leak_report.reconstructed_held_out} |",
    ]
    assert not missing([*named, "400", "100", "python -m gbc leak"], privacy)


def test_a_card_without_test_images_says_so(made: Trained, classifier_cache: Path) -> None:
    generator = export.load(made.folder)
    inputs = tasks.obtain(generator.settings, classifier_cache)
    few = inputs.images.test_labels.argsort(kind="stable")[:203]  # of the second class three, of others none
    data = replace(inputs.images, test_images=inputs.images.test_images[few], test_labels=inputs.images.test_labels[few])
    card = model_card.text("model", generator, replace(inputs, data=data), pictured=False, files=[])
    assert not missing(["Trouser"], card.partition("## Privacy")[2])
