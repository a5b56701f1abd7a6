from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from gbc.__main__ import main
from gbc.data.datasets import ImageDataset
from gbc.studies import stationarity_figure as figure


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    classifier = {**figure.SETTINGS["classifier"], "hidden": 16, "steps": 600, "polish": 60}
    monkeypatch.setitem(figure.SETTINGS, "classifier", classifier)
    monkeypatch.setitem(figure.SETTINGS, "dataset", {"name": "fashion_mnist", "per_class": 5})
    for name, value in {"width": 16, "channels": 8}.items():
        monkeypatch.setitem(figure.SETTINGS, name, value)
    curves: dict[str, Any] = {name: figure.CURVES[name] for name in ("without", "closed form")}
    monkeypatch.setattr(figure, "CURVES", curves)


@pytest.mark.usefixtures("small")
@pytest.mark.long
def test_training_images_meet_the_condition_and_the_closed_form_comes_nearer_to_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["stationarity", "--out", str(tmp_path), "--cache", str(tmp_path), "--steps", "200", "--json"]) == 0
    record = json.loads(capsys.readouterr().out)
    assert record == json.loads((tmp_path / "stationarity.json").read_text())
    assert Image.open(tmp_path / "stationarity.png").width > 500

    controls = record["without"]["controls"]
    assert controls["training images"]["training"] == pytest.approx(1, abs=1e-5)
    assert controls["training images"]["held out"] < 0.9
    # Of true training images −∇CE and ζ are parallel where training has converged; of other real images and noise they are not.
    assert controls["training images"]["cosine"] > 0.9
    assert max(controls[name]["cosine"] for name in ("other real images", "uniform noise")) < 0.5

    assert record["without"]["points"]["step"] == [20 * number for number in range(1, 11)]
    assert record["closed form"]["points"]["cosine"][-1] > record["without"]["points"]["cosine"][-1]


@pytest.mark.usefixtures("small")
def test_every_step_sees_the_whole_set(tmp_path: Path) -> None:
    config = figure.settings("closed form", 20, seed=1)
    assert config.bank == config.batch_size == 50 and config.bank_share == 1 and not config.bank_jitter
    assert config.seed == 1


def test_held_out_images_and_their_stand_ins_are_others(images: ImageDataset) -> None:
    nearest = figure.NearestSSIM(images)
    counts = torch.bincount(nearest.labels)
    others, labels = nearest.controls()["other real images"]
    assert torch.equal(torch.bincount(labels), counts) and len(nearest.held_out) == len(nearest.images)
    assert not any((image == others).flatten(1).all(dim=1).any() for image in nearest.held_out)


def test_no_steps_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(["stationarity", "--out", str(tmp_path), "--steps", "0"])
    assert re.fullmatch(r"error: --steps: 0: .*1\n", capsys.readouterr().err)
