"""A small convolutional network that gives features for scores, independent of the classifier Φ.

It is trained once on real images that were not used for Φ and are not used for scores, then cached like a classifier.
`tstr/cnn` tests the same network, trained on a generated set instead.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from gbc import cache as caches
from gbc.classifier_config import DatasetConfig
from gbc.classifiers.architectures import kaiming
from gbc.data import datasets
from gbc.data.samples import ImageDataset, Split, tensors
from gbc.errors import BadInput
from gbc.optimisers import Adam
from gbc.settings import digest

SCHEMA: Final = 1  # raise when a change here makes cached networks differ
SEED: Final = 0
STEPS: Final = 2000
WIDTH: Final = 64
_BATCH: Final = 64
_LR: Final = 2e-3
_SHIFT: Final = 2
_PART: Final = 500
_RECORD: Final = "oracle.json"


class FeatureNetwork(nn.Module):
    """Images [K, channels, height, width] in [0, 1] to logits [K, classes]; two convolutions, one hidden layer."""

    scale: Tensor

    def __init__(self, shape: tuple[int, int, int], classes: int) -> None:
        """For images of `shape` (channels, height, width)."""
        super().__init__()
        convolutions = nn.Sequential(
            nn.Conv2d(shape[0], 16, 5, stride=2, padding=2), nn.ReLU(),
            nn.Conv2d(16, 32, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(),
        )  # fmt: skip
        cells = convolutions(torch.zeros(1, *shape)).shape[1]
        self.body = nn.Sequential(*convolutions, nn.Linear(cells, WIDTH), nn.ReLU())
        self.head = nn.Linear(WIDTH, classes)
        # A kernel with a fixed offset, (x·y/d + 1)³, needs features of a known size.
        self.register_buffer("scale", torch.ones(()))

    def forward(self, images: Tensor) -> Tensor:
        """Logits [K, classes]."""
        return self.head(self.body(images))

    @torch.no_grad()
    def features(self, images: Tensor) -> Tensor:
        """Penultimate activations [K, WIDTH] in units of their root mean square on the training images."""
        return torch.cat([self.body(part) for part in images.split(_PART)]) / self.scale

    @torch.no_grad()
    def predict(self, images: Tensor) -> Tensor:
        """The most probable class of each image, [K]."""
        return torch.cat([self(part).argmax(dim=1) for part in images.split(_PART)])


@dataclass(frozen=True)
class Oracle:
    """A feature network and the test images that it may be used with."""

    network: FeatureNetwork
    judged: NDArray[np.intp]
    """Indices of the test images that it was not trained on. Scores use only these."""
    trained_on: str
    """Description of its training images."""
    accuracy: float
    """Accuracy on the test images `judged`."""


def fit(images: Tensor, labels: Tensor, classes: int, *, steps: int, augment: bool, seed: int = SEED) -> FeatureNetwork:
    """A network trained on `images` [K, channels, height, width] and `labels` [K] with Adam and a cosine schedule.

    `augment` shifts each batch by up to two pixels. The same arguments give the same network on the same machine.
    """
    rng = torch.Generator().manual_seed(seed)
    network = FeatureNetwork((images.shape[1], images.shape[2], images.shape[3]), classes)
    kaiming(network, rng)
    optimiser = Adam(network.parameters(), lr=_LR)
    for step in range(steps):
        for group in optimiser.param_groups:
            group["lr"] = _LR * 0.5 * (1 + math.cos(math.pi * step / steps))
        index = torch.randint(len(images), (_BATCH,), generator=rng)
        batch = shifted(images[index], rng) if augment else images[index]
        optimiser.zero_grad()
        nn.functional.cross_entropy(network(batch), labels[index]).backward()
        optimiser.step()
    network.eval()
    network.scale.copy_(network.features(images).square().mean().sqrt().clamp_min(1e-6))
    return network


def obtain(config: DatasetConfig | None, data: ImageDataset, cache: Path, steps: int | None = None) -> Oracle:
    """The feature network for scores on `data`, from `cache`, trained first if it is not there.

    It is trained on the images of the full training set that the task `config` does not use. If there are none, or fewer than
    half as many as test images, or if `config` is None, it is trained on half of the test images, and scores use only the other
    half. `steps` is `STEPS` unless given.

    Raises:
        BadInput: a data set or cache that cannot be used, or a class with a single test image.
        CorruptFile: a file is damaged.
    """
    steps = steps or STEPS
    spare = datasets.unused(config) if config else None
    if spare is not None and 2 * len(spare[1]) >= len(data.test_labels):
        scored = np.arange(len(data.test_labels))
        trained_on = f"{len(spare[1])} images of the full training set, none of the task's"
    else:
        training, scored = halves(data.test_labels)
        for label, class_name in enumerate(data.class_names):
            if label not in data.test_labels[scored]:
                raise BadInput(f"{data.name}: class {class_name} has one test image; give two, one for the feature network")
        spare = data.test_images[training], data.test_labels[training]
        trained_on = f"half of the test images ({len(training)}); scores are measured on the other half ({len(scored)})"
    folder = cache / f"{data.name}-features-{_identity(spare, data, steps)}"
    network = FeatureNetwork(data.shape, len(data.class_names))

    def make() -> Mapping[str, bytes]:
        trained = fit(*tensors(*spare), len(data.class_names), steps=steps, augment=True)
        test_images, test_labels = tensors(data.test_images[scored], data.test_labels[scored])
        accuracy = (trained.predict(test_images) == test_labels).float().mean().item()
        record = {"accuracy": accuracy, "trained_on": trained_on}
        return {caches.WEIGHTS: caches.weights_as_bytes(trained), _RECORD: json.dumps(record, indent=2).encode()}

    caches.fill_once(folder, make)
    record = caches.restore(folder, network, _RECORD)
    return Oracle(network, scored, record["trained_on"], record["accuracy"])


def halves(labels: NDArray[np.uint8]) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Indices of two disjoint halves of `labels` [K] with equal shares of each class: every other image of a class."""
    order = np.zeros(len(labels), dtype=np.intp)
    for label in np.unique(labels):
        members = np.flatnonzero(labels == label)
        order[members] = np.arange(len(members))
    return np.flatnonzero(order % 2 == 0), np.flatnonzero(order % 2 == 1)


def shifted(images: Tensor, rng: torch.Generator) -> Tensor:
    """The batch, all images moved by the same random shift of up to `_SHIFT` pixels; the border is filled with 0."""
    down, right = torch.randint(2 * _SHIFT + 1, (2,), generator=rng).tolist()
    height, width = images.shape[2:]
    return nn.functional.pad(images, (_SHIFT,) * 4)[:, :, down : down + height, right : right + width]


def _identity(spare: Split, data: ImageDataset, steps: int) -> str:
    content = hashlib.sha256(spare[0].tobytes() + spare[1].tobytes()).hexdigest()
    budget = {"steps": steps, "seed": SEED, "batch": _BATCH, "lr": _LR, "width": WIDTH}
    return digest({"schema": SCHEMA, "budget": budget, "trained_on": content, "data": data.digest()})
