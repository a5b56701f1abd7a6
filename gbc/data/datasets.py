"""The data sets of the paper's experiments, two further ones that need no download, and the user's own images.

The paper's tasks use 50 training images of each class. For MNIST and Fashion-MNIST those subsets ship with the package,
with 200 test images of each class; `--data-root` reads the full sets in torchvision's layout instead and draws the same
training images from them.
"""

from __future__ import annotations

import functools
import hashlib
import io
import lzma
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from gbc.classifier_config import DatasetConfig
from gbc.data.celeba import celeba
from gbc.data.own_images import images
from gbc.data.samples import (
    Dataset,
    ImageDataset,
    PointDataset,
    Split,
    centred_square,
    hold_out,
    select_classes,
    subset,
    task_classes,
    task_dataset,
)
from gbc.errors import BadInput, CorruptFile
from gbc.settings import suggest

__all__ = [
    "DATASETS", "POINT_DATASETS", "SHIPPED", "Dataset", "ImageDataset", "PointDataset",
    "build", "load", "load_any", "subset",
]  # fmt: skip

ASSETS: Final = Path(__file__).with_name("assets")
TRAIN_PER_CLASS: Final = 50
TEST_PER_CLASS: Final = 200

_GARMENTS: Final = ("T-shirt", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot")
_DIGITS: Final = tuple("0123456789")
_FOLDERS: Final = {"fashion_mnist": "FashionMNIST", "mnist": "MNIST"}  # torchvision's names


def load(config: DatasetConfig) -> ImageDataset:
    """The image data set that `config` names.

    Raises:
        BadInput: an unknown name or class, a setting of another data set, points instead of images, too few images of a
            class, or no full set under `data_root`.
        CorruptFile: a file is damaged.
    """
    data = load_any(config)
    if not isinstance(data, ImageDataset):
        raise BadInput(f"{config.name} holds points, not images; choose one of {', '.join(sorted(DATASETS))}")
    return data


def load_any(config: DatasetConfig) -> Dataset:
    """The data set of images or points that `config` names. Raises as `load`, but also accepts points."""
    if config.data_free:
        raise BadInput("dataset none: there are no images, and this needs some; name a data set that has them")
    registry: dict[str, Callable[[DatasetConfig], Dataset]] = {**DATASETS, **POINT_DATASETS}
    if config.name not in registry:
        raise BadInput(f"unknown dataset {config.name!r}; {suggest(config.name, [*registry, 'none'])}")
    for setting, owner in _OWNERS.items():
        if getattr(config, setting) is not None and config.name != owner:
            raise BadInput(f"dataset.{setting} is a setting of {owner}; leave it out for {config.name}")
    return registry[config.name](config)


def fashion_mnist(config: DatasetConfig) -> ImageDataset:
    """Fashion-MNIST (Xiao et al. 2017): 28×28 grey garments, ten classes."""
    return _torchvision_task(config, _GARMENTS)


def mnist(config: DatasetConfig) -> ImageDataset:
    """MNIST (LeCun et al. 1998): 28×28 grey digits, ten classes."""
    return _torchvision_task(config, _DIGITS)


def digits(config: DatasetConfig) -> ImageDataset:
    """The 8×8 grey digits that come with scikit-learn (Alpaydin and Kaynak 1998), ten classes of 174 to 183 images."""
    from sklearn.datasets import load_digits

    _refuse_root(config, "scikit-learn")
    bunch = load_digits()
    images = (bunch.images * (255 / 16)).round().astype(np.uint8)  # its values are 0 to 16
    return hold_out(config, _DIGITS, images, bunch.target.astype(np.uint8))


def lfw_faces(config: DatasetConfig) -> ImageDataset:
    """Faces and non-faces: the part of Labeled Faces in the Wild (Huang et al. 2007) that comes with scikit-image.

    100 grey images of each class, 25×25, resized to 32×32.
    """
    from PIL import Image
    from skimage.data import lfw_subset

    _refuse_root(config, "scikit-image")
    originals = (lfw_subset() * 255).round().astype(np.uint8)
    images = np.stack([centred_square(Image.fromarray(image), 32) for image in originals])
    labels = np.repeat(np.array([1, 0], np.uint8), 100)  # the faces come first
    return hold_out(config, ("no face", "face"), images, labels)


def circle(config: DatasetConfig) -> PointDataset:
    """The example of section 5.1: 18 points evenly on the unit circle, in three classes.

    The paper does not say how the points are categorised. Here the classes alternate, so that every point has neighbours of
    other classes and is a support vector. If a class were one arc, the points inside the arc would have multipliers of 0 in the
    KKT conditions, and the classifier would not depend on them. Nor does the paper say how D is "evenly split" into D1 and D2:
    here `part` 1 has the points with even and `part` 2 those with odd index, three of each class, all around the circle.

    Raises:
        BadInput: an unknown class, or a `per_class` that is not the number of points of each class.
    """
    _refuse_root(config, "the package")
    index = np.arange(18) if config.part is None else np.arange(config.part - 1, 18, 2)
    points_per_class = len(index) // 3
    if config.per_class not in (DatasetConfig().per_class, points_per_class):  # the default is accepted
        raise BadInput(
            f"per_class is {config.per_class}, but the circle always has {points_per_class} points of each class; leave it out"
        )
    angle = 2 * np.pi * index / 18
    points = np.stack([np.cos(angle), np.sin(angle)], axis=1).astype(np.float32)
    classes = task_classes(config, ("class 1", "class 2", "class 3"))
    return PointDataset(
        config.name, tuple(classes.values()), *select_classes(points, (index % 3).astype(np.uint8), list(classes))
    )


DATASETS: Final[dict[str, Callable[[DatasetConfig], ImageDataset]]] = {
    "celeba": celeba,
    "digits": digits,
    "fashion_mnist": fashion_mnist,
    "images": images,
    "lfw_faces": lfw_faces,
    "mnist": mnist,
}
POINT_DATASETS: Final[dict[str, Callable[[DatasetConfig], PointDataset]]] = {"circle": circle}
SHIPPED: Final = ("fashion_mnist", "mnist")
"""Data sets with a file in `ASSETS`."""

_OWNERS: Final = {
    "attribute": "celeba", "part": "circle", "path": "images", "resize": "images", "shape": "none", "class_names": "none",
}  # fmt: skip


def unused(config: DatasetConfig) -> Split | None:
    """The images of the full training set that the task does not use, (images [K, height, width], labels [K]), as bytes.

    None without `data_root`, and for data sets that are not in torchvision's layout of MNIST: the task uses all their images.

    Raises:
        BadInput, CorruptFile: as `load`.
    """
    if config.data_root is None or config.name not in _FOLDERS:
        return None
    images, labels = _full(_FOLDERS[config.name], config, train=True)
    classes = list(config.classes or np.unique(labels))
    keep = np.ones(len(labels), dtype=bool)
    keep[subset(labels, config.per_class, {int(label): str(label) for label in classes})] = False
    return select_classes(images[keep], labels[keep], classes)


def build(name: str, data_root: Path, out: Path) -> Path:
    """Write the shipped file of data set `name` from a full torchvision root, and return its path.

    The content is the same byte for byte every time.

    Raises:
        BadInput: a data set that does not ship, or as `load`.
        CorruptFile: as `load`.
    """
    if name not in SHIPPED:
        raise BadInput(f"{name!r} does not ship with the package; {suggest(name, list(SHIPPED))}")
    full = load(DatasetConfig(name=name, data_root=str(data_root), per_class=TRAIN_PER_CLASS))
    test = subset(full.test_labels, TEST_PER_CLASS)
    content = io.BytesIO()
    np.savez(
        content,
        train_images=full.train_images,
        train_labels=full.train_labels,
        test_images=full.test_images[test],
        test_labels=full.test_labels[test],
    )
    path = out / f"{name}.npz.xz"
    try:
        out.mkdir(parents=True, exist_ok=True)
        path.write_bytes(lzma.compress(content.getvalue(), preset=9 | lzma.PRESET_EXTREME))
    except OSError as fault:
        raise BadInput(f"{path}: cannot be written: {fault.strerror}") from None
    return path


def _torchvision_task(config: DatasetConfig, class_names: tuple[str, ...]) -> ImageDataset:
    if config.data_root is None:
        arrays = _shipped(config.name)
        if config.per_class > TRAIN_PER_CLASS:
            raise BadInput(
                f"per_class is {config.per_class}, but the shipped {config.name} has {TRAIN_PER_CLASS} images a class; "
                "give the full set with --data-root"
            )
        # The shipped images are sorted by class and then by key, so a smaller task is a prefix of each class.
        first = np.arange(config.per_class)
        keep = np.concatenate([start + first for start in range(0, len(arrays["train_labels"]), TRAIN_PER_CLASS)])
        train = arrays["train_images"][keep], arrays["train_labels"][keep]
        test = arrays["test_images"], arrays["test_labels"]
    else:
        folder = _FOLDERS[config.name]
        images, labels = _full(folder, config, train=True)
        keep = subset(labels, config.per_class, task_classes(config, class_names))
        train = images[keep], labels[keep]
        test = _full(folder, config, train=False)
    return task_dataset(config, class_names, train, test)


def _refuse_root(config: DatasetConfig, origin: str) -> None:
    if config.data_root is not None:
        raise BadInput(f"{config.name} comes with {origin} and takes no data_root; leave it out")


def _shipped(name: str) -> dict[str, NDArray[np.uint8]]:
    path = ASSETS / f"{name}.npz.xz"
    try:
        packed = path.read_bytes()
        lines = (ASSETS / "SHA256SUMS").read_text().splitlines()
    except OSError as fault:
        raise BadInput(f"{fault.filename}: cannot be read ({fault.strerror}); install the package again") from None
    if f"{hashlib.sha256(packed).hexdigest()}  {path.name}" not in lines:
        raise CorruptFile(
            f"{path}: the content does not match SHA256SUMS; install the package again, or `python -m gbc data build`"
        )
    # Copies: what one caller changes is not what the next one gets.
    return {array: values.copy() for array, values in _unpacked(packed).items()}


@functools.lru_cache(maxsize=len(SHIPPED))
def _unpacked(packed: bytes) -> dict[str, NDArray[np.uint8]]:
    """The arrays of a shipped file: 2 MB. To unpack them takes longer than all else in `load`."""
    with np.load(io.BytesIO(lzma.decompress(packed))) as arrays:
        return dict(arrays)


def _full(folder: str, config: DatasetConfig, *, train: bool) -> Split:
    import torchvision.datasets

    root, kind = config.data_root, getattr(torchvision.datasets, folder)
    try:
        data: Any = kind(root, train=train, download=config.download)
    except RuntimeError as fault:
        if "not found" in str(fault).lower():
            raise BadInput(f"no {folder} under {root} (expected {root}/{folder}/raw); add --download to fetch it") from None
        raise CorruptFile(f"{root}/{folder}: cannot be read: {fault}; fetch it again") from None
    except (ValueError, OSError, AssertionError, EOFError) as fault:
        raise CorruptFile(
            f"{root}/{folder}: damaged ({str(fault).splitlines()[0] if str(fault) else 'cut short'}); fetch it again"
        ) from None
    return data.data.numpy(), data.targets.numpy().astype(np.uint8)
