"""Leakage: whether a generated set resembles the images its classifier was trained on more than others of the same classes.

Each real image is matched one-to-one with a generated image of its class, and scored by their similarity. A score that is
higher for training images (members) than for held-out ones tells members from non-members: its AUC is above 0.5.
"""

from __future__ import annotations

from collections.abc import Callable
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
    """How well a score tells members from non-members."""

    auc: float
    """Probability that a member has a higher score than a non-member; equal scores count one half."""
    low: float
    high: float
    """95% interval of DeLong et al. (1988). It takes scores for independent, which those of one matching are not quite."""
    caught: float
    """Share of members above all but `FALSE_ALARMS` of the non-members (Carlini et al. 2022)."""

    @classmethod
    def of(cls, members: Tensor, others: Tensor) -> Separation:
        """Separation of the scores `members` [M] from `others` [K]; at least two of each."""
        pairs = members.double()[:, None] - others.double()[None]
        wins = (pairs > 0).double() + 0.5 * (pairs == 0)  # [M, K]
        auc = wins.mean().item()
        error = (wins.mean(dim=1).var() / len(members) + wins.mean(dim=0).var() / len(others)).sqrt().item()
        allowed = int(FALSE_ALARMS * len(others))
        threshold = others.sort(descending=True).values[allowed]
        return cls(
            auc, max(0.0, auc - _QUANTILE * error), min(1.0, auc + _QUANTILE * error),
            (members > threshold).float().mean().item(),
        )  # fmt: skip

    def verdict(self) -> str:
        """The meaning of the interval in words."""
        if self.low > 0.5:
            return "differs from 0.5: training images are reconstructed better than held-out ones"
        if self.high < 0.5:
            return "differs from 0.5, but downwards: held-out images are reconstructed better than training ones"
        return "does not differ from 0.5: it does not tell training images from held-out ones"

    def text(self) -> str:
        """AUC, interval and verdict in one line."""
        return f"AUC {self.auc:.3f} (95% interval {self.low:.3f} to {self.high:.3f}) {self.verdict()}"


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
    ranking: list[Reconstruction]
    """Training images by SSIM, best reconstructed first."""

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
            ]
        )


@dataclass(frozen=True)
class ComparedImages:
    """Indices of the images of one class that are compared, three different sets of equal size."""

    members: NDArray[np.intp]
    """Training images."""
    held_out: NDArray[np.intp]
    """Test images that no feature network is trained on (`features.halves`)."""
    control: NDArray[np.intp]
    """Other test images."""


def compared(data: ImageDataset) -> list[ComparedImages]:
    """The images of each class that are compared: the first of each set, as many as all three have, at most `MOST_PER_CLASS`.

    Raises:
        BadInput: there are fewer than two.
    """
    other, spare = features.halves(data.test_labels)
    chosen = []
    for label in range(len(data.class_names)):
        sets = [np.flatnonzero(data.train_labels == label)]
        sets += [half[data.test_labels[half] == label] for half in (spare, other)]
        count = min(MOST_PER_CLASS, *map(len, sets))
        chosen.append(ComparedImages(*(indices[:count] for indices in sets)))
    if sum(len(each.members) for each in chosen) < 2:
        raise BadInput(f"{data.name}: too few test images: leakage is measured against images that were not trained on")
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
        by_score["ssim"].append((scores, one_to_one(held_out)[0]))
        members, held_out = _similarity(known, _images(data.test_images, indices.control)).split(count)
        by_score["control"].append((one_to_one(members)[0], one_to_one(held_out)[0]))
        distances = list[float | None]([None] * count)
        if network is not None:
            members, held_out = (-torch.cdist(network.features(real), network.features(images[rows]))).split(count)
            near, _ = one_to_one(members)
            by_score["features"].append((near, one_to_one(held_out)[0]))
            distances = (-near).tolist()
        ranking += [
            Reconstruction(int(image), name, int(rows[match]), score, distance)
            for image, match, score, distance in zip(indices.members, matches, scores.tolist(), distances, strict=True)
        ]
        progress(label + 1, len(chosen))
    pooled = {
        name: tuple(torch.cat(parts) for parts in zip(*classes, strict=True)) for name, classes in by_score.items() if classes
    }
    inside, outside = pooled["ssim"]
    return Leakage(
        members=len(inside), training_images=len(data.train_labels), samples=len(images),
        reconstructed=int((inside > RECONSTRUCTED).sum()), reconstructed_held_out=int((outside > RECONSTRUCTED).sum()),
        ssim=Separation.of(inside, outside), control=Separation.of(*pooled["control"]),
        feature_distance=Separation.of(*pooled["features"]) if "features" in pooled else None,
        ranking=sorted(ranking, key=lambda each: -each.ssim),
    )  # fmt: skip


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
