"""Data sets of images or points with labels, and the choice of a task's samples from a larger set."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, TypeVar

import numpy as np
from numpy.typing import NDArray

from gbc.classifier_config import DatasetConfig
from gbc.errors import BadInput

if TYPE_CHECKING:
    import torch
    from PIL import Image

SEED: Final = 0
SIDE_STEP: Final = 4
"""Sides of images are multiples of it: the generator doubles its size twice."""

Labels = NDArray[np.uint8]
MOST_CLASSES: Final = 256
"""The largest number of classes: labels are 8-bit."""
Split = tuple[NDArray[np.uint8], Labels]
"""(images, labels)."""

_Number = TypeVar("_Number", bound=np.generic)


@dataclass(frozen=True)
class ImageDataset:
    """Training images of a classifier, and test images, as bytes.

    Grey images are [N, height, width], coloured ones [N, height, width, 3].
    """

    name: str
    class_names: tuple[str, ...]
    train_images: NDArray[np.uint8]
    """N is the paper's number of training samples."""
    train_labels: Labels
    test_images: NDArray[np.uint8]
    test_labels: Labels

    @property
    def shape(self) -> tuple[int, int, int]:
        """(channels, height, width) of one image, the order that networks use."""
        height, width, *channels = self.train_images.shape[1:]
        return channels[0] if channels else 1, height, width

    def digest(self) -> str:
        """Sixteen hex digits of all images and labels."""
        return _digest(self.train_images, self.train_labels, self.test_images, self.test_labels)

    def train(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Training images [N, channels, height, width] in [0, 1] and labels [N]."""
        return tensors(self.train_images, self.train_labels)

    def test(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Test images [K, channels, height, width] in [0, 1] and labels [K]."""
        return tensors(self.test_images, self.test_labels)


@dataclass(frozen=True)
class PointDataset:
    """Training points of a classifier. There are no test points: samples are compared with the training points."""

    name: str
    class_names: tuple[str, ...]
    train_points: NDArray[np.float32]
    """[N, d]"""
    train_labels: Labels

    @property
    def shape(self) -> tuple[int]:
        """(d,), the shape of one point."""
        return (self.train_points.shape[1],)

    def digest(self) -> str:
        """Sixteen hex digits of all points and labels."""
        return _digest(self.train_points, self.train_labels)

    def train(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Points [N, d] and labels [N]."""
        import torch

        return torch.from_numpy(self.train_points), torch.from_numpy(self.train_labels).long()


Dataset = ImageDataset | PointDataset
"""A data set that a classifier can be trained on."""


def subset(
    labels: Labels, per_class: int, classes: Mapping[int, str] | None = None, *, fewer: bool = False
) -> NDArray[np.intp]:
    """Indices of the `per_class` samples of each class with the smallest keys, class by class.

    Key i is the i-th raw output of PCG64(SEED), a stream that NumPy promises never to change. The subset for a smaller
    `per_class`, or for some of the classes, is part of the subset for more. `classes` maps the chosen labels to their names
    (default: all labels). With `fewer`, all samples of a class are taken if it has fewer than `per_class`.

    Raises:
        BadInput: a class has fewer samples.
    """
    if classes is None:
        classes = {int(label): str(label) for label in np.unique(labels)}
    keys = np.random.PCG64(SEED).random_raw(len(labels))
    picked = []
    for label, name in classes.items():
        members = np.flatnonzero(labels == label)
        if len(members) < per_class and not fewer:
            raise BadInput(f"per_class is {per_class}, but class {name} has only {len(members)} images")
        picked.append(members[np.argsort(keys[members])[:per_class]])
    return np.concatenate(picked)


def task_classes(config: DatasetConfig, class_names: Sequence[str]) -> dict[int, str]:
    """The classes of the task `config`, label → name, in its order.

    Raises:
        BadInput: a class that the data set does not have.
    """
    classes = range(len(class_names)) if config.classes is None else config.classes
    for label in classes:
        if label >= len(class_names):
            known = ", ".join(f"{index} {name}" for index, name in enumerate(class_names))
            raise BadInput(f"dataset.classes: {config.name} has no class {label}; known: {known}")
    return {label: class_names[label] for label in classes}


def select_classes(samples: NDArray[_Number], labels: Labels, classes: Sequence[int]) -> tuple[NDArray[_Number], Labels]:
    """The samples [n, …] of `classes` in their original order, with labels [n] that number `classes` from 0."""
    number = np.full(256, -1)
    number[list(classes)] = np.arange(len(classes))
    renumbered = number[labels]
    kept = renumbered >= 0
    return samples[kept], renumbered[kept].astype(np.uint8)


def task_dataset(config: DatasetConfig, class_names: Sequence[str], train: Split, test: Split) -> ImageDataset:
    """The data set of `config` from training images, already `per_class` of each class, and test images.

    Raises:
        BadInput: a class that the data set does not have, or that has no test image.
    """
    classes = task_classes(config, class_names)
    train, test = select_classes(*train, list(classes)), select_classes(*test, list(classes))
    for label, name in enumerate(classes.values()):
        if label not in test[1]:
            raise BadInput(f"{config.name}: no test image of class {name}; lower per_class, or choose other dataset.classes")
    return ImageDataset(config.name, tuple(classes.values()), *train, *test)


def hold_out(config: DatasetConfig, class_names: Sequence[str], images: NDArray[np.uint8], labels: Labels) -> ImageDataset:
    """The data set of `config` from images without a split: `per_class` of each class for training, the others for testing.

    Raises:
        BadInput: as in `subset` and `task_dataset`.
    """
    picked = subset(labels, config.per_class, task_classes(config, class_names))
    others = np.setdiff1d(np.arange(len(labels)), picked)
    return task_dataset(config, class_names, (images[picked], labels[picked]), (images[others], labels[others]))


def centred_square(image: Image.Image, side: int) -> NDArray[np.uint8]:
    """The largest centred square of `image`, resized: [side, side], or [side, side, 3] when it is coloured."""
    from PIL import Image

    width, height = image.size
    crop = min(width, height)
    left, top = (width - crop) // 2, (height - crop) // 2
    box = (left, top, left + crop, top + crop)
    return np.asarray(image.crop(box).resize((side, side), Image.Resampling.BILINEAR))


def _digest(*arrays: NDArray[Any]) -> str:
    content = hashlib.sha256()
    for array in arrays:
        content.update(array.tobytes())
    return content.hexdigest()[:16]


def tensors(images: NDArray[np.uint8], labels: Labels) -> tuple[torch.Tensor, torch.Tensor]:
    """Tensors for networks, from bytes: images [K, channels, height, width] in [0, 1] and labels [K]."""
    import torch

    pixels = torch.from_numpy(images).float() / 255
    # Networks need the channels first; grey images have one channel.
    pixels = pixels.unsqueeze(1) if pixels.ndim == 3 else pixels.permute(0, 3, 1, 2).contiguous()
    return pixels, torch.from_numpy(labels).long()
