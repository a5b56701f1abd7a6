"""The full evaluation of a generated set: minutes, not milliseconds, so it runs once, at the end.

Every measure is features → statistics → value: a function of an `Evaluation`, and one line in `MEASURES`. No score is
read alone: `evaluate` measures floors and the ceiling in the same way.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any, Final, NamedTuple, Self

import torch
from torch import Tensor

from gbc.data.samples import ImageDataset, tensors
from gbc.metrics import scores, student
from gbc.metrics.features import FeatureNetwork, Oracle
from gbc.metrics.scores import ReferenceSet, ScoredSamples, SSIMFeatures, ssim
from gbc.metrics.statistics import (
    Neighbourhoods,
    covered,
    density,
    largest_matching,
    neighbourhoods,
    precision,
    recall,
    squared_mmd,
)
from gbc.report import Direction


class Evaluator:
    """Real images and the eyes they are seen with: what every comparison shares, computed once."""

    def __init__(self, reference: ReferenceSet, network: FeatureNetwork, class_names: tuple[str, ...]) -> None:
        """`reference` must hold no test image that `network` was trained on."""
        self.reference, self.network, self.class_names = reference, network, class_names

    @classmethod
    def of(cls, data: ImageDataset, oracle: Oracle) -> Self:
        """Of `data`, whose test images that the oracle was trained on are left out."""
        test = tensors(data.test_images[oracle.judged], data.test_labels[oracle.judged])
        return cls(ReferenceSet(*data.train(), *test), oracle.network, data.class_names)

    @cached_property
    def train_features(self) -> Tensor:
        """Of the classifier's training images, [N, d]."""
        return self.network.features(self.reference.train_images)

    @cached_property
    def held_out(self) -> SSIMFeatures:
        """The first test images of each class, as many as there are training images of it or as the class has."""
        reference, picked = self.reference, []
        for label, real in reference.classes.items():
            picked.append(reference.test_images[reference.test_labels == label][: real.stop - real.start])
        return SSIMFeatures(torch.cat(picked))

    @cached_property
    def test_features(self) -> Tensor:
        """Of the test images, [K, d]."""
        return self.network.features(self.reference.test_images)


class Evaluation(ScoredSamples):
    """A generated set before an evaluator. Intermediate results are computed when a measure first asks for them."""

    def __init__(self, evaluator: Evaluator, images: Tensor, labels: Tensor) -> None:
        """`images` [K, channels, height, width] in [0, 1], `labels` [K]."""
        super().__init__(evaluator.reference, images, labels)
        self.evaluator = evaluator

    @cached_property
    def seen(self) -> Tensor:
        """Features of the generated images, [K, d]."""
        return self.evaluator.network.features(self.images)

    @cached_property
    def neighbourhoods(self) -> Neighbourhoods:
        """Against the training images: their number is the same in every row, and these measures depend on it."""
        return neighbourhoods(real=self.evaluator.train_features, generated=self.seen)

    def similarity(self, real: SSIMFeatures) -> Tensor:
        """SSIM of every generated to every real image, [K, N]."""
        return torch.cat([ssim(SSIMFeatures(part), real) for part in self.images.split(100)])

    @cached_property
    def to_training(self) -> Tensor:
        """`similarity` to the training images."""
        return self.similarity(self.reference.train_features)

    @cached_property
    def nearest_training(self) -> Tensor:
        """Index of the training image with the highest SSIM to each generated image, any class, [K]."""
        return self.to_training.argmax(dim=1)

    @cached_property
    def students_correct(self) -> Tensor:
        """The share of students of the generated set that name the class of each test image, [test images]."""
        return student.mean_of_several(self, len(self.evaluator.class_names))

    def scores(self) -> dict[str, float]:
        """Every measure of `MEASURES`. Compare only sets of equal size."""
        return {name: float(measure.of(self)) for name, measure in MEASURES.items()}

    def by_class(self) -> dict[str, dict[str, float]]:
        """What the mean over classes hides: for some measures the value of each class, by its name."""
        reference = self.reference
        values = {
            "ssim/coverage": scores.ssim_coverage_by_class(self),
            "prdc/coverage": _means(covered(self.neighbourhoods), reference.train_labels),
            "tstr/cnn": _means(self.students_correct, reference.test_labels),
        }
        names = self.evaluator.class_names
        return {measure: dict(zip(names, found.tolist(), strict=True)) for measure, found in values.items()}


class Measure(NamedTuple):
    """One score."""

    of: Callable[[Evaluation], Tensor]
    better: Direction
    training_images: bool
    """Whether it looks at the images that the classifier was trained on: validation, never an objective without data."""


def tstr_cnn(evaluation: Evaluation) -> Tensor:
    """Train on synthetic, test on real: accuracy on the test images of a small network trained on the generated set."""
    return evaluation.students_correct.mean()


def oracle_accuracy(evaluation: Evaluation) -> Tensor:
    """Share of generated images that the feature network, which knows only real images, gives their label."""
    return (evaluation.evaluator.network.predict(evaluation.images) == evaluation.labels).float().mean()


def kid(evaluation: Evaluation) -> Tensor:
    """Kernel distance to the test images; unbiased, so the number of test images does not shift it."""
    return squared_mmd(real=evaluation.evaluator.test_features, generated=evaluation.seen)


def label_agreement(evaluation: Evaluation) -> Tensor:
    """Share of generated images whose nearest training image, by SSIM, has their label."""
    return (evaluation.reference.train_labels[evaluation.nearest_training] == evaluation.labels).float().mean()


def duplicates(evaluation: Evaluation) -> Tensor:
    """1 − distinct nearest training images / generated images.

    Independent real images collide too: compare with the ceiling, not with 0.
    """
    return torch.tensor(1 - len(evaluation.nearest_training.unique()) / len(evaluation.images))


def reconstructed_training(evaluation: Evaluation) -> Tensor:
    """The number of training images that have a generated one to themselves with an SSIM above 0.4.

    Read it beside `reconstructed_held_out`: a set of blurred shirts has matches among shirts that nobody trained on.
    """
    return torch.tensor(largest_matching(evaluation.to_training))


def reconstructed_held_out(evaluation: Evaluation) -> Tensor:
    """The number of as many test images that have one: what chance and the classes alone give, without any training on them.

    Where there are fewer test images, in proportion: then they compete less for generated ones, and the number is too high
    rather than too low.
    """
    held_out = evaluation.evaluator.held_out
    share = held_out.mean.shape[1] / len(evaluation.reference.train_images)
    return torch.tensor(largest_matching(evaluation.similarity(held_out)) / share)


MEASURES: Final[dict[str, Measure]] = {
    "ssim/nearest": Measure(scores.ssim_nearest, "max", True),
    "ssim/coverage": Measure(scores.ssim_coverage, "max", True),
    "nearest/label_agreement": Measure(label_agreement, "max", True),
    "nearest/duplicates": Measure(duplicates, "min", True),
    "reconstructed/train": Measure(reconstructed_training, "max", True),
    "reconstructed/held_out": Measure(reconstructed_held_out, "max", False),
    "prdc/precision": Measure(lambda e: precision(e.neighbourhoods), "max", True),
    "prdc/recall": Measure(lambda e: recall(e.neighbourhoods), "max", True),
    "prdc/density": Measure(lambda e: density(e.neighbourhoods), "max", True),
    "prdc/coverage": Measure(lambda e: covered(e.neighbourhoods).mean(), "max", True),
    "tstr/1nn": Measure(scores.tstr_1nn, "max", False),
    "tstr/cnn": Measure(tstr_cnn, "max", False),
    "oracle/accuracy": Measure(oracle_accuracy, "max", False),
    "kid": Measure(kid, "min", False),
}


@dataclass(frozen=True)
class Result:
    """Scores of a generated set between those of its controls."""

    scores: dict[str, dict[str, float]]
    """By row, then by measure. The first row is the generated set, the last the ceiling, if there is one."""
    by_class: dict[str, dict[str, float]]
    """Of the generated set, by measure, then by class name."""
    oracle_accuracy: float
    """Of the feature network on real test images."""
    oracle_trained_on: str
    """In words, with the number of test images that are judged if it is not all of them."""

    def plain(self) -> dict[str, Any]:
        """As JSON takes it."""
        return asdict(self)

    def text(self) -> str:
        """Two tables: each measure with its controls, and the values of each class."""
        marks = {name: f"{name}{' *' if measure.training_images else ''}" for name, measure in MEASURES.items()}
        scores = {
            f"{marks[name]:26}{measure.better:>5}": [row[name] for row in self.scores.values()]
            for name, measure in MEASURES.items()
        }
        classes = {f"{marks[measure]:31}": list(values.values()) for measure, values in self.by_class.items()}
        names = next(iter(self.by_class.values()))
        return "\n".join(
            [
                *_table(f"{'':26}{'best':>5}", list(self.scores), scores),
                "",
                *_table(f"{'classes of ' + next(iter(self.scores)):31}", list(names), classes),
                "",
                "* looks at the classifier's training images: validation only",
                f"feature network: accuracy {self.oracle_accuracy:.3f} on real images, trained on {self.oracle_trained_on}",
            ]
        )


def evaluate(name: str, images: Tensor, labels: Tensor, data: ImageDataset, oracle: Oracle) -> Result:
    """Measure `images` [K, channels, height, width] in [0, 1] with `labels` [K], and controls of the same size.

    `name` heads the row of the generated set. Of the test images only those the oracle was not trained on are used.
    """
    evaluator = Evaluator.of(data, oracle)
    generated = Evaluation(evaluator, images, labels)
    rows = {name: generated.scores()}
    per_class = max(1, len(labels) // len(data.class_names))
    for control, found in control_sets(evaluator, per_class).items():
        rows[control] = found.scores()
    return Result(rows, generated.by_class(), oracle.accuracy, oracle.trained_on)


def control_sets(evaluator: Evaluator, per_class: int) -> dict[str, Evaluation]:
    """Sets whose worth is known, `per_class` images of each class: the floors, wrong labels, and the ceiling.

    The ceiling, other real images, is not tested on itself; it is missing where there are too few test images.
    """
    reference = evaluator.reference
    found = {name: Evaluation(evaluator, *images) for name, images in scores.floors(reference, per_class).items()}
    found["labels shifted"] = Evaluation(evaluator, *_shifted_labels(reference, per_class))
    if best := scores.ceiling(reference, per_class):
        fair, *images = best
        found["other real images"] = Evaluation(Evaluator(fair, evaluator.network, evaluator.class_names), *images)
    return found


def _shifted_labels(reference: ReferenceSet, per_class: int) -> tuple[Tensor, Tensor]:
    """Training images under the label of the next class, by turns from each class; repeated where there are too few."""
    classes = reference.train_labels.unique()
    members = [torch.nonzero(reference.train_labels == label).squeeze(1) for label in classes]
    picked = torch.stack([theirs[torch.arange(per_class) % len(theirs)] for theirs in members], dim=1).flatten()
    return reference.train_images[picked], classes.roll(-1).repeat(per_class)


def _means(values: Tensor, labels: Tensor) -> Tensor:
    """Mean of `values` [K] over each class of `labels` [K], [classes]."""
    return torch.stack([values[labels == label].mean() for label in labels.unique()])


def _table(corner: str, columns: list[str], rows: dict[str, list[float]]) -> list[str]:
    widths = [max(8, len(column) + 2) for column in columns]
    head = corner + "".join(f"{column:>{width}}" for column, width in zip(columns, widths, strict=True))
    lines = [
        name + "".join(f"{value:{width}.3f}" for value, width in zip(values, widths, strict=True))
        for name, values in rows.items()
    ]
    return [head, *lines]
