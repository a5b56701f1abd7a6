"""Fig. 3 as a picture and as numbers."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from gbc.__main__ import main
from gbc.classifier_config import ClassifierConfig
from gbc.classifiers import architectures
from gbc.errors import BadInput
from gbc.studies import lambda_figure
from gbc.studies.lambda_figure import BY_SCALAR, BY_TENSOR, CONTROL
from tests.conftest import TINY_CLASSIFIER
from tests.support.networks import SHAPE, lived_in


@pytest.mark.long
def test_the_papers_network(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["homogeneity", "--out", str(tmp_path), "--json"]) == 0
    figure = json.loads(capsys.readouterr().out)
    assert figure["parameters"] == 41
    assert list(figure["ways"]) == ["last_layer", "min_norm", "uniform", BY_TENSOR, BY_SCALAR, CONTROL]
    assert figure["freedom"] == {"rules": 1, BY_TENSOR: 1, BY_SCALAR: 10}  # one unit is as free as another
    for name, way in figure["ways"].items():
        assert (way["error"] > 1) if name == CONTROL else (way["error"] < 1e-12)  # degrees are rounded to 12 decimals
    assert figure["ways"]["uniform"]["degrees"] == pytest.approx({"0.weight": 0.5, "0.bias": 0.5, "2.weight": 0.5, "2.bias": 1})
    written = json.loads((tmp_path / "homogeneity.json").read_text())
    curves = written.pop("curves")
    assert written == figure
    expected, alpha = np.array(curves["expected"]), np.array(curves["alpha"])
    assert expected.shape == (5, 41) and alpha[[0, 20, 40]] == pytest.approx([-1, 0, 1])
    np.testing.assert_allclose(expected, np.exp(alpha) * expected[:, [20]], rtol=1e-12)
    np.testing.assert_allclose(curves["scaled"][BY_SCALAR], expected, rtol=1e-10)
    picture = np.asarray(Image.open(tmp_path / "homogeneity.png").convert("RGB"))
    assert picture.shape[0] > 500 and picture.shape[1] > 1000 and len(np.unique(picture.reshape(-1, 3), axis=0)) > 100


@pytest.mark.parametrize("mode", ["train", "eval"])
def test_any_classifier(tmp_path: Path, mode: str) -> None:
    phi = lived_in(architectures.build(ClassifierConfig(name="mlp_bn", hidden=12), SHAPE, 3))
    figure = lambda_figure.run(tmp_path, phi, 2 * torch.randn(120, *SHAPE), mode=mode, title="mlp_bn")
    freedom = {"train": 6, "eval": 2}[mode]
    assert figure["freedom"] == {"rules": freedom, BY_TENSOR: freedom}  # too many scalars for Eq. (10) by scalar
    for name in ("last_layer", "min_norm", BY_TENSOR):
        assert figure["ways"][name]["error"] < 1e-8
    if mode == "eval":
        assert "2: BatchNorm1d " in figure["ways"]["uniform"]["refused"]


def test_a_network_without_inputs_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="inputs"):
        lambda_figure.run(tmp_path, nn.Linear(2, 2))


def test_the_command_draws_a_classifier(tmp_path: Path, classifier_cache: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sets = [argument for key, value in TINY_CLASSIFIER.items() for argument in ("--set", f"classifier.{key}={value}")]
    command = ["homogeneity", "--out", str(tmp_path / "mine"), "--cache", str(classifier_cache), "--mode", "train"]
    assert main([*command, "--set", "dataset.per_class=10", *sets]) == 0
    assert ": 6 (rules)" in capsys.readouterr().out
    figure = json.loads((tmp_path / "mine" / "homogeneity.json").read_text())
    assert figure["batch_norm"] == "train" and figure["freedom"]["rules"] == 6  # docs/method.md counts them
    assert figure["ways"]["last_layer"]["error"] < 1e-12 and (tmp_path / "mine" / "homogeneity.png").exists()
    assert main(["homogeneity", "--out", str(tmp_path / "mine"), "--set", "classifier.name=mlpbn"]) == 2
