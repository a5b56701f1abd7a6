from __future__ import annotations

import multiprocessing
import os
from pathlib import Path

import pytest
import torch

from gbc import pretrain
from gbc.config import ClassifierConfig, DatasetConfig
from gbc.datasets import ImageDataset, load
from gbc.errors import BadInput, CorruptFile, Diverged

QUICK = ClassifierConfig(hidden=16, steps=40, lr=0.1)


def test_the_regime_is_recorded_beside_the_weights(images: ImageDataset, tmp_path: Path) -> None:
    calls: list[int] = []
    classifier, regime, folder = pretrain.obtain(QUICK, images, tmp_path, lambda step, steps, loss: calls.append(step))
    assert {path.name for path in folder.iterdir()} == {"model.safetensors", "regime.json", "config.json"}
    assert calls and regime["steps"] == 40
    assert regime["accuracy"] > 0.5
    assert regime["margins"]["min"] <= regime["margins"]["q05"] <= regime["margins"]["q50"] <= regime["margins"]["q95"]
    assert classifier.samples == 100
    # Biases before BatchNorm have no effect on Φ.
    assert set(regime["residuals"]) == {
        "1.weight",
        "2.weight",
        "2.bias",
        "4.weight",
        "5.weight",
        "5.bias",
        "7.weight",
        "7.bias",
    }


def test_the_cache_is_used_and_settings_or_data_make_another_entry(images: ImageDataset, tmp_path: Path) -> None:
    first, _, folder = pretrain.obtain(QUICK, images, tmp_path)

    def never(*_: object) -> None:
        raise AssertionError("trained again")

    second, _, again = pretrain.obtain(QUICK, images, tmp_path, never)
    assert again == folder
    x = images.test()[0][:8]
    assert torch.equal(first.module(x), second.module(x))
    assert pretrain.obtain(QUICK.model_copy(update={"seed": 1}), images, tmp_path)[2] != folder
    assert pretrain.obtain(QUICK, load(DatasetConfig(per_class=5)), tmp_path)[2] != folder


def test_stored_statistics_are_those_of_the_training_set(images: ImageDataset, tmp_path: Path) -> None:
    classifier, _, _ = pretrain.obtain(QUICK, images, tmp_path)
    x, _ = images.train()
    before = classifier.module[1](x.flatten(1))  # type: ignore[index]
    torch.testing.assert_close(classifier.module[2].running_mean, before.mean(0))  # type: ignore[index]
    torch.testing.assert_close(classifier.module[2].running_var, before.var(0))  # type: ignore[index]


def test_training_to_a_tolerance_reaches_it_and_stops(images: ImageDataset) -> None:
    """With strong weight decay and no BatchNorm wd·ζ comes near −∇CE in every tensor."""
    config = ClassifierConfig(name="mlp", hidden=8, lr=0.05, weight_decay=0.05, steps=20_000, tolerance=0.5)
    _, regime = pretrain.train(config, images)
    assert regime["steps"] < 20_000
    assert max(regime["residuals"].values()) <= 0.5


def test_a_learning_rate_that_is_too_high_says_so(images: ImageDataset) -> None:
    with pytest.raises(Diverged, match="the classifier's cross-entropy"):
        pretrain.train(ClassifierConfig(name="mlp", hidden=8, lr=10, weight_decay=1.0, steps=500), images)


@pytest.mark.parametrize("file", ["model.safetensors", "regime.json"])
@pytest.mark.parametrize("fault", ["cut", "gone", "noise"])
def test_a_damaged_cache_names_the_folder_to_delete(images: ImageDataset, tmp_path: Path, file: str, fault: str) -> None:
    _, _, folder = pretrain.obtain(QUICK, images, tmp_path)
    path = folder / file
    if fault == "gone":
        path.unlink()
    else:
        path.write_bytes(path.read_bytes()[:50] if fault == "cut" else os.urandom(200))
    with pytest.raises(CorruptFile, match=r"the cached classifier is damaged .*; delete the folder") as caught:
        pretrain.obtain(QUICK, images, tmp_path)
    assert str(folder) in str(caught.value) and "\n" not in str(caught.value)


def test_a_cache_that_cannot_be_written_is_named(images: ImageDataset, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(BadInput, match="file: cannot be written"):
        pretrain.obtain(QUICK, images, tmp_path / "file")


def _ask(cache: Path, log: Path) -> None:
    torch.set_num_threads(1)
    data = load(DatasetConfig(per_class=10))

    def trained(step: int, steps: int, loss: float) -> None:
        if step == steps:
            with log.open("a") as file:
                file.write(f"{os.getpid()}\n")

    classifier, _, _ = pretrain.obtain(QUICK.model_copy(update={"steps": 400}), data, cache, trained)
    classifier.module(data.test()[0][:2])


def test_processes_that_ask_at_once_train_once(tmp_path: Path) -> None:
    spawn = multiprocessing.get_context("spawn")
    processes = [spawn.Process(target=_ask, args=(tmp_path / "cache", tmp_path / "log")) for _ in range(3)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(120)
    assert [process.exitcode for process in processes] == [0, 0, 0]
    assert len((tmp_path / "log").read_text().splitlines()) == 1
