"""The images a classifier is trained on, and the test images that scores are measured against.

The paper's tasks use 50 training images of each class. Those subsets ship with the package, with 200 test images of each
class; `--data-root` reads the full sets in torchvision's layout instead and draws the same training images from them.
"""

from __future__ import annotations

import hashlib
import io
import lzma
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

from gbc.config import DatasetConfig, suggest
from gbc.errors import BadInput, CorruptFile

if TYPE_CHECKING:
    import torch

ASSETS: Final = Path(__file__).with_name("assets")
SEED: Final = 0
TRAIN_PER_CLASS: Final = 50
TEST_PER_CLASS: Final = 200

_GARMENTS: Final = ("T-shirt", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot")
_DIGITS: Final = tuple("0123456789")
_FOLDERS: Final = {"fashion_mnist": "FashionMNIST", "mnist": "MNIST"}  # torchvision's names

Split = tuple[NDArray[np.uint8], NDArray[np.uint8]]


@dataclass(frozen=True)
class ImageDataset:
    """Training images of a classifier and real test images, as bytes; grey images have no channel axis."""

    name: str
    class_names: tuple[str, ...]
    train_images: NDArray[np.uint8]
    """[N, height, width]; N is the paper's number of training samples."""
    train_labels: NDArray[np.uint8]
    test_images: NDArray[np.uint8]
    test_labels: NDArray[np.uint8]

    @property
    def shape(self) -> tuple[int, int, int]:
        """(channels, height, width) of one image as networks see it."""
        height, width = self.train_images.shape[1:]
        return 1, height, width

    def digest(self) -> str:
        """Sixteen hex digits of all images and labels."""
        content = hashlib.sha256()
        for array in (self.train_images, self.train_labels, self.test_images, self.test_labels):
            content.update(array.tobytes())
        return content.hexdigest()[:16]

    def train(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Training images [N, channels, height, width] in [0, 1] and labels [N]."""
        return tensors(self.train_images, self.train_labels)

    def test(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Test images [K, channels, height, width] in [0, 1] and labels [K]."""
        return tensors(self.test_images, self.test_labels)


def tensors(images: NDArray[np.uint8], labels: NDArray[np.uint8]) -> tuple[torch.Tensor, torch.Tensor]:
    """Bytes as networks see them: images [K, channels, height, width] in [0, 1] and labels [K]."""
    import torch

    return torch.from_numpy(images).unsqueeze(1).float() / 255, torch.from_numpy(labels).long()


def load(config: DatasetConfig) -> ImageDataset:
    """The data set `config` names.

    Raises:
        BadInput: an unknown name, too few images of a class, or no full set under `data_root`.
        CorruptFile: a file is damaged.
    """
    if config.name not in DATASETS:
        raise BadInput(f"unknown dataset {config.name!r}; {suggest(config.name, list(DATASETS))}")
    return DATASETS[config.name](config)


def fashion_mnist(config: DatasetConfig) -> ImageDataset:
    """Fashion-MNIST (Xiao et al. 2017): 28×28 grey garments, ten classes."""
    return _torchvision_task(config, _GARMENTS)


def mnist(config: DatasetConfig) -> ImageDataset:
    """MNIST (LeCun et al. 1998): 28×28 grey digits, ten classes."""
    return _torchvision_task(config, _DIGITS)


DATASETS: Final[dict[str, Callable[[DatasetConfig], ImageDataset]]] = {
    "fashion_mnist": fashion_mnist,
    "mnist": mnist,
}


def unused(config: DatasetConfig) -> Split | None:
    """Bytes of the full training set that the task does not use, (images [K, height, width], labels [K]).

    None without `data_root`: the training images that ship are those of the task.

    Raises:
        BadInput, CorruptFile: as `load`.
    """
    if config.data_root is None:
        return None
    images, labels = _full(_FOLDERS[config.name], config, train=True)
    keep = np.ones(len(labels), dtype=bool)
    keep[subset(labels, config.per_class)] = False
    return images[keep], labels[keep]


def build(name: str, data_root: Path, out: Path) -> Path:
    """Write the shipped file of data set `name` from a full torchvision root; the same bytes every time.

    Returns the file's path. Raises as `load`.
    """
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


def subset(labels: NDArray[np.uint8], per_class: int) -> NDArray[np.intp]:
    """Indices of `per_class` samples of each class, class by class: those with the smallest keys.

    Key i is the i-th raw output of PCG64(SEED), a stream that NumPy promises never to change; the subset for a smaller
    `per_class` is part of that for a larger one.

    Raises:
        BadInput: a class has fewer samples.
    """
    keys = np.random.PCG64(SEED).random_raw(len(labels))
    picked = []
    for label in np.unique(labels):
        members = np.flatnonzero(labels == label)
        if len(members) < per_class:
            raise BadInput(f"per_class is {per_class}, but class {label} has only {len(members)} images")
        picked.append(members[np.argsort(keys[members])[:per_class]])
    return np.concatenate(picked)


def _torchvision_task(config: DatasetConfig, class_names: tuple[str, ...]) -> ImageDataset:
    if config.data_root is None:
        arrays = _shipped(config.name)
        if config.per_class > TRAIN_PER_CLASS:
            raise BadInput(
                f"per_class is {config.per_class}, but the shipped {config.name} has {TRAIN_PER_CLASS} images a class; "
                "give the full set with --data-root"
            )
        # The shipped images stand class by class in the order of their keys, so a smaller task is a prefix of each class.
        first = np.arange(config.per_class)
        keep = np.concatenate([start + first for start in range(0, len(arrays["train_labels"]), TRAIN_PER_CLASS)])
        train = arrays["train_images"][keep], arrays["train_labels"][keep]
        test = arrays["test_images"], arrays["test_labels"]
    else:
        folder = _FOLDERS[config.name]
        images, labels = _full(folder, config, train=True)
        keep = subset(labels, config.per_class)
        train = images[keep], labels[keep]
        test = _full(folder, config, train=False)
    return ImageDataset(config.name, class_names, *train, *test)


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
