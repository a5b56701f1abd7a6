"""Classifiers of the user's own: they work from file to trainer, and each fault is one line."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

from gbc import export
from gbc.__main__ import main
from gbc.classifier_config import ClassifierConfig
from gbc.classifiers import convergence, custom, pretrain
from gbc.config import TrialConfig
from gbc.data.datasets import ImageDataset
from gbc.errors import BadInput
from gbc.export.scorecard import scorecard
from gbc.training import tasks
from gbc.training.trainer import Trainer
from tests.gbc.classifiers.conftest import MODULE, theirs

Files = Callable[..., ClassifierConfig]

pytestmark = pytest.mark.usefixtures("package")


@pytest.mark.parametrize("suffix", [".safetensors", ".pt"])
def test_weights_are_used_as_they_are(files: Files, images: ImageDataset, tmp_path: Path, suffix: str) -> None:
    classifier, regime, folder = pretrain.obtain(files(suffix=suffix), images, tmp_path / "cache")
    x, _ = images.test()
    assert torch.equal(classifier.module(x[:5]), theirs()(x[:5]))
    assert classifier.samples == 123 and classifier.class_names[3] == "garment 3" and classifier.shape == (1, 28, 28)
    assert regime["steps"] == 0 and set(regime["residuals"]) == {"1.weight", "1.bias", "3.weight", "3.bias"}
    assert "network" in folder.name


def test_a_large_set_goes_through_the_network_in_parts(
    files: Files, images: ImageDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = pretrain.obtain(files(), images, tmp_path / "cache")[1]
    sizes = []
    hook = nn.modules.module.register_module_forward_pre_hook(lambda _, given: sizes.append(len(given[0])))
    monkeypatch.setattr(convergence, "AT_ONCE", 30)
    try:
        parts = pretrain.with_user_weights(files(), images)[2]
    finally:
        hook.remove()
    assert max(sizes) == 30 and parts["accuracy"] == whole["accuracy"]


def test_a_factory_may_be_written_as_a_name_and_classes_may_be_called_no(files: Files, tmp_path: Path) -> None:
    config = files()
    assert ClassifierConfig.parse({"name": "their_nets:network", "weights": config.weights}, "test") == config
    (tmp_path / "net.yaml").write_text(
        "class_names: [no, yes, on, off, n, y, null, none, true, 10]\nshape: [1, 28, 28]\nsamples: 5"
    )
    with pytest.raises(BadInput, match=r"class_names"):  # null, true and 10 are no names
        custom.read_card(config)
    (tmp_path / "net.yaml").write_text("class_names: [no, yes, on, off, n, y]\nshape: [1, 28, 28]\nsamples: 5")
    assert custom.read_card(config).class_names == ("no", "yes", "on", "off", "n", "y")


def test_without_data_the_regime_is_unknown_and_the_classifier_works(files: Files, tmp_path: Path) -> None:
    classifier, regime, _ = pretrain.obtain(files(), None, tmp_path / "cache")
    assert regime == {"steps": 0}
    assert classifier.module(torch.rand(3, 1, 28, 28)).shape == (3, 10)
    with pytest.raises(BadInput, match=r"without data.*classifier\.weights"):
        pretrain.obtain(ClassifierConfig(), None, tmp_path / "cache")


def test_normalisation_happens_inside(files: Files, images: ImageDataset, tmp_path: Path) -> None:
    classifier, _, _ = pretrain.obtain(files(mean=[0.25], std=[0.5]), images, tmp_path / "cache")
    x, _ = images.test()
    torch.testing.assert_close(classifier.module(x[:5]), theirs()((x[:5] - 0.25) / 0.5))


def test_a_generator_is_born_from_it(files: Files, settings: TrialConfig, images: ImageDataset, tmp_path: Path) -> None:
    """Frozen parameters are parameters all the same."""
    config = files(factory="frozen", mean=[0.25], std=[0.5])
    trial = settings.updated({"classifier": config.model_dump(mode="json"), "bn_weight": 0.0}, "test")
    classifier, _, _ = pretrain.obtain(trial.classifier, images, tmp_path / "cache")
    report = next(Trainer(trial, [classifier]).run())
    assert report.metrics["kkt/rho"] > 0


def test_images_get_the_names_that_the_card_gives_to_their_classes(
    files: Files, settings: TrialConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Names are compared afterwards: by the scores of each class, and by a student of the classifier."""
    trial = settings.updated({"classifier": files().model_dump(mode="json"), "bn_weight": 0.0}, "test")
    inputs = tasks.obtain(trial, tmp_path / "cache")
    assert inputs.images.class_names == inputs.classifier.class_names
    trainer = Trainer(trial, inputs.classifiers, inputs.reference("cpu"))
    *_, report = trainer.run()
    weights = trainer.state_dict()["generator"]
    model = export.write(tmp_path / "model", weights, trial, inputs, report.metrics, origin="", picture=None)
    by_class = scorecard(export.load(model), inputs.images, inputs.classifiers)["by_class"]["generator"]
    assert list(by_class["classifier/accuracy"]) == [f"garment {label}" for label in range(10)]
    command = ["distil", "--model", str(model), "--steps", "2", "--count", "20", "--cache", str(tmp_path / "cache")]
    assert main([*command, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["test_images"] == 2000


def test_a_factory_without_weights_is_trained_from_its_own_initialisation(images: ImageDataset, tmp_path: Path) -> None:
    config = ClassifierConfig(factory="their_nets:network", steps=30, lr=0.1)
    _, regime, folder = pretrain.obtain(config, images, tmp_path)
    assert regime["steps"] == 30 and regime["accuracy"] > 0.3
    before = torch.random.get_rng_state()
    first, second = theirs(), theirs()
    assert torch.equal(torch.random.get_rng_state(), before)
    assert torch.equal(first[1].weight, second[1].weight)  # type: ignore[index]
    other = custom.call_factory("their_nets:network", 1, (1, 28, 28))
    assert not torch.equal(first[1].weight, other[1].weight)  # type: ignore[index]
    # A folder of the cache is weights and card.
    again = ClassifierConfig(factory=config.factory, weights=str(folder / "model.safetensors"))
    assert pretrain.obtain(again, images, tmp_path)[0].samples == 100


def test_the_cache_knows_files_by_their_content(files: Files, images: ImageDataset, tmp_path: Path) -> None:
    config = files()
    first = pretrain.identity(config, images)
    moved = tmp_path / "moved"
    moved.mkdir()
    for suffix in (".safetensors", ".yaml"):
        (moved / f"net{suffix}").write_bytes((tmp_path / f"net{suffix}").read_bytes())
    assert pretrain.identity(config.model_copy(update={"weights": str(moved / "net.safetensors")}), images) == first
    assert pretrain.identity(files(samples=7), images) != first
    assert pretrain.identity(files({k: v + 1 for k, v in theirs().state_dict().items()}), images) != first
    other = files()
    (tmp_path / "their_nets.py").write_text(MODULE + "\n# changed\n")
    assert pretrain.identity(other, images) != first


def test_the_command_line_names_them(
    files: Files, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    files()
    monkeypatch.chdir(tmp_path)
    (tmp_path / "net.yaml").rename(tmp_path / "about.yaml")
    command = ["pretrain", "--cache", "cache", "--classifier", "their_nets:network", "--weights", "net.safetensors"]
    assert main(command) == 2
    assert capsys.readouterr().err.startswith("error: ")
    assert main([*command, "--card", "about.yaml"]) == 0
    assert "steps 0" in capsys.readouterr().out
    assert main(["pretrain", "--classifier", "cnv"]) == 2
    assert re.search("'cnv'.*'conv'", capsys.readouterr().err)
