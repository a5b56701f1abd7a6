"""Leakage of an exported generator: its samples, against the training images of its classifiers and held-out ones."""

from __future__ import annotations

from typing import Final

import torch
from torch import Tensor

from gbc import pictures
from gbc.data.samples import ImageDataset, tensors
from gbc.errors import BadInput
from gbc.export.drawing import ExportedGenerator
from gbc.metrics import leakage
from gbc.metrics.features import FeatureNetwork
from gbc.metrics.leakage import Leakage, Progress

CANDIDATES: Final = 4
"""Samples for each compared training image, unless another number is given."""
_MOST_SAMPLES: Final = 200_000
WORST: Final = 10
"""Cases that are shown."""


def sample_count(data: ImageDataset, asked: int | None = None) -> int:
    """The number of samples to compare: `asked`, or `CANDIDATES` for each compared training image.

    Raises:
        BadInput: too many, or too few for a one-to-one matching; or as `leakage.compared`.
    """
    classes = len(data.class_names)
    most = max(len(chosen.members) for chosen in leakage.compared(data))
    count = asked or CANDIDATES * most * classes
    if count > _MOST_SAMPLES:
        raise BadInput(f"--count {count}: {_MOST_SAMPLES} at most, because every pair of images is compared")
    if count < most * classes:
        raise BadInput(f"--count {count}: at least {most * classes}, one sample for each of {most} training images of a class")
    return count


def measure(
    generator: ExportedGenerator,
    data: ImageDataset,
    *,
    count: int | None = None,
    seed: int = 0,
    network: FeatureNetwork | None = None,
    progress: Progress = lambda *_: None,
) -> tuple[Leakage, Tensor]:
    """Draw `sample_count` samples, the classes in turn, and compare them as `leakage.measure` does.

    `data` are those of the generator's classifiers together (`tasks.merged`). Returns the leakage and the samples
    [K, channels, height, width].

    Raises:
        BadInput: as `sample_count`.
    """
    labels = torch.arange(sample_count(data, count)) % len(data.class_names)
    images = generator.sample(labels, seed)
    return leakage.measure(data, images, labels, network, progress), images


def caveats(generator: ExportedGenerator, data: ImageDataset) -> list[str]:
    """Reasons why the compared images need not be those that the classifiers were trained on."""
    own = [spec.classifier.label for spec in generator.settings.classifiers() if spec.classifier.weights]
    notes = [
        f"{name} came with its weights: that it was trained on the images compared here is the user's word" for name in own
    ]
    if data.digest() != generator.origin["data"]["digest"]:
        notes.append("these are not the data that the export names: training images or held-out ones differ")
    return notes


def worst_cases(result: Leakage, data: ImageDataset, samples: Tensor) -> bytes:
    """A PNG of the training images that are most reconstructed: each above the sample matched with it, SSIM and z-score."""
    worst = result.ranking[:WORST]
    picked = [case.image for case in worst]
    real, _ = tensors(data.train_images[picked], data.train_labels[picked])
    captions = [f"{case.label}\nSSIM {case.ssim:.2f}\nz {case.z:.1f}" for case in worst]
    return pictures.pairs_png(real, samples[[case.sample for case in worst]], ("training image", "reconstruction"), captions)
