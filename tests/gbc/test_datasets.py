from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from gbc import datasets
from gbc.config import DatasetConfig
from gbc.errors import BadInput, CorruptFile


@pytest.mark.parametrize("name", datasets.DATASETS)
def test_every_data_set_loads_the_papers_task_without_a_network(name: str) -> None:
    data = datasets.load(DatasetConfig(name=name))
    assert np.bincount(data.train_labels).tolist() == [50] * 10
    assert np.bincount(data.test_labels).tolist() == [200] * 10
    images, labels = data.train()
    assert images.shape == (500, *data.shape) and labels.shape == (500,)
    assert images.min() == 0 and images.max() == 1
    assert len(data.class_names) == 10
    assert (datasets.ASSETS / f"{name}.NOTICE").exists()


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
    with pytest.raises(CorruptFile, match=r"mnist\.npz\.xz: the content does not match SHA256SUMS"):
        datasets.load(DatasetConfig(name="mnist"))


def test_a_missing_shipped_file_is_named(assets: Path) -> None:
    (assets / "mnist.npz.xz").unlink()
    with pytest.raises(BadInput, match=r"mnist\.npz\.xz: cannot be read"):
        datasets.load(DatasetConfig(name="mnist"))


def test_an_unknown_name_gets_a_suggestion() -> None:
    with pytest.raises(BadInput, match=r"unknown dataset 'fashion_mnits'; did you mean 'fashion_mnist'\?"):
        datasets.load(DatasetConfig(name="fashion_mnits"))


def test_more_images_than_are_shipped_need_the_full_set() -> None:
    with pytest.raises(BadInput, match=r"per_class is 51, but the shipped mnist has 50 .* --data-root"):
        datasets.load(DatasetConfig(name="mnist", per_class=51))


def test_a_data_root_without_the_set_says_what_was_expected(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"no FashionMNIST under .*; add --download"):
        datasets.load(DatasetConfig(data_root=str(tmp_path)))


@pytest.mark.parametrize("content", [b"", b"\x00\x00\x08\x03\x00\x00", b"not an idx file at all"])
def test_a_damaged_full_set_is_named(tmp_path: Path, content: bytes) -> None:
    raw = tmp_path / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for split in ("train", "t10k"):
        for kind in ("images-idx3", "labels-idx1"):
            (raw / f"{split}-{kind}-ubyte").write_bytes(content)
    with pytest.raises(CorruptFile, match="MNIST: damaged"):
        datasets.load(DatasetConfig(name="mnist", data_root=str(tmp_path)))


@pytest.mark.full_data
@pytest.mark.parametrize("name", datasets.DATASETS)
def test_the_shipped_files_can_be_recreated_byte_for_byte(name: str, data_root: Path, tmp_path: Path) -> None:
    built = datasets.build(name, data_root, tmp_path)
    assert built.read_bytes() == (datasets.ASSETS / built.name).read_bytes()


@pytest.mark.full_data
def test_the_full_set_gives_the_same_training_images_and_all_test_images(data_root: Path) -> None:
    shipped, full = (datasets.load(DatasetConfig(data_root=root)) for root in (None, str(data_root)))
    assert (shipped.train_images == full.train_images).all()
    assert len(full.test_images) == 10_000
    assert len(datasets.load(DatasetConfig(data_root=str(data_root), per_class=60)).train_images) == 600
