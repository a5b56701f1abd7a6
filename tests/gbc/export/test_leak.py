"""`python -m gbc leak` on an export that a trainer made."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from PIL import Image

from gbc import export
from gbc.__main__ import main
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
    found = json.loads(shown.out)
    assert (found["members"], found["samples"], found["threshold"], found["notes"]) == (100, 100, 0.4, [])
    scores = [case["z"] for case in found["ranking"]]
    assert scores == sorted(scores, reverse=True) and len({case["sample"] for case in found["ranking"]}) == 100
    assert {"ssim", "feature_distance", "control"} <= set(found) and not missing(["10 of 10"], shown.err)
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
    ("words", "named"),
    [
        (["--count", "99"], ["--count 99", "100"]),
        (["--count", "1e9"], ["--count 1000000000", "200000"]),
        (["--out", "leak.gif"], ["--out leak.gif", ".png"]),
    ],
)
def test_bad_input_is_one_line(
    words: list[str], named: list[str], made: Trained, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["leak", "--model", str(made.folder), "--cache", str(tmp_path / "cache"), *words]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert not missing(named, line) and not (tmp_path / "cache").exists()
