"""The feature network: what it learns from, what it may judge, and that it is trained once."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from gbc.classifier_config import DatasetConfig
from gbc.data.datasets import ImageDataset, load, unused
from gbc.data.samples import tensors
from gbc.errors import BadInput, CorruptFile
from gbc.metrics import features
from gbc.metrics.features import Oracle
from tests.gbc.conftest import QUICK


def test_halves_are_disjoint_and_hold_each_class_alike() -> None:
    labels = np.array([0, 0, 1, 0, 0, 1, 1, 1], dtype=np.uint8)
    left, right = features.halves(labels)
    assert left.tolist() == [0, 2, 3, 6] and right.tolist() == [1, 4, 5, 7]


def test_without_a_full_set_the_network_learns_from_images_that_are_not_judged(images: ImageDataset, oracle: Oracle) -> None:
    assert len(oracle.judged) == len(images.test_labels) // 2
    assert np.bincount(images.test_labels[oracle.judged]).tolist() == [100] * 10
    assert oracle.trained_on.count("half") == oracle.trained_on.count("(1000)") == 2
    test, labels = tensors(images.test_images[oracle.judged], images.test_labels[oracle.judged])
    assert (oracle.network.predict(test) == labels).float().mean().item() == pytest.approx(oracle.accuracy)
    assert oracle.accuracy > 0.6


@pytest.mark.full_data
def test_with_a_full_set_it_learns_from_what_the_task_does_not_use(data_root: Path, tmp_path: Path) -> None:
    config = DatasetConfig(data_root=str(data_root))
    data, spare = load(config), unused(config)
    assert spare is not None and len(spare[1]) == 60_000 - 500
    task = {image.tobytes() for image in data.train_images}
    # Fashion-MNIST has a few images twice; more than that would be the task's own.
    assert sum(image.tobytes() in task for image in spare[0]) < 5
    feature_network = features.obtain(config, data, tmp_path, steps=QUICK)
    assert len(feature_network.judged) == 10_000 and feature_network.accuracy > 0.7
    # A task that takes nearly everything leaves nothing to learn from but test images.
    greedy = DatasetConfig(data_root=str(data_root), per_class=5900)
    assert len(features.obtain(greedy, load(greedy), tmp_path, steps=1).judged) == 5_000


def test_it_is_trained_once_and_for_each_data_set_and_budget(images: ImageDataset, oracle: Oracle, feature_cache: Path) -> None:
    config = DatasetConfig(per_class=10)
    before = {path.name for path in feature_cache.glob("fashion_mnist-features-*")}
    again = features.obtain(config, images, feature_cache, steps=QUICK)
    assert {path.name for path in feature_cache.glob("fashion_mnist-features-*")} == before
    x = images.test()[0][:4]
    assert torch.equal(again.network.features(x), oracle.network.features(x))
    features.obtain(config, images, feature_cache, steps=1)
    assert len(list(feature_cache.glob("fashion_mnist-features-*"))) == len(before) + 1


def test_a_class_with_one_test_image_is_named(images: ImageDataset, tmp_path: Path) -> None:
    """It would be in the half that the network learns from, and no image of the class would be left to judge."""
    kept = np.flatnonzero(images.test_labels != 3).tolist() + np.flatnonzero(images.test_labels == 3)[:1].tolist()
    few = replace(images, test_images=images.test_images[kept], test_labels=images.test_labels[kept])
    with pytest.raises(BadInput, match="Dress"):
        features.obtain(None, few, tmp_path, steps=1)


def test_a_damaged_network_names_the_folder_to_delete(images: ImageDataset, tmp_path: Path) -> None:
    config = DatasetConfig(per_class=10)
    features.obtain(config, images, tmp_path, steps=1)
    (folder,) = tmp_path.glob("fashion_mnist-features-*")
    (folder / "model.safetensors").write_bytes(b"cut")
    with pytest.raises(CorruptFile, match=f"{folder}.*delete"):
        features.obtain(config, images, tmp_path, steps=1)


def test_fitting_depends_on_its_arguments_alone(images: ImageDataset) -> None:
    x, y = images.train()
    first = features.fit(x, y, 10, steps=3, augment=True)
    torch.manual_seed(1)
    second = features.fit(x, y, 10, steps=3, augment=True)
    other = features.fit(x, y, 10, steps=3, augment=True, seed=1)
    assert torch.equal(first(x), second(x))
    assert not torch.equal(first(x), other(x))
    # Features come in units of their root mean square on the images the network was trained on.
    assert first.features(x).square().mean().item() == pytest.approx(1, rel=1e-5)


def test_networks_take_any_shape() -> None:
    network = features.FeatureNetwork((3, 31, 18), 4)
    assert network(torch.rand(2, 3, 31, 18)).shape == (2, 4)
    assert network.features(torch.rand(2, 3, 31, 18)).shape == (2, features.WIDTH)


def test_for_several_tasks_it_learns_from_half_of_all_test_images(images: ImageDataset, tmp_path: Path) -> None:
    feature_network = features.obtain(None, images, tmp_path, steps=1)
    assert len(feature_network.judged) == len(images.test_labels) // 2 and "half" in feature_network.trained_on
