"""The full evaluation of a generated set. It takes minutes, so it runs once, at the end.

Every measure is features → statistics → value: a function of an `Evaluation`, and one line in `MEASURES`. `evaluate` measures
floors and a ceiling in the same way, because a score means little without them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any, Final, NamedTuple, Self

import torch
from torch import Tensor

from gbc.classifiers.architectures import Classifier
from gbc.data.samples import ImageDataset, tensors
from gbc.metrics import distillation, scores, student
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
from gbc.report import DISTILLATION_DIRECTIONS, Direction


class Evaluator:
    """Real images, the feature network and their features, shared by all evaluations and computed once."""

    def __init__(self, reference: ReferenceSet, network: FeatureNetwork, class_names: tuple[str, ...]) -> None:
        """`reference` must not contain test images that `network` was trained on."""
        self.reference, self.network, self.class_names = reference, network, class_names

    @classmethod
    def of(cls, data: ImageDataset, oracle: Oracle) -> Self:
        """The evaluator of `data`, without the test images that the oracle was trained on."""
        test = tensors(data.test_images[oracle.judged], data.test_labels[oracle.judged])
        return cls(ReferenceSet(*data.train(), *test), oracle.network, data.class_names)

    @cached_property
    def train_features(self) -> Tensor:
        """Features of the classifier's training images, [N, d]."""
        return self.network.features(self.reference.train_images)

    @cached_property
    def held_out(self) -> SSIMFeatures:
        """Features of the first test images of each class, at most as many as the class has training images."""
        reference, picked = self.reference, []
        for label, real in reference.classes.items():
            picked.append(reference.test_images[reference.test_labels == label][: real.stop - real.start])
        return SSIMFeatures(torch.cat(picked))

    @cached_property
    def test_features(self) -> Tensor:
        """Features of the test images, [K, d]."""
        return self.network.features(self.reference.test_images)


class Evaluation(ScoredSamples):
    """A generated set and an evaluator. Each intermediate result is computed at its first use."""

    def __init__(self, evaluator: Evaluator, images: Tensor, labels: Tensor, teachers: Sequence[Classifier] = ()) -> None:
        """`images` [K, channels, height, width] in [0, 1], `labels` [K].

        `teachers` are the classifiers that a generator was born from, for distillation; those of other classes are left out.
        """
        super().__init__(evaluator.reference, images, labels)
        self.evaluator = evaluator
        same = distillation.same_classes(teachers, evaluator.class_names)
        self.lesson = distillation.Lesson(teachers, distillation.STUDENT, distillation.STEPS) if same else None

    @cached_property
    def features(self) -> Tensor:
        """Features of the generated images, [K, d]."""
        return self.evaluator.network.features(self.images)

    @cached_property
    def neighbourhoods(self) -> Neighbourhoods:
        """Neighbourhoods among training images, whose number is the same for every set: these measures depend on it."""
        return neighbourhoods(real=self.evaluator.train_features, generated=self.features)

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
        """Share of the students of the generated set that classify each test image correctly, [test images]."""
        return student.mean_of_students(self, len(self.evaluator.class_names))

    def scores(self) -> dict[str, float]:
        """Every measure of `MEASURES`, and with teachers of `DISTILLATION`. Compare only sets of equal size."""
        measures = {**MEASURES, **DISTILLATION} if self.lesson else MEASURES
        return {name: float(measure.function(self)) for name, measure in measures.items()}

    def by_class(self) -> dict[str, dict[str, float]]:
        """For some measures, the value of each class, by measure and class name."""
        reference = self.reference
        values = {
            "ssim/coverage": scores.ssim_coverage_by_class(self),
            "prdc/coverage": _means(covered(self.neighbourhoods), reference.train_labels),
            "tstr/cnn": _means(self.students_correct, reference.test_labels),
        }
        names = self.evaluator.class_names
        return {measure: dict(zip(names, of_classes.tolist(), strict=True)) for measure, of_classes in values.items()}


class Measure(NamedTuple):
    """One measure of a generated set."""

    function: Callable[[Evaluation], Tensor]
    better: Direction
    training_images: bool
    """True if it uses the classifier's training images: for validation, never as the objective of a search without data."""


def tstr_cnn(evaluation: Evaluation) -> Tensor:
    """Train on synthetic, test on real: accuracy on the test images of a small network trained on the generated set."""
    return evaluation.students_correct.mean()


def oracle_accuracy(evaluation: Evaluation) -> Tensor:
    """Share of generated images to which the feature network, trained on real images, gives their label."""
    return (evaluation.evaluator.network.predict(evaluation.images) == evaluation.labels).float().mean()


def kid(evaluation: Evaluation) -> Tensor:
    """Kernel distance to the test images; unbiased, so its mean does not depend on the number of test images."""
    return squared_mmd(real=evaluation.evaluator.test_features, generated=evaluation.features)


def label_agreement(evaluation: Evaluation) -> Tensor:
    """Share of generated images whose nearest training image, by SSIM, has their label."""
    return (evaluation.reference.train_labels[evaluation.nearest_training] == evaluation.labels).float().mean()


def duplicates(evaluation: Evaluation) -> Tensor:
    """1 − distinct nearest training images / generated images.

    Independent real images share neighbours too: compare with the ceiling, not with 0.
    """
    return torch.tensor(1 - len(evaluation.nearest_training.unique()) / len(evaluation.images))


def reconstructed_training(evaluation: Evaluation) -> Tensor:
    """The largest number of training images matched one-to-one with generated images at an SSIM above 0.4.

    Compare it with `reconstructed_held_out`: a set of blurred shirts also matches shirts that were not trained on.
    """
    return torch.tensor(largest_matching(evaluation.to_training))


def reconstructed_held_out(evaluation: Evaluation) -> Tensor:
    """`reconstructed_training` for as many test images: the number of matches that chance and the classes alone give.

    If there are fewer test images, the number is scaled up. It is then too high rather than too low, because fewer images
    compete for the generated ones.
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


def teacher_accuracy(evaluation: Evaluation) -> Tensor:
    """Accuracy of the teachers together on the test images: what a student of theirs can reach."""
    reference, lesson = evaluation.reference, evaluation.lesson
    assert lesson is not None
    return (lesson.answers(reference.test_images) == reference.test_labels).float().mean()


def student_accuracy(evaluation: Evaluation) -> Tensor:
    """Accuracy on the test images of a student of the teachers that has seen the generated set alone, without its labels."""
    reference, lesson = evaluation.reference, evaluation.lesson
    assert lesson is not None
    answers = distillation.classes_of(lesson.teach(evaluation.images), reference.test_images)
    return (answers == reference.test_labels).float().mean()


_OF_TEACHERS: Final = {"distil/teacher": teacher_accuracy, "distil/student": student_accuracy}
DISTILLATION: Final[dict[str, Measure]] = {
    name: Measure(_OF_TEACHERS[name], better, False) for name, better in DISTILLATION_DIRECTIONS.items()
}
"""Measures that need the classifiers of the generated set."""


@dataclass(frozen=True)
class EvaluationResult:
    """Scores of a generated set and of its controls."""

    scores: dict[str, dict[str, float]]
    """Scores by row and measure. The first row is the generated set, the last one the ceiling, if there is one."""
    by_class: dict[str, dict[str, float]]
    """Scores of the generated set by measure and class name."""
    oracle_accuracy: float
    """Accuracy of the feature network on real test images."""
    oracle_trained_on: str
    """Description of its training images, and the number of evaluated test images unless it is all of them."""

    def to_json(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return asdict(self)

    def text(self) -> str:
        """Two tables: each measure with its controls, and the values of each class."""
        known = {**MEASURES, **DISTILLATION}
        measures = {name: known[name] for name in next(iter(self.scores.values()))}
        marks = {name: f"{name}{' *' if measure.training_images else ''}" for name, measure in measures.items()}
        scores = {
            f"{marks[name]:26}{measure.better:>5}": [row[name] for row in self.scores.values()]
            for name, measure in measures.items()
        }
        classes = {f"{marks[measure]:31}": list(values.values()) for measure, values in self.by_class.items()}
        names = next(iter(self.by_class.values()))
        return "\n".join(
            [
                *_table(f"{'':26}{'best':>5}", list(self.scores), scores),
                "",
                *_table(f"{'classes of ' + next(iter(self.scores)):31}", list(names), classes),
                "",
                "* uses the classifier's training images: validation only",
                f"feature network: accuracy {self.oracle_accuracy:.3f} on real images, trained on {self.oracle_trained_on}",
            ]
        )


def evaluate(
    name: str, images: Tensor, labels: Tensor, data: ImageDataset, oracle: Oracle, teachers: Sequence[Classifier] = ()
) -> EvaluationResult:
    """Measure `images` [K, channels, height, width] in [0, 1] with `labels` [K], and controls of the same size.

    `name` is the row of the generated set. Test images that the oracle was trained on are not used. `teachers` are the
    classifiers that the generator was born from, if they are there.
    """
    evaluator = Evaluator.of(data, oracle)
    generated = Evaluation(evaluator, images, labels, teachers)
    rows = {name: generated.scores()}
    per_class = max(1, len(labels) // len(data.class_names))
    for control, evaluation in control_sets(evaluator, per_class, teachers).items():
        rows[control] = evaluation.scores()
    return EvaluationResult(rows, generated.by_class(), oracle.accuracy, oracle.trained_on)


def control_sets(evaluator: Evaluator, per_class: int, teachers: Sequence[Classifier] = ()) -> dict[str, Evaluation]:
    """Control sets with `per_class` images of each class, by name: the floors, wrong labels, and the ceiling.

    The ceiling, other real images, is not tested on itself; it is left out if there are too few test images.
    """
    reference = evaluator.reference
    sets = {**scores.floors(reference, per_class), "labels shifted": _shifted_labels(reference, per_class)}
    controls = {name: Evaluation(evaluator, *images, teachers) for name, images in sets.items()}
    if best := scores.ceiling(reference, per_class):
        reduced, images, labels = best
        smaller = Evaluator(reduced, evaluator.network, evaluator.class_names)
        controls[scores.CEILING] = Evaluation(smaller, images, labels, teachers)
    return controls


def _shifted_labels(reference: ReferenceSet, per_class: int) -> tuple[Tensor, Tensor]:
    """Training images of the classes in turn, with the label of the next class; repeated if there are too few."""
    classes = reference.train_labels.unique()
    members = [torch.nonzero(reference.train_labels == label).squeeze(1) for label in classes]
    picked = torch.stack([rows[torch.arange(per_class) % len(rows)] for rows in members], dim=1).flatten()
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
