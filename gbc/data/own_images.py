"""The user's own images: a folder with one folder for each class, or an .npz file.

    faces/no face/…  faces/face/…                    the first `per_class` of each class train, others test
    faces/train/no face/…  faces/test/no face/…      split as it lies there; `val` and `valid` stand for `test`

An .npz holds `images` and `labels`, or `train_images`, `train_labels`, `test_images` and `test_labels` as MedMNIST has them
(its `val_` arrays are left out), and `class_names` if classes have names. Images are uint8 [N, H, W], [N, H, W, C] or
[N, C, H, W]. Image files of 16 bits a pixel become ones of 8 bits: 65,535 is white.
"""

from __future__ import annotations

import os
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np
from numpy.typing import NDArray

from gbc.classifier_config import DatasetConfig
from gbc.data.samples import (
    MOST_CLASSES,
    SIDE_STEP,
    ImageDataset,
    Labels,
    Split,
    centred_square,
    hold_out,
    subset,
    task_classes,
    task_dataset,
)
from gbc.errors import BadInput, CorruptFile

if TYPE_CHECKING:
    from PIL import Image

SUFFIXES: Final = (".bmp", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp")
TEST_PER_CLASS: Final = 200
"""At most so many test images of each class are read: every worker of a sweep decodes them."""
_TEST_FOLDERS: Final = ("test", "val", "valid")
_GREY: Final = ("1", "L", "LA")
_LEAST: Final = 8
"""The smallest side with a 7×7 window for SSIM."""


def images(config: DatasetConfig) -> ImageDataset:
    """The images at `config.path`; with `config.resize` each is its largest centred square, resized bilinearly to that side.

    Raises:
        BadInput: no path, an unknown layout, sizes or colours that are mixed, sides that are no multiples of 4 or below 8, an
            empty class, a class folder that is a link out of the folder, labels that are not 0 … C − 1, too few images of a
            class, or image files of 32 bits a pixel.
        CorruptFile: an image or the .npz is damaged.
    """
    if config.data_root is not None:
        raise BadInput("dataset images is read from dataset.path and takes no data_root; leave it out")
    if config.path is None:
        raise BadInput("dataset images needs a folder or an .npz file: --images PATH, or dataset.path")
    path = Path(os.path.expanduser(config.path))
    if path.is_dir():
        return _folder(config, path)
    if path.suffix == ".npz":
        return _npz(config, path)
    fault = "is neither a folder nor an .npz file" if path.exists() else "no such folder or file"
    raise BadInput(f"dataset.path {path}: {fault}")


def _folder(config: DatasetConfig, root: Path) -> ImageDataset:
    test = next((root / name for name in _TEST_FOLDERS if (root / name).is_dir()), None)
    if (root / "train").is_dir() and test is not None:
        train_files, names = _files(root / "train", root)
        test_files, test_names = _files(test, root)
        if names != test_names:
            odd = sorted(set(names) ^ set(test_names))
            raise BadInput(f"{root}: train and {test.name} have other classes: {', '.join(map(repr, odd[:5]))} is in one alone")
    else:
        train_files, names = _files(root, root)
        test_files = []
    classes = task_classes(config, names)
    labels = _labels(train_files)
    picked = subset(labels, config.per_class, classes)
    others = test_files or [train_files[index] for index in np.setdiff1d(np.arange(len(labels)), picked)]
    kept = subset(_labels(others), TEST_PER_CLASS, classes, fewer=True)
    reader = _Reader(config.resize)
    train = reader.read([train_files[index] for index in picked])
    return task_dataset(config, names, train, reader.read([others[index] for index in kept]))


def _files(folder: Path, root: Path) -> tuple[list[tuple[Path, int]], list[str]]:
    """Every image with the number of its class, and the names of the classes: those of the folders in sorted order."""
    classes = sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))
    if len(classes) < 2:
        raise BadInput(f"{folder}: expected a folder for each class, two at least; found {len(classes)}")
    if len(classes) > MOST_CLASSES:
        raise BadInput(f"{folder}: {len(classes)} classes; {MOST_CLASSES} at most can be used")
    numbered: list[tuple[Path, int]] = []
    for label, path in enumerate(classes):
        if not path.resolve().is_relative_to(root.resolve()):
            raise BadInput(f"{path}: is a link out of {root}; copy the images, or name the folder that holds them all")
        files = sorted(file for file in path.rglob("*") if file.suffix.lower() in SUFFIXES and not file.name.startswith("."))
        if not files:
            raise BadInput(f"{path}: an empty class: no file that ends with {', '.join(SUFFIXES)}")
        numbered += [(file, label) for file in files]
    return numbered, [path.name for path in classes]


def _labels(files: Sequence[tuple[Path, int]]) -> Labels:
    return np.array([label for _, label in files], np.uint8)


class _Reader:
    """Reads images that must be alike: the first one says whether they are grey, and without `resize` their size."""

    def __init__(self, resize: int | None) -> None:
        self._resize = resize
        self._first: tuple[Path, bool, tuple[int, ...]] | None = None

    def read(self, files: Sequence[tuple[Path, int]]) -> Split:
        """(images [K, H, W] or [K, H, W, 3], labels [K])."""
        return np.stack([self._image(file) for file, _ in files]), _labels(files)

    def _image(self, path: Path) -> NDArray[np.uint8]:
        from PIL import Image

        try:
            with Image.open(path) as image:
                if image.mode in ("I", "F"):
                    raise BadInput(f"{path}: 32 bits a pixel, whose white is not known; save it with 8 or 16")
                deep = image.mode.startswith("I;16")
                grey = deep or image.mode in _GREY
                plain = _eight_bits(image) if deep else image.convert("L" if grey else "RGB")
                pixels = centred_square(plain, self._resize) if self._resize else np.asarray(plain)
        except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):  # PIL raises all of them for damaged content
            raise CorruptFile(f"{path}: not a readable image") from None
        first, first_grey, shape = self._first = self._first or (path, grey, pixels.shape)
        if grey != first_grey:
            raise BadInput(f"{path}: is {_colour(grey)}, but {first} is {_colour(first_grey)}; convert one kind to the other")
        if pixels.shape != shape:
            raise BadInput(
                f"{path}: is {_size(pixels.shape)}, but {first} is {_size(shape)}; give them one size with dataset.resize"
            )
        _check_sides(shape, str(path))
        return pixels


def _eight_bits(image: Image.Image) -> Image.Image:
    """A grey image of 16 bits a pixel with 8: Pillow's own conversion would take all values above 255 for white."""
    from PIL import Image

    return Image.fromarray(np.rint(np.asarray(image) / 257).astype(np.uint8))


def _npz(config: DatasetConfig, path: Path) -> ImageDataset:
    arrays = _arrays(path)
    split = {name for name in ("train_images", "train_labels", "test_images", "test_labels") if name in arrays}
    if len(split) == 4:
        train, test = (_pairs(arrays, f"{part}_images", f"{part}_labels", path) for part in ("train", "test"))
    elif {"images", "labels"} <= arrays.keys():
        train, test = _pairs(arrays, "images", "labels", path), None
    else:
        raise BadInput(
            f"{path}: holds {', '.join(sorted(arrays)) or 'nothing'}; expected images and labels, or train_images, "
            "train_labels, test_images and test_labels"
        )
    names = _class_names(arrays, train[1], path)
    for _, labels in filter(None, (train, test)):
        if len(labels) and int(labels.max()) >= len(names):
            raise BadInput(f"{path}: label {labels.max()}, but there are {len(names)} classes")
    train = _resized(train, config.resize, path)
    if test is None:
        return hold_out(config, names, *train)
    test = _resized(test, config.resize, path)
    picked = subset(train[1], config.per_class, task_classes(config, names))
    return task_dataset(config, names, (train[0][picked], train[1][picked]), test)


def read_set(path: Path) -> Split:
    """(images, labels) of an .npz that holds both, as `python -m gbc sample` writes it.

    Raises:
        BadInput: it does not hold them, or in another form.
        CorruptFile: it is damaged.
    """
    arrays = _arrays(path)
    if not {"images", "labels"} <= arrays.keys():
        raise BadInput(f"{path}: holds {', '.join(sorted(arrays)) or 'nothing'}; expected images and labels")
    return _pairs(arrays, "images", "labels", path)


def _arrays(path: Path) -> dict[str, NDArray[np.generic]]:
    try:
        with np.load(path, allow_pickle=False) as file:
            return {name: file[name] for name in file.files if not name.startswith("val_")}
    except ValueError:  # NumPy tells the two apart in words alone
        raise BadInput(f"{path}: holds an array of objects, which is code, or is damaged; save numbers and text") from None
    except (OSError, zipfile.BadZipFile, EOFError, KeyError):
        raise CorruptFile(f"{path}: damaged, or not an .npz file") from None


def _pairs(arrays: dict[str, NDArray[np.generic]], images: str, labels: str, path: Path) -> tuple[NDArray[np.uint8], Labels]:
    pictures, numbers = arrays[images], arrays[labels]
    if pictures.dtype != np.uint8 or pictures.ndim not in (3, 4):
        raise BadInput(f"{path}: {images} is {pictures.dtype} {list(pictures.shape)}; expected uint8 [N, H, W] or [N, H, W, C]")
    if numbers.ndim == 2 and numbers.shape[1] == 1:  # as MedMNIST has them
        numbers = numbers[:, 0]
    if not np.issubdtype(numbers.dtype, np.integer) or numbers.shape != (len(pictures),):
        raise BadInput(
            f"{path}: {labels} is {numbers.dtype} {list(numbers.shape)}; expected {len(pictures)} integers, one an image"
        )
    if len(numbers) and (int(numbers.min()) < 0 or int(numbers.max()) >= MOST_CLASSES):
        raise BadInput(f"{path}: {labels} goes from {numbers.min()} to {numbers.max()}; expected 0 to C - 1, at most 255")
    if pictures.ndim == 4 and pictures.shape[1] in (1, 3) and pictures.shape[3] not in (1, 3):
        pictures = pictures.transpose(0, 2, 3, 1)
    if pictures.ndim == 4 and pictures.shape[3] not in (1, 3):
        raise BadInput(f"{path}: {images} has {pictures.shape[3]} channels; 1 or 3 can be used")
    if pictures.ndim == 4 and pictures.shape[3] == 1:
        pictures = pictures[..., 0]
    return np.ascontiguousarray(pictures), numbers.astype(np.uint8)


def _class_names(arrays: dict[str, NDArray[np.generic]], labels: Labels, path: Path) -> list[str]:
    present = {int(label) for label in np.unique(labels)}
    if missing := sorted(set(range(max(present, default=0) + 1)) - present):
        raise BadInput(f"{path}: no image has label {missing[0]}; number the classes from 0 without a gap")
    if "class_names" not in arrays:
        return [str(label) for label in sorted(present)]
    names = [str(name) for name in arrays["class_names"].ravel()]
    if len(names) != len(present) or len(set(names)) != len(names):
        raise BadInput(f"{path}: {len(names)} class_names for {len(present)} classes; expected one for each, all different")
    return names


def _resized(split: Split, side: int | None, path: Path) -> Split:
    from PIL import Image

    pictures, labels = split
    if side is not None and pictures.shape[1:3] != (side, side):
        pictures = np.stack([centred_square(Image.fromarray(picture), side) for picture in pictures])
    _check_sides(pictures.shape[1:], str(path))
    return pictures, labels


def _check_sides(shape: tuple[int, ...], source: str) -> None:
    if any(side % SIDE_STEP or side < _LEAST for side in shape[:2]):
        raise BadInput(
            f"{source}: {_size(shape)}; sides must be multiples of {SIDE_STEP}, at least {_LEAST}: set dataset.resize to one"
        )


def _size(shape: tuple[int, ...]) -> str:
    return f"{shape[1]}×{shape[0]}"


def _colour(grey: bool) -> str:
    return "grey" if grey else "coloured"
