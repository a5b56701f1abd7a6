"""The user's own images, in folders and in .npz files: real files, and one line for each fault."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from gbc.classifier_config import DatasetConfig
from gbc.data import datasets
from gbc.data.datasets import ImageDataset
from gbc.errors import BadInput, CorruptFile

CLASSES = ("cats & dogs", "größe")


def plant(
    folder: Path, count: int = 6, size: tuple[int, int] = (12, 8), mode: str = "L", classes: tuple[str, ...] = CLASSES
) -> Path:
    """`count` PNGs a class; every pixel of image i of class c is 100·c + i."""
    for label, name in enumerate(classes):
        (folder / name).mkdir(parents=True, exist_ok=True)
        for index in range(count):
            Image.new(mode, size, 100 * label + index if mode == "L" else (100 * label + index, 7, 9)).save(
                folder / name / f"{index}.png"
            )
    return folder


def load(path: Path, **settings: Any) -> ImageDataset:
    return datasets.load(DatasetConfig(name="images", path=str(path), **{"per_class": 4, **settings}))


def test_a_folder_of_classes_is_split_by_the_seed(tmp_path: Path) -> None:
    data = load(plant(tmp_path))
    assert data.class_names == CLASSES and data.shape == (1, 8, 12)
    assert data.train_images.shape == (8, 8, 12) and data.test_images.shape == (4, 8, 12)
    for label in (0, 1):
        values = [set(images[labels == label, 0, 0]) for images, labels in (
            (data.train_images, data.train_labels), (data.test_images, data.test_labels))]  # fmt: skip
        assert values[0] | values[1] == {100 * label + index for index in range(6)} and not values[0] & values[1]
    assert load(tmp_path).digest() == data.digest() != load(tmp_path, per_class=3).digest()


@pytest.mark.parametrize("name", ["test", "val", "valid"])
def test_folders_may_say_the_split(name: str, tmp_path: Path) -> None:
    plant(tmp_path / "train", 5, mode="RGB")
    plant(tmp_path / name, 3, mode="RGB")
    data = load(tmp_path)
    assert data.shape == (3, 8, 12) and len(data.train_labels) == 8 and len(data.test_labels) == 6


def test_images_of_any_size_are_cut_and_resized(tmp_path: Path) -> None:
    plant(tmp_path, 6, (30, 21))
    Image.new("L", (200, 50)).save(tmp_path / CLASSES[0] / "wide.png")
    Image.new("LA", (9, 9)).save(tmp_path / CLASSES[1] / "small.png")
    assert load(tmp_path, resize=16, per_class=6).shape == (1, 16, 16)


def test_sixteen_bits_a_pixel_become_eight(tmp_path: Path) -> None:
    """Pillow alone would take every value above 255 for white."""
    plant(tmp_path)
    for index in range(6):
        Image.fromarray(np.full((8, 12), 257 * (10 + index), np.uint16)).save(tmp_path / CLASSES[0] / f"{index}.png")
    data = load(tmp_path, per_class=5)
    both = np.concatenate([data.train_images[data.train_labels == 0], data.test_images[data.test_labels == 0]])
    assert sorted(both[:, 0, 0]) == [10, 11, 12, 13, 14, 15]
    assert load(tmp_path, resize=8).train_images.max() < 110


@pytest.mark.parametrize("layout", ["[N, H, W]", "[N, H, W, 1]", "[N, H, W, 3]", "[N, 3, H, W]", "MedMNIST"])
def test_an_npz(layout: str, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    shape = {"[N, H, W]": (8, 12), "[N, H, W, 1]": (8, 12, 1), "[N, 3, H, W]": (3, 8, 12)}.get(layout, (8, 12, 3))
    pictures, labels = rng.integers(0, 256, (12, *shape), dtype=np.uint8), np.arange(12) % 2
    path = tmp_path / "set.npz"
    if layout == "MedMNIST":
        parts = {f"{part}_{kind}": array for part in ("train", "val", "test") for kind, array in (
            ("images", pictures), ("labels", labels[:, None]))}  # fmt: skip
        np.savez(path, **parts)
    else:
        np.savez(path, images=pictures, labels=labels, class_names=["no", "yes"])
    data = load(path)
    assert data.shape == (1 if shape[-1] in (1, 12) and shape[0] != 3 else 3, 8, 12)
    assert data.class_names == (("0", "1") if layout == "MedMNIST" else ("no", "yes"))
    assert len(data.train_labels) == 8 and len(data.test_labels) == (12 if layout == "MedMNIST" else 4)
    first = data.train_images[0]
    channels_last = pictures.transpose(0, 2, 3, 1) if layout == "[N, 3, H, W]" else pictures
    assert any(np.array_equal(first, picture.squeeze()) for picture in channels_last)


def spoil(kind: str, root: Path) -> None:
    folder = root / CLASSES[0]
    match kind:
        case "sizes":
            Image.new("L", (8, 8)).save(folder / "0.png")
        case "colours":
            Image.new("RGB", (12, 8)).save(folder / "0.png")
        case "sides":
            plant(root, size=(13, 8))
        case "corrupt":
            for path in folder.iterdir():
                path.write_bytes(path.read_bytes()[:40])
        case "empty":
            for path in folder.iterdir():
                path.rename(path.with_suffix(".txt"))
        case "link":
            outside = plant(root.with_name("outside"))
            (root / "linked").symlink_to(outside / CLASSES[0])
        case "one class":
            (root / CLASSES[1]).rename(root.with_name("away"))
        case "split":
            plant(root / "train")
            plant(root / "test", classes=(CLASSES[0], "other"))
        case "few":
            (folder / "0.png").unlink()
        case "floats":
            Image.fromarray(np.full((8, 12), 0.5, np.float32)).save(folder / "0.tif")
        case "tiny":
            plant(root, size=(4, 4))


@pytest.mark.parametrize(
    ("kind", "named"),
    [
        ("sizes", "dataset.resize"), ("colours", "coloured"), ("sides", "multiples of 4"), ("corrupt", "not a readable image"),
        ("empty", CLASSES[0]), ("link", "linked"), ("one class", "found 1"), ("split", "'other'"), ("few", CLASSES[0]),
        ("floats", "0.tif: 32 bits"), ("tiny", "at least 8"),
    ],
)  # fmt: skip
def test_a_fault_in_a_folder_is_named(kind: str, named: str, tmp_path: Path) -> None:
    root = plant(tmp_path / "mine")
    spoil(kind, root)
    with pytest.raises(CorruptFile if kind == "corrupt" else BadInput) as caught:
        load(root, per_class=6 if kind == "few" else 5)
    assert named in str(caught.value) and "\n" not in str(caught.value)


GOOD: dict[str, Any] = {"images": np.zeros((12, 8, 8), np.uint8), "labels": np.arange(12) % 2}


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"images": np.zeros((12, 8, 8))}, "float64"),
        ({"images": np.zeros((12, 8, 8, 5), np.uint8)}, "5 channels"),
        ({"images": np.zeros((12, 9, 8), np.uint8)}, "8×9"),
        ({"images": np.zeros((12, 8, 4), np.uint8)}, "at least 8"),
        ({"labels": np.arange(12) % 2 + 1}, "no image has label 0"),
        ({"labels": np.arange(12) % 2 * 300}, "300"),
        ({"labels": np.arange(11)}, "[11]"),
        ({"labels": np.zeros(12)}, "float64"),
        ({"class_names": ["a"]}, "1 class_names"),
        ({"labels": None, "marks": np.zeros(3)}, "marks"),
        ({"class_names": np.array([{}, {}], dtype=object)}, "objects"),
    ],
)
def test_a_fault_in_an_npz_is_named(changes: dict[str, Any], named: str, tmp_path: Path) -> None:
    path = tmp_path / "set.npz"
    np.savez(path, **{name: array for name, array in {**GOOD, **changes}.items() if array is not None})
    with pytest.raises(BadInput) as caught:
        load(path)
    assert named in str(caught.value) and str(path) in str(caught.value) and "\n" not in str(caught.value)


def test_what_is_not_there_or_no_npz_is_named(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="--images"):
        datasets.load(DatasetConfig(name="images"))
    with pytest.raises(BadInput, match="no such folder"):
        load(tmp_path / "nowhere")
    (tmp_path / "set.npz").write_bytes(b"PK\x03\x04 cut short")
    with pytest.raises(CorruptFile, match=r"set\.npz"):
        load(tmp_path / "set.npz")
    with pytest.raises(BadInput, match=r"dataset\.path"):
        datasets.load(DatasetConfig(path="x"))
