"""Leakage: whether a generated set resembles the images its classifier was trained on more than others of the same classes.

Each real image is matched one-to-one with a generated image of its class, and scored by their similarity. A score that is
higher for training images (members) than for held-out ones tells members from non-members: its AUC is above 0.5. Scores are
compared within each class, because some classes are reconstructed better than others, trained on or not.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from gbc.data.samples import ImageDataset, tensors
from gbc.errors import BadInput
from gbc.metrics import features
from gbc.metrics.features import FeatureNetwork
from gbc.metrics.scores import SSIMFeatures, ssim
from gbc.metrics.statistics import RECONSTRUCTED

MOST_PER_CLASS: Final = 200
"""Training images of each class that are compared at most: the cost of all pairs grows with the square."""
FALSE_ALARMS: Final = 0.01
_QUANTILE: Final = 1.959964  # of the normal distribution, for 95%
_PART: Final = 100

Progress = Callable[[int, int], None]
"""Called with (classes done, classes)."""


@dataclass(frozen=True)
class Separation:
    """The power of a score to tell members from non-members of the same class."""

    auc: float
    """Probability that a member has a higher score than a non-member of its class; equal scores count one half."""
    low: float
    high: float
    """95% interval of DeLong et al. (1988). It takes scores for independent, which those of one matching are not quite."""
    caught: float
    """Share of members whose z-score (`standardised`) is above those of all but `FALSE_ALARMS` of the non-members (Carlini et
    al. 2022)."""

    @classmethod
    def of(cls, classes: Sequence[tuple[Tensor, Tensor]]) -> Separation:
        """Separation of the scores (members [M], non-members [K]) of each class, weighted by its members; at least two each."""
        total = sum(len(members) for members, _ in classes)
        auc, variance = 0.0, 0.0
        for members, others in classes:
            pairs = members.double()[:, None] - others.double()[None]
            wins = (pairs > 0).double() + 0.5 * (pairs == 0)  # [M, K]
            weight = len(members) / total
            auc += weight * wins.mean().item()
            error = wins.mean(dim=1).var() / len(members) + wins.mean(dim=0).var() / len(others)
            variance += weight**2 * error.item()
        inside = torch.cat([standardised(members, others) for members, others in classes])
        outside = torch.cat([standardised(others, others) for _, others in classes])
        threshold = outside.sort(descending=True).values[int(FALSE_ALARMS * len(outside))]
        reach = _QUANTILE * math.sqrt(variance)
        caught = (inside > threshold).float().mean().item()
        return cls(auc, max(0.0, auc - reach), min(1.0, auc + reach), caught)

    def verdict(self) -> str:
        """The meaning of the interval in words."""
        if self.low > 0.5:
            return "differs from 0.5, training images score higher"
        return "differs from 0.5, held-out images score higher" if self.high < 0.5 else "does not differ from 0.5"

    def text(self) -> str:
        """AUC, interval and verdict in one line."""
        return f"AUC {self.auc:.3f} (95% interval {self.low:.3f} to {self.high:.3f}): {self.verdict()}"


@dataclass(frozen=True)
class Reconstruction:
    """A training image and the generated image that is matched with it by SSIM."""

    image: int
    """Index of the training image in its data set."""
    label: str
    """Name of its class."""
    sample: int
    """Index of the generated image."""
    ssim: float
    z: float
    """z-score of this SSIM among those of the held-out images of the class."""
    feature_distance: float | None
    """Distance to its match by features, which may be another generated image; None without a feature network."""


@dataclass(frozen=True)
class Leakage:
    """Scores of training images and of as many held-out images of the same classes, against the same generated images."""

    members: int
    """Number of compared training images, and of held-out ones."""
    training_images: int
    samples: int
    reconstructed: int
    """Training images with a match of SSIM above `RECONSTRUCTED`."""
    reconstructed_held_out: int
    ssim: Separation
    feature_distance: Separation | None
    control: Separation
    """By SSIM to real images instead of generated ones, test images that no other set here contains: what chance, and any
    difference between training and test images, give alone."""
    by_class: dict[str, Separation]
    """By SSIM, for each class alone."""
    ranking: list[Reconstruction]
    """Training images by `z`, the one most reconstructed first."""

    def to_json(self) -> dict[str, Any]:
        """Plain data."""
        return {"threshold": RECONSTRUCTED, **asdict(self)}

    def text(self) -> str:
        """Counts side by side, then a line for each score."""
        of_all = "" if self.members == self.training_images else f" (of {self.training_images})"
        scores = {"SSIM": self.ssim, "feature distance": self.feature_distance, "SSIM to real images (control)": self.control}
        return "\n".join(
            [
                f"{'':30}{'training images':>16}{'held-out images':>17}",
                f"{'compared' + of_all:30}{self.members:16}{self.members:17}",
                f"{f'matched with SSIM above {RECONSTRUCTED}':30}{self.reconstructed:16}{self.reconstructed_held_out:17}",
                f"{'caught at 1% false alarms':30}{round(self.ssim.caught * self.members):16}"
                f"{int(FALSE_ALARMS * self.members):17}",
                "",
                *(f"{name:30}  {separation.text()}" for name, separation in scores.items() if separation),
                "",
                *(f"{'SSIM, ' + name:30}  {separation.text()}" for name, separation in self.by_class.items()),
            ]
        )


@dataclass(frozen=True)
class ComparedImages:
    """Indices of the images of a class that are compared, three different sets of equal size."""

    members: NDArray[np.intp]
    """Training images."""
    held_out: NDArray[np.intp]
    """Test images that no feature network is trained on (`features.halves`)."""
    control: NDArray[np.intp]
    """Other test images."""


def compared(data: ImageDataset) -> list[ComparedImages]:
    """The images of each class that are compared: the first of each set, as many as all three have, at most `MOST_PER_CLASS`.

    Raises:
        BadInput: a class has fewer than two of a set.
    """
    other, spare = features.halves(data.test_labels)
    chosen = []
    for label, name in enumerate(data.class_names):
        sets = [np.flatnonzero(data.train_labels == label)]
        sets += [half[data.test_labels[half] == label] for half in (spare, other)]
        count = min(MOST_PER_CLASS, *map(len, sets))
        if count < 2:
            raise BadInput(f"{data.name}: class {name} has too few images: leakage needs two training and four test images")
        chosen.append(ComparedImages(*(indices[:count] for indices in sets)))
    return chosen


def measure(
    data: ImageDataset,
    images: Tensor,
    labels: Tensor,
    network: FeatureNetwork | None = None,
    progress: Progress = lambda *_: None,
) -> Leakage:
    """Compare generated `images` [K, channels, height, width] in [0, 1] with `labels` [K] to training and held-out images.

    `network` gives the feature distance; it must not have been trained on any of these images.

    Raises:
        BadInput: a class has fewer generated images than training images to compare, or as `compared`.
    """
    chosen = compared(data)
    by_score: dict[str, list[tuple[Tensor, Tensor]]] = {"ssim": [], "features": [], "control": []}
    ranking: list[Reconstruction] = []
    for label, (name, indices) in enumerate(zip(data.class_names, chosen, strict=True)):
        rows, count = torch.nonzero(labels == label).squeeze(1), len(indices.members)
        if len(rows) < count:
            raise BadInput(f"{len(rows)} generated images of class {name}, but {count} training images: raise --count")
        real = torch.cat([_images(data.train_images, indices.members), _images(data.test_images, indices.held_out)])
        known = SSIMFeatures(real)
        members, held_out = _similarity(known, images[rows]).split(count)
        scores, matches = one_to_one(members)
        others, _ = one_to_one(held_out)
        by_score["ssim"].append((scores, others))
        members, held_out = _similarity(known, _images(data.test_images, indices.control)).split(count)
        by_score["control"].append((one_to_one(members)[0], one_to_one(held_out)[0]))
        distances = list[float | None]([None] * count)
        if network is not None:
            members, held_out = (-torch.cdist(network.features(real), network.features(images[rows]))).split(count)
            near, _ = one_to_one(members)
            by_score["features"].append((near, one_to_one(held_out)[0]))
            distances = (-near).tolist()
        ranking += [
            Reconstruction(int(image), name, int(rows[match]), score, z, distance)
            for image, match, score, z, distance in zip(
                indices.members, matches, scores.tolist(), standardised(scores, others).tolist(), distances, strict=True
            )
        ]
        progress(label + 1, len(chosen))
    inside, outside = (torch.cat(parts) for parts in zip(*by_score["ssim"], strict=True))
    return Leakage(
        members=len(inside), training_images=len(data.train_labels), samples=len(images),
        reconstructed=int((inside > RECONSTRUCTED).sum()), reconstructed_held_out=int((outside > RECONSTRUCTED).sum()),
        ssim=Separation.of(by_score["ssim"]), control=Separation.of(by_score["control"]),
        feature_distance=Separation.of(by_score["features"]) if network is not None else None,
        by_class={
            name: Separation.of([scores]) for name, scores in zip(data.class_names, by_score["ssim"], strict=True)
        },
        ranking=sorted(ranking, key=lambda each: -each.z),
    )  # fmt: skip


def standardised(scores: Tensor, others: Tensor) -> Tensor:
    """z-scores of `scores` [M] by the mean and the standard deviation of `others` [K], the non-members of the class; [M]."""
    return (scores - others.mean()) / others.std().clamp_min(1e-6)


def one_to_one(similarity: Tensor) -> tuple[Tensor, Tensor]:
    """(value [N], column [N]) of each row of `similarity` [N, K], N ≤ K, in the matching with the largest sum.

    No column serves two rows.
    """
    from scipy.optimize import linear_sum_assignment

    _, columns = linear_sum_assignment(similarity.double().numpy(), maximize=True)
    chosen = torch.from_numpy(columns)
    return similarity.gather(1, chosen[:, None]).squeeze(1), chosen


def _similarity(known: SSIMFeatures, candidates: Tensor) -> Tensor:
    """SSIM of every real image (row) to every candidate (column), [N, K]."""
    return torch.cat([ssim(known, SSIMFeatures(part)) for part in candidates.split(_PART)], dim=1)


def _images(images: NDArray[np.uint8], indices: NDArray[np.intp]) -> Tensor:
    """Some of the images, [n, channels, height, width] in [0, 1]."""
    return tensors(images[indices], np.zeros(len(indices), np.uint8))[0]
