from __future__ import annotations

import math
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits

from gbc.classifier_config import ClassifierConfig, DatasetConfig
from gbc.classifiers import pretrain
from gbc.data import datasets
from gbc.data.datasets import ImageDataset, PointDataset
from gbc.errors import BadInput, CorruptFile
from tests.support import missing
from tests.support.celeba_tree import plant


def digits_as_npz(folder: Path) -> Path:
    digits = load_digits()
    np.savez(folder / "digits.npz", images=(digits.images * 15).astype(np.uint8), labels=digits.target)
    return folder / "digits.npz"


@pytest.mark.parametrize("name", datasets.DATASETS)
def test_every_data_set_is_a_task_that_networks_take(name: str, tmp_path: Path) -> None:
    root = str(plant(tmp_path, train=50).parent) if name == "celeba" else None
    path = str(digits_as_npz(tmp_path)) if name == "images" else None
    data = datasets.load(DatasetConfig(name=name, data_root=root, path=path))
    assert data.name == name
    assert np.bincount(data.train_labels).tolist() == [50] * len(data.class_names)
    assert np.bincount(data.test_labels).min() > 0
    for images, labels in (data.train(), data.test()):
        assert images.shape == (len(labels), *data.shape) and images.dtype == torch.float32 and images.is_contiguous()
        assert images.min() >= 0 and 0.5 < images.max() <= 1
    assert data.shape[1] % 4 == data.shape[2] % 4 == 0  # what the generator can make
    train = {image.tobytes() for image in data.train_images}
    assert not train & {image.tobytes() for image in data.test_images}


@pytest.mark.parametrize("name", datasets.SHIPPED)
def test_what_ships_is_the_papers_task(name: str) -> None:
    data = datasets.load(DatasetConfig(name=name))
    assert np.bincount(data.train_labels).tolist() == [50] * 10
    assert np.bincount(data.test_labels).tolist() == [200] * 10
    assert data.train_images.min() == 0 and data.train_images.max() == 255
    assert len(data.class_names) == 10
    assert (datasets.ASSETS / f"{name}.NOTICE").exists()


def test_digits_and_faces_are_cut_in_two() -> None:
    digits, faces = (datasets.load(DatasetConfig(name=name)) for name in ("digits", "lfw_faces"))
    assert digits.shape == (1, 8, 8) and len(digits.train_labels) + len(digits.test_labels) == 1797
    assert faces.shape == (1, 32, 32) and faces.class_names == ("no face", "face")
    assert np.bincount(faces.test_labels).tolist() == [50, 50]
    # All faces are cut alike, so they differ less from each other than arbitrary pieces of pictures do.
    spread = [faces.train_images[faces.train_labels == label].std(axis=0).mean() for label in (0, 1)]
    assert spread[1] < spread[0]


@pytest.mark.parametrize("name", ["digits", "lfw_faces"])
def test_a_smaller_task_of_a_bundled_set_is_part_of_a_larger_one(name: str) -> None:
    small, large = (datasets.load(DatasetConfig(name=name, per_class=size)) for size in (3, 50))
    for label in range(len(small.class_names)):
        assert (small.train_images[small.train_labels == label] == large.train_images[large.train_labels == label][:3]).all()


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"name": "lfw_faces", "per_class": 101}, ["per_class", "101", "no face", "100 images"]),
        ({"name": "lfw_faces", "per_class": 100}, ["lfw_faces: ", "test", "no face", "per_class"]),
        ({"name": "digits", "per_class": 175}, ["per_class", "175", "class 8", "174 images"]),
        ({"name": "digits", "data_root": "x"}, ["digits", "scikit-learn", "data_root"]),
        ({"name": "lfw_faces", "data_root": "x"}, ["lfw_faces", "scikit-image", "data_root"]),
        ({"name": "mnist", "attribute": "Male"}, ["dataset.attribute", "celeba", "mnist"]),
        ({"name": "mnist", "part": 1}, ["dataset.part", "circle", "mnist"]),
        ({"name": "lfw_faces", "classes": (1, 2)}, ["lfw_faces", "class 2;", "0 no face, 1 face"]),
        ({"name": "circle", "classes": (0, 3)}, ["circle", "class 3;", "0 class 1, 1 class 2, 2 class 3"]),
        ({"name": "circle", "per_class": 7}, ["per_class", " 7,", "6 points"]),
        ({"name": "circle", "data_root": "x"}, ["circle", "data_root"]),
    ],
)
def test_settings_that_do_not_fit_a_data_set_are_refused(settings: dict[str, Any], named: list[str]) -> None:
    with pytest.raises(BadInput) as caught:
        datasets.load_any(DatasetConfig(**settings))
    assert not missing(named, caught.value)
    assert "\n" not in str(caught.value)


def test_some_classes_are_numbered_anew_and_keep_their_names_and_images() -> None:
    whole, part = (datasets.load(DatasetConfig(name="mnist", classes=classes)) for classes in (None, (5, 6, 7, 8, 9)))
    assert part.class_names == ("5", "6", "7", "8", "9")
    assert np.bincount(part.train_labels).tolist() == [50] * 5 and np.bincount(part.test_labels).tolist() == [200] * 5
    for label in range(5):
        for split in ("train", "test"):
            ours, theirs = getattr(part, f"{split}_images"), getattr(whole, f"{split}_images")
            chosen = theirs[getattr(whole, f"{split}_labels") == label + 5]
            assert (ours[getattr(part, f"{split}_labels") == label] == chosen).all()


def test_classes_are_numbered_in_the_order_they_are_named() -> None:
    data = datasets.load(DatasetConfig(name="digits", classes=(7, 2), per_class=5))
    whole = datasets.load(DatasetConfig(name="digits", per_class=5))
    assert data.class_names == ("7", "2")
    assert (data.train_images[data.train_labels == 0] == whole.train_images[whole.train_labels == 7]).all()


def test_a_class_that_is_left_out_may_be_too_small() -> None:
    assert len(datasets.load(DatasetConfig(name="digits", per_class=175, classes=(0, 1))).train_labels) == 350


def test_colour_comes_first_for_networks() -> None:
    pixels = np.arange(2 * 4 * 8 * 3, dtype=np.uint8).reshape(2, 4, 8, 3)
    data = ImageDataset("x", ("a", "b"), pixels, np.array([0, 1], np.uint8), pixels[:1], np.zeros(1, np.uint8))
    images, _ = data.train()
    assert data.shape == (3, 4, 8) and images.shape == (2, 3, 4, 8)
    assert images[1, 2, 3, 7].item() == pytest.approx(pixels[1, 3, 7, 2] / 255)


def test_the_circle_is_18_points_whose_classes_take_turns() -> None:
    data = datasets.load_any(DatasetConfig(name="circle"))
    assert isinstance(data, PointDataset) and data.shape == (2,)
    points, labels = data.train()
    assert labels.tolist() == [0, 1, 2] * 6
    torch.testing.assert_close(points.norm(dim=1), torch.ones(18))
    gaps = (points - points.roll(1, 0)).norm(dim=1)
    torch.testing.assert_close(gaps, torch.full((18,), 2 * math.sin(math.pi / 18)))  # chords of a regular 18-gon


def test_the_halves_of_the_circle_are_every_second_point() -> None:
    whole, *halves = (datasets.load_any(DatasetConfig(name="circle", part=part)) for part in (None, 1, 2))
    for start, half in enumerate(halves):
        assert isinstance(half, PointDataset) and isinstance(whole, PointDataset)
        assert (half.train_points == whole.train_points[start::2]).all()
        assert half.train_labels.tolist() == [0, 2, 1] * 3 if start == 0 else [1, 0, 2] * 3
    assert len({data.digest() for data in (whole, *halves)}) == 3


def test_points_are_no_images() -> None:
    with pytest.raises(BadInput, match=r"circle .*points.*celeba, digits"):
        datasets.load(DatasetConfig(name="circle"))


def test_a_classifier_learns_the_circle(tmp_path: Path) -> None:
    data = datasets.load_any(DatasetConfig(name="circle"))
    classifier, regime, _ = pretrain.obtain(ClassifierConfig(hidden=32, steps=300, lr=0.1), data, tmp_path)
    assert regime["accuracy"] == 1 and classifier.shape == (2,) and classifier.samples == 18


def test_only_what_ships_can_be_built(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"'digits' .*fashion_mnist"):
        datasets.build("digits", tmp_path, tmp_path)


def test_the_shipped_fashion_mnist_is_the_one_that_was_measured() -> None:
    assert datasets.load(DatasetConfig()).digest() == "8b53813561203c98"


def test_a_smaller_task_is_part_of_a_larger_one() -> None:
    small, large = (datasets.load(DatasetConfig(per_class=size)) for size in (3, 50))
    for label in range(10):
        theirs = large.train_images[large.train_labels == label][:3]
        assert (small.train_images[small.train_labels == label] == theirs).all()


def test_subsets_do_not_depend_on_numpys_choice_of_algorithm() -> None:
    labels = np.array([0, 1] * 10, dtype=np.uint8)
    keys = np.random.PCG64(0).random_raw(20)
    expected = [sorted(np.flatnonzero(labels == label), key=lambda i: keys[i])[:2] for label in (0, 1)]
    assert datasets.subset(labels, 2).tolist() == np.concatenate(expected).tolist()


@pytest.fixture
def assets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    copy = tmp_path / "assets"
    shutil.copytree(datasets.ASSETS, copy)
    monkeypatch.setattr(datasets, "ASSETS", copy)
    return copy


def test_a_changed_byte_in_a_shipped_file_is_noticed(assets: Path) -> None:
    path = assets / "mnist.npz.xz"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(CorruptFile, match=r"mnist\.npz\.xz: .*SHA256SUMS"):
        datasets.load(DatasetConfig(name="mnist"))


def test_a_missing_shipped_file_is_named(assets: Path) -> None:
    (assets / "mnist.npz.xz").unlink()
    with pytest.raises(BadInput, match=r"mnist\.npz\.xz: .*No such file"):
        datasets.load(DatasetConfig(name="mnist"))


def test_an_unknown_name_gets_a_suggestion() -> None:
    with pytest.raises(BadInput, match=r"unknown dataset 'fashion_mnits'; did you mean 'fashion_mnist'\?"):  # golden
        datasets.load(DatasetConfig(name="fashion_mnits"))


def test_more_images_than_are_shipped_need_the_full_set() -> None:
    with pytest.raises(BadInput, match=r"per_class is 51, but the shipped mnist has 50 .* --data-root"):  # golden
        datasets.load(DatasetConfig(name="mnist", per_class=51))


def test_a_data_root_without_the_set_says_what_was_expected(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=f"FashionMNIST.*{tmp_path}.*--download"):
        datasets.load(DatasetConfig(data_root=str(tmp_path)))


@pytest.mark.parametrize("content", [b"", b"\x00\x00\x08\x03\x00\x00", b"not an idx file at all"])
def test_a_damaged_full_set_is_named(tmp_path: Path, content: bytes) -> None:
    raw = tmp_path / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for split in ("train", "t10k"):
        for kind in ("images-idx3", "labels-idx1"):
            (raw / f"{split}-{kind}-ubyte").write_bytes(content)
    with pytest.raises(CorruptFile, match="MNIST: "):
        datasets.load(DatasetConfig(name="mnist", data_root=str(tmp_path)))


@pytest.mark.full_data
@pytest.mark.parametrize("name", datasets.SHIPPED)
def test_the_shipped_files_can_be_recreated_byte_for_byte(name: str, data_root: Path, tmp_path: Path) -> None:
    built = datasets.build(name, data_root, tmp_path)
    assert built.read_bytes() == (datasets.ASSETS / built.name).read_bytes()


@pytest.mark.full_data
def test_the_full_set_gives_the_same_training_images_and_all_test_images(data_root: Path) -> None:
    shipped, full = (datasets.load(DatasetConfig(data_root=root)) for root in (None, str(data_root)))
    assert (shipped.train_images == full.train_images).all()
    assert len(full.test_images) == 10_000
    assert len(datasets.load(DatasetConfig(data_root=str(data_root), per_class=60)).train_images) == 600


@pytest.mark.full_data
def test_some_classes_of_the_full_set_are_those_of_the_shipped_one(data_root: Path) -> None:
    shipped, full = (
        datasets.load(DatasetConfig(name="mnist", classes=(3, 8), data_root=root)) for root in (None, str(data_root))
    )
    assert (shipped.train_images == full.train_images).all() and (shipped.train_labels == full.train_labels).all()
    assert full.class_names == ("3", "8") and len(full.test_images) == 1010 + 974
