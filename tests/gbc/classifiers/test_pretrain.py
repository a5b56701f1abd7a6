from __future__ import annotations

import copy
import multiprocessing
import os
from dataclasses import replace
from multiprocessing.synchronize import Barrier
from pathlib import Path
from typing import Literal

import pytest
import torch
from torch import nn

from gbc import losses
from gbc.classifier_config import ClassifierConfig, DatasetConfig
from gbc.classifiers import architectures, convergence, fit, pretrain
from gbc.data.datasets import ImageDataset, load
from gbc.errors import BadInput, CorruptFile, Diverged

QUICK = ClassifierConfig(hidden=16, steps=40, lr=0.1)


def test_the_regime_is_recorded_beside_the_weights(images: ImageDataset, tmp_path: Path) -> None:
    calls: list[int] = []
    classifier, regime, folder = pretrain.obtain(QUICK, images, tmp_path, lambda step, steps, loss: calls.append(step))
    assert {path.name for path in folder.iterdir()} == {"model.safetensors", "model.yaml", "regime.json", "config.json"}
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


def test_a_setting_that_came_later_leaves_the_names_of_cached_classifiers_as_they_were() -> None:
    """The names are those from before `decay` was a setting, so that the classifiers of users are not trained again."""
    digits = load(DatasetConfig(name="digits"))
    mlp = ClassifierConfig(name="mlp", optimiser="converge", hidden=64)
    names = [pretrain.identity(config, digits) for config in (ClassifierConfig(), mlp)]
    assert names == ["68726d4e44daa8c5", "f39134b61374d6b8"]
    assert pretrain.identity(ClassifierConfig(decay="not_scale_invariant"), digits) == names[0]
    assert pretrain.identity(ClassifierConfig(decay="all"), digits) not in names
    assert pretrain.identity(ClassifierConfig(first_scale=0.5), digits) not in names


def test_stored_statistics_are_those_of_the_training_set(images: ImageDataset, tmp_path: Path) -> None:
    classifier, _, _ = pretrain.obtain(QUICK, images, tmp_path)
    x, _ = images.train()
    before = classifier.module[1](x.flatten(1))  # type: ignore[index]
    torch.testing.assert_close(classifier.module[2].running_mean, before.mean(0))  # type: ignore[index]
    torch.testing.assert_close(classifier.module[2].running_var, before.var(0))  # type: ignore[index]


def test_a_large_training_set_is_passed_in_parts_with_all_classes(
    images: ImageDataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The images are in the order of their labels; the first layer's statistics do not depend on how they are cut."""
    config = ClassifierConfig(hidden=8, steps=20, lr=0.1)
    whole, regime = pretrain.train(config, images)
    monkeypatch.setattr(convergence, "AT_ONCE", 30)  # four parts of 25 images
    cut, of_some = pretrain.train(config, images)
    torch.testing.assert_close(cut.state_dict()["2.running_mean"], whole.state_dict()["2.running_mean"])
    torch.testing.assert_close(cut.state_dict()["2.running_var"], whole.state_dict()["2.running_var"], rtol=0.1, atol=0.1)
    x, labels = images.train()
    assert of_some["accuracy"] == pytest.approx(convergence.diagnose(whole, x[::4], labels[::4], 1e-4)["accuracy"])
    assert set(of_some["residuals"]) == set(regime["residuals"])


def test_training_to_a_tolerance_reaches_it_and_stops(images: ImageDataset) -> None:
    """wd·ζ comes near −∇CE in every tensor under strong weight decay and without BatchNorm."""
    config = ClassifierConfig(name="mlp", hidden=8, lr=0.05, weight_decay=0.05, steps=20_000, tolerance=0.5)
    _, regime = pretrain.train(config, images)
    assert regime["steps"] < 20_000
    assert max(regime["residuals"].values()) <= 0.5


def test_mini_batches_fit_the_training_set_and_are_drawn_from_the_seed(images: ImageDataset) -> None:
    config = ClassifierConfig(name="mlp", hidden=16, optimiser="sgd", lr=0.05, steps=100)
    calls: list[tuple[int, int]] = []
    first, regime = pretrain.train(config, images, lambda step, steps, loss: calls.append((step, steps)))
    assert regime["accuracy"] > 0.9 and regime["steps"] == 100 and calls == [(100, 100)]
    second, _ = pretrain.train(config, images)
    assert all(torch.equal(p, q) for p, q in zip(first.parameters(), second.parameters(), strict=True))
    start = architectures.build(config, images.shape, 10)
    other, again = (copy.deepcopy(start) for _ in range(2))
    for module, seed in ((other, 1), (again, 0)):
        fit.stochastic(module, *images.train(), config.model_copy(update={"seed": seed, "steps": 1}), None)
    assert not torch.equal(next(other.parameters()), next(again.parameters()))
    with pytest.raises(Diverged):
        pretrain.train(config.model_copy(update={"lr": 10.0, "weight_decay": 1.0}), images)


CONVERGE = ClassifierConfig(
    name="mlp", hidden=8, optimiser="converge", lr=0.1, weight_decay=0.1, steps=400, polish=200, tolerance=0.1
)


def test_converge_reaches_the_minimum_of_a_smooth_objective(images: ImageDataset) -> None:
    """Softmax regression is convex: one tolerance for all, far below what gradient descent reaches."""
    x, y = images.train()
    module = nn.Sequential(nn.Flatten(), nn.Linear(784, 10))
    config = CONVERGE.model_copy(update={"weight_decay": 1e-2, "tolerance": 1e-4})
    steps = fit.converge(module, x, y, config, None)
    diagnosis = convergence.diagnose(module, x, y, config.weight_decay)
    assert max(diagnosis["residuals"].values()) <= config.tolerance
    assert min(diagnosis["cosines"].values()) > 1 - 1e-6  # a residual of 1e-4 makes 5e-9; float32 rounds by 1e-7
    assert config.steps < steps < config.steps + config.polish


def test_converge_comes_near_a_stationary_point_with_relu(images: ImageDataset) -> None:
    """Minima often lie on a ReLU's kink, where ∇L jumps: some tenths of a residual stay, and gradient descent has more."""
    module, regime = pretrain.train(CONVERGE, images)
    assert max(regime["residuals"].values()) <= CONVERGE.tolerance
    assert min(regime["cosines"].values()) > 0.99
    # The difference of ‖w_in‖² + b² and ‖w_out‖² does not feel the kinks: weight decay shrinks it by (1 − lr·wd)² a step.
    assert set(regime["imbalance"]) == {"1", "3"}
    assert max(regime["imbalance"].values()) < 1e-3
    assert not module.training and next(module.parameters()).dtype == torch.float32
    descended, at_most = regime["steps"], CONVERGE.steps + CONVERGE.polish
    _, plain = pretrain.train(CONVERGE.model_copy(update={"optimiser": "gd", "steps": at_most, "tolerance": 0.0}), images)
    assert CONVERGE.steps <= descended <= at_most
    assert max(plain["residuals"].values()) > max(regime["residuals"].values())


def test_converge_asks_no_decay_of_scale_invariant_weights(images: ImageDataset) -> None:
    """Weights before BatchNorm: ∇CE = 0, and their norm stays near that of their start instead of shrinking."""
    config = CONVERGE.model_copy(update={"name": "mlp_bn", "weight_decay": 0.01, "polish": 400})
    start = architectures.build(config, images.shape, 10)
    module, regime = pretrain.train(config, images)
    before, after = dict(start.named_parameters()), dict(module.named_parameters())
    for name in ("1.weight", "4.weight"):
        assert after[name].norm() > 0.99 * before[name].norm()  # gradients are orthogonal to them: they only grow
        assert regime["residuals"][name] < 0.5  # ReLU's kinks again
    assert set(regime["cosines"]) == {"2.weight", "2.bias", "5.weight", "5.bias", "7.weight", "7.bias"}


def two_classes(images: ImageDataset) -> ImageDataset:
    keep = images.train_labels < 2
    return replace(
        images, class_names=images.class_names[:2],
        train_images=images.train_images[keep], train_labels=images.train_labels[keep],
    )  # fmt: skip


@pytest.mark.parametrize("optimiser", ["gd", "converge"])
def test_a_scalar_classifier_learns_two_classes_by_the_exponential_loss(
    images: ImageDataset, tmp_path: Path, optimiser: Literal["gd", "converge"]
) -> None:
    config = ClassifierConfig(
        name="mlp", hidden=8, loss="exponential", optimiser=optimiser, lr=0.05, weight_decay=0.01, steps=300, polish=100
    )
    data = two_classes(images)
    classifier, regime, _ = pretrain.obtain(config, data, tmp_path)
    x, y = data.train()
    outputs = classifier.module(x)
    assert outputs.shape == (20, 1)
    assert regime["accuracy"] == 1.0 and regime["margins"]["min"] > 0
    assert ((outputs.squeeze(1) > 0) == (y == 1)).all()
    assert regime["loss"] == pytest.approx(losses.exponential(outputs, y).item(), rel=1e-5)


def test_the_exponential_loss_is_for_two_classes(images: ImageDataset) -> None:
    with pytest.raises(BadInput, match=r"classifier\.loss .*exponential.*two.*10"):
        pretrain.train(ClassifierConfig(loss="exponential"), images)


@pytest.mark.parametrize("optimiser", ["gd", "converge"])
def test_a_learning_rate_that_is_too_high_says_so(images: ImageDataset, optimiser: Literal["gd", "converge"]) -> None:
    config = ClassifierConfig(name="mlp", hidden=8, lr=10, weight_decay=1.0, steps=500, optimiser=optimiser)
    with pytest.raises(Diverged, match="cross-entropy"):
        pretrain.train(config, images)


@pytest.mark.parametrize("file", ["model.safetensors", "model.yaml", "regime.json"])
@pytest.mark.parametrize("fault", ["cut", "gone", "noise"])
def test_a_damaged_cache_names_the_folder_to_delete(images: ImageDataset, tmp_path: Path, file: str, fault: str) -> None:
    _, _, folder = pretrain.obtain(QUICK, images, tmp_path)
    path = folder / file
    if fault == "gone":
        path.unlink()
    else:
        path.write_bytes(path.read_bytes()[:50] if fault == "cut" else os.urandom(200))
    with pytest.raises(CorruptFile, match="delete") as caught:
        pretrain.obtain(QUICK, images, tmp_path)
    assert str(folder) in str(caught.value) and "\n" not in str(caught.value)


def test_a_cache_that_cannot_be_written_is_named(images: ImageDataset, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(BadInput, match="file: "):
        pretrain.obtain(QUICK, images, tmp_path / "file")


def _ask(cache: Path, log: Path, together: Barrier) -> None:
    torch.set_num_threads(1)
    data = load(DatasetConfig(per_class=10))

    def trained(step: int, steps: int, loss: float) -> None:
        if step == steps:
            with log.open("a") as file:
                file.write(f"{os.getpid()}\n")

    together.wait(120)
    classifier, _, _ = pretrain.obtain(QUICK.model_copy(update={"steps": 400}), data, cache, trained)
    classifier.module(data.test()[0][:2])


def test_processes_that_ask_at_once_train_once(tmp_path: Path) -> None:
    spawn = multiprocessing.get_context("spawn")
    arguments = tmp_path / "cache", tmp_path / "log", spawn.Barrier(2)
    other = spawn.Process(target=_ask, args=arguments)
    other.start()
    _ask(*arguments)
    other.join(120)
    assert other.exitcode == 0
    assert len((tmp_path / "log").read_text().splitlines()) == 1
