"""Scores of a set of generated images against real ones, for validation, never as a training signal.

Every metric is features → statistics → value: a function of a `ScoredSamples`, and one line in `METRICS`.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from typing import TYPE_CHECKING, Final

import torch
from torch import Tensor

if TYPE_CHECKING:
    from gbc.data.datasets import ImageDataset

FLOOR: Final = "uniform noise"
MEANS: Final = "class means"
CEILING: Final = "other real images"
WINDOW: Final = 7
"""Side of the windows of SSIM, in pixels."""
NEAREST: Final = 80
"""Number of samples that are compared with their nearest training image."""
_CHUNK: Final = 1 << 17
_DISTANCES: Final = 50_000_000
_C1, _C2 = 0.01**2, 0.03**2  # constants of Wang et al. (2004) for a data range of 1


class SSIMFeatures:
    """Windows of images [K, channels, height, width], prepared for SSIM with other images."""

    def __init__(self, images: Tensor) -> None:
        """Extract every 7×7 window of every channel, centre it and scale it for the sample covariance."""
        size = WINDOW * WINDOW
        windows = images.unfold(2, WINDOW, 1).unfold(3, WINDOW, 1)  # [K, channels, rows, columns, 7, 7], a view
        patches = windows.permute(1, 2, 3, 0, 4, 5).reshape(-1, len(images), size)  # [windows, K, 49], the one copy
        self.mean = patches.mean(dim=2)  # [windows, K]
        self.centred = patches.sub_(self.mean[..., None]).div_((size - 1) ** 0.5)
        self.variance = torch.linalg.vecdot(self.centred, self.centred)  # [windows, K]

    def part(self, images: slice) -> SSIMFeatures:
        """The features of some of the images; a view."""
        part = object.__new__(SSIMFeatures)
        part.mean, part.centred, part.variance = self.mean[:, images], self.centred[:, images], self.variance[:, images]
        return part


def ssim(left: SSIMFeatures, right: SSIMFeatures) -> Tensor:
    """Mean structural similarity of every pair, [left, right].

    Uniform 7×7 windows, sample covariance, data range 1, borders cropped: scikit-image's defaults.
    """
    windows, rows = left.mean.shape
    columns = right.mean.shape[1]
    total = torch.zeros(rows, columns, device=left.mean.device)
    # So many windows at a time that the working set fits into the processor's cache.
    chunk = max(1, _CHUNK // (rows * columns))
    for start in range(0, windows, chunk):
        part = slice(start, start + chunk)
        mean_l, mean_r = left.mean[part, :, None], right.mean[part, None, :]
        contrast = torch.bmm(left.centred[part], right.centred[part].mT).mul_(2).add_(_C2)
        contrast.div_(left.variance[part, :, None] + (right.variance[part, None, :] + _C2))
        brightness = (mean_l * mean_r).mul_(2).add_(_C1)
        brightness.div_(mean_l.square() + (mean_r.square() + _C1))
        total.add_(contrast.mul_(brightness).sum(dim=0))
    return total / windows


def nearest_neighbour(queries: Tensor, references: Tensor) -> Tensor:
    """Index of the reference [R, …] nearest in Euclidean distance to each query [Q, …], [Q]."""
    candidates = references.flatten(1)
    # All distances of ten thousand images to sixty thousand would take 2.4 GB.
    parts = queries.flatten(1).split(max(1, _DISTANCES // len(candidates)))
    return torch.cat([torch.cdist(part, candidates).argmin(dim=1) for part in parts])


class ReferenceSet:
    """The real images of one data set, training images in order of their labels, with features that are computed once."""

    def __init__(self, train_images: Tensor, train_labels: Tensor, test_images: Tensor, test_labels: Tensor) -> None:
        """Images are [·, channels, height, width] in [0, 1], labels [·]."""
        order = train_labels.argsort(stable=True)  # a class is then a slice, whose features need no copy
        self.train_images, self.train_labels = train_images[order], train_labels[order]
        self.test_images, self.test_labels = test_images, test_labels
        self.train_features = SSIMFeatures(self.train_images)
        labels, counts = train_labels.unique(return_counts=True)
        ends = counts.cumsum(0).tolist()
        self.classes = {
            label: slice(end - count, end) for label, count, end in zip(labels.tolist(), counts.tolist(), ends, strict=True)
        }
        """The training images of each label."""

    @classmethod
    def of(cls, data: ImageDataset, device: torch.device | str) -> ReferenceSet:
        """The images of `data`, on `device`."""
        return cls(*(tensor.to(device) for tensor in (*data.train(), *data.test())))


class ScoredSamples:
    """A generated set and real images. Each intermediate result is computed at its first use."""

    def __init__(self, reference: ReferenceSet, images: Tensor, labels: Tensor) -> None:
        """`images` [K, channels, height, width] in [0, 1] in the order of the picture, `labels` [K]."""
        self.reference, self.images, self.labels = reference, images, labels

    @cached_property
    def nearest(self) -> tuple[Tensor, Tensor]:
        """(index of the training image with the highest SSIM, that SSIM) for the first `NEAREST` images, any class."""
        value, index = ssim(SSIMFeatures(self.images[:NEAREST]), self.reference.train_features).max(dim=1)
        return index, value

    @cached_property
    def classified_correctly(self) -> Tensor:
        """1 for each test image whose nearest generated image has its label, else 0; [test images]."""
        predicted = self.labels[nearest_neighbour(self.reference.test_images, self.images)]
        return (predicted == self.reference.test_labels).float()

    def scores(self) -> dict[str, float]:
        """Every metric of `METRICS`. Compare only sets of equal size."""
        return {name: float(metric(self)) for name, metric in METRICS.items()}


def ssim_nearest(samples: ScoredSamples) -> Tensor:
    """The paper's score: mean SSIM of a generated image to its nearest training image. Black images score high."""
    return samples.nearest[1].mean()


def ssim_coverage_by_class(samples: ScoredSamples) -> Tensor:
    """Mean over the training images of each class of the best SSIM among generated images of that class, [classes].

    A class without generated images counts 0.
    """
    reference, scores = samples.reference, []
    for label, real in reference.classes.items():
        generated = samples.images[samples.labels == label]
        if not len(generated):
            scores.append(torch.zeros((), device=samples.images.device))
            continue
        scores.append(ssim(SSIMFeatures(generated), reference.train_features.part(real)).max(dim=0).values.mean())
    return torch.stack(scores)


def ssim_coverage(samples: ScoredSamples) -> Tensor:
    """Mean of `ssim_coverage_by_class` with equal weights. Unlike the paper's score it is low for images without variety."""
    return ssim_coverage_by_class(samples).mean()


def tstr_1nn(samples: ScoredSamples) -> Tensor:
    """Train on synthetic, test on real: accuracy on the test images of 1-NN over the generated images."""
    return samples.classified_correctly.mean()


def tstr_1nn_by_class(samples: ScoredSamples) -> Tensor:
    """`tstr_1nn` on the test images of each class, [classes]."""
    labels = samples.reference.test_labels
    return torch.stack([samples.classified_correctly[labels == label].mean() for label in labels.unique()])


METRICS: Final[dict[str, Callable[[ScoredSamples], Tensor]]] = {
    "ssim/nearest": ssim_nearest,
    "ssim/coverage": ssim_coverage,
    "tstr/1nn": tstr_1nn,
}


def floors(reference: ReferenceSet, per_class: int) -> dict[str, tuple[Tensor, Tensor]]:
    """Sets of little value, by name: (images [K, channels, height, width], labels [K]), `per_class` of each class."""
    images, classes = reference.train_images, reference.train_labels.unique()
    labels = classes.repeat(per_class)
    means = torch.stack([images[reference.train_labels == label].mean(dim=0) for label in classes])
    blank = torch.zeros(len(labels), *images.shape[1:])
    noise = torch.rand(blank.shape, generator=torch.Generator().manual_seed(0))
    return {
        "black": (blank + 0.001 * noise, labels),
        FLOOR: (noise, labels),
        "mean image": (images.mean(dim=0).expand_as(blank), labels),
        MEANS: (means.repeat(per_class, 1, 1, 1), labels),
    }


def ceiling(reference: ReferenceSet, per_class: int) -> tuple[ReferenceSet, Tensor, Tensor] | None:
    """`per_class` test images of each class in place of generated ones: (reference without them, images [K, …], labels [K]).

    None if a class does not have more than `per_class` test images: every class must be left to test on.
    """
    labels = reference.test_labels
    classes = labels.unique()
    members = [torch.nonzero(labels == label).squeeze(1) for label in classes]
    if any(len(rows) <= per_class for rows in members):
        return None
    taken = torch.stack([rows[:per_class] for rows in members], dim=1).flatten()
    rest = torch.ones(len(labels), dtype=torch.bool)
    rest[taken] = False
    reduced = ReferenceSet(reference.train_images, reference.train_labels, reference.test_images[rest], labels[rest])
    return reduced, reference.test_images[taken], classes.repeat(per_class)


def controls(data: ImageDataset, per_class: int) -> dict[str, dict[str, float]]:
    """Scores of the control sets, floors and the ceiling, with `per_class` images of each class; by set and metric.

    The `CEILING` consists of test images, and is tested on the remaining ones.
    """
    reference = ReferenceSet.of(data, "cpu")
    rows = {name: ScoredSamples(reference, *images).scores() for name, images in floors(reference, per_class).items()}
    if best := ceiling(reference, per_class):
        rows[CEILING] = ScoredSamples(*best).scores()
    return rows
