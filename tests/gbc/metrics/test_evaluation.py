"""The full evaluation: statistics against cases solved by hand and brute force, the whole against its controls."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from gbc.classifiers.architectures import Classifier
from gbc.data.datasets import ImageDataset
from gbc.data.samples import tensors
from gbc.metrics.evaluation import (
    DISTILLATION,
    MEASURES,
    Evaluation,
    EvaluationResult,
    Evaluator,
    control_sets,
    evaluate,
    label_agreement,
)
from gbc.metrics.features import Oracle
from gbc.metrics.scores import METRICS, ReferenceSet
from gbc.metrics.statistics import covered, largest_matching


@pytest.fixture(scope="module", autouse=True)
def _small_student(oracle: Oracle) -> Iterator[None]:
    """One student, and a twentieth of the budget, tell the controls apart as well. `oracle` is made before."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("gbc.metrics.student.STEPS", 80)
        patch.setattr("gbc.metrics.features._BATCH", 16)
        patch.setattr("gbc.metrics.student.STUDENTS", 1)
        yield


@pytest.fixture(scope="module")
def evaluator(images: ImageDataset, oracle: Oracle) -> Evaluator:
    test = tensors(images.test_images[oracle.judged], images.test_labels[oracle.judged])
    return Evaluator(ReferenceSet(*images.train(), *test), oracle.network, images.class_names)


@pytest.fixture(scope="module")
def controls(evaluator: Evaluator) -> dict[str, Evaluation]:
    return control_sets(evaluator, per_class=10)


@pytest.fixture(scope="module")
def result(images: ImageDataset, oracle: Oracle) -> EvaluationResult:
    return evaluate("mine", *images.train(), images, oracle)


@pytest.fixture(scope="module")
def trousers(evaluator: Evaluator) -> Evaluation:
    """Real trousers alone."""
    reference, rows = evaluator.reference, evaluator.reference.train_labels == 1
    return Evaluation(evaluator, reference.train_images[rows], reference.train_labels[rows])


def test_the_evaluation_takes_the_training_images_for_real(evaluator: Evaluator, trousers: Evaluation) -> None:
    """Real trousers alone are precise and cover little; with the arguments swapped they would be imprecise."""
    scores = trousers.scores()
    assert scores["prdc/precision"] == 1.0
    assert scores["prdc/recall"] < 0.5 and scores["prdc/coverage"] < 0.5
    assert len(covered(trousers.neighbourhoods)) == len(evaluator.reference.train_images)


# Reconstructed images


def test_one_generated_image_cannot_serve_two() -> None:
    """Rows 0 and 1 both resemble column 0 alone, row 2 resembles columns 1 and 2: two pairs at most. 0.4 is not above 0.4."""
    similarities = torch.tensor([[0.9, 0.1, 0.0], [0.8, 0.4, 0.0], [0.0, 0.7, 0.6]])
    assert largest_matching(similarities) == 2
    assert largest_matching(similarities.mT) == 2
    similarities[1, 1] = 0.41  # a greedy choice of the best pairs, (0, 0) and (2, 1), would leave row 1 alone
    assert largest_matching(similarities) == 3
    assert largest_matching(similarities, threshold=0.85) == 1


def test_copies_are_reconstructed_and_noise_is_not(evaluator: Evaluator) -> None:
    reference = evaluator.reference
    copies = Evaluation(evaluator, reference.train_images, reference.train_labels)
    assert MEASURES["reconstructed/train"].function(copies) == len(reference.train_images) == 100
    single_image = Evaluation(evaluator, reference.train_images[:1], reference.train_labels[:1])
    assert (single_image.to_training > 0.4).sum() > 1 and MEASURES["reconstructed/train"].function(single_image) == 1
    noise = Evaluation(evaluator, torch.rand(100, 1, 28, 28), reference.train_labels)
    assert MEASURES["reconstructed/train"].function(noise) == MEASURES["reconstructed/held_out"].function(noise) == 0


def test_held_out_images_are_as_many_as_the_training_images_of_each_class(evaluator: Evaluator) -> None:
    reference = evaluator.reference
    first = torch.cat([reference.test_images[reference.test_labels == label][:10] for label in range(10)])
    assert MEASURES["reconstructed/held_out"].function(Evaluation(evaluator, first, reference.train_labels)) == 100
    # Half as many held-out images, all of them found: in proportion, 100 of 100.
    few = ReferenceSet(reference.train_images, reference.train_labels, *(part.flatten(0, 1) for part in halves(reference)))
    small = Evaluator(few, evaluator.network, evaluator.class_names)
    assert small.held_out.mean.shape[1] == 50
    assert MEASURES["reconstructed/held_out"].function(Evaluation(small, first, reference.train_labels)) == 100


def halves(reference: ReferenceSet) -> tuple[Tensor, Tensor]:
    """Five test images of each class and their labels, [10, 5, …]."""
    picked = [torch.nonzero(reference.test_labels == label).squeeze(1)[:5] for label in range(10)]
    return torch.stack([reference.test_images[rows] for rows in picked]), torch.stack(
        [reference.test_labels[rows] for rows in picked]
    )


# The whole


@pytest.mark.long
def test_every_cheap_metric_is_in_the_full_evaluation(result: EvaluationResult) -> None:
    assert set(METRICS) < set(MEASURES)
    assert all(set(row) == set(MEASURES) for row in result.scores.values())
    for name in ("ssim/coverage", "prdc/coverage", "nearest/label_agreement", "reconstructed/train"):
        assert MEASURES[name].training_images
    for name in ("reconstructed/held_out", "tstr/1nn", "tstr/cnn", "oracle/accuracy", "kid"):
        assert not MEASURES[name].training_images


def test_measures_marked_free_of_training_images_do_not_change_with_them(
    images: ImageDataset, evaluator: Evaluator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gbc.metrics.student.STEPS", 10)  # any student shows what it was trained on
    reference = evaluator.reference
    blank = ReferenceSet(
        torch.zeros_like(reference.train_images), reference.train_labels, reference.test_images[:50], reference.test_labels[:50]
    )
    real = ReferenceSet(reference.train_images, reference.train_labels, reference.test_images[:50], reference.test_labels[:50])
    some = reference.test_images[50::7], reference.test_labels[50::7]
    left, right = (Evaluation(Evaluator(j, evaluator.network, images.class_names), *some).scores() for j in (blank, real))
    for name, measure in MEASURES.items():
        assert (left[name] == right[name]) != measure.training_images, name


def test_a_student_of_the_teachers_is_measured_beside_them(
    evaluator: Evaluator, classifier: Classifier, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gbc.metrics.distillation.STEPS", 60)
    reference = evaluator.reference
    real = Evaluation(evaluator, reference.train_images, reference.train_labels, [classifier])
    noise = Evaluation(evaluator, torch.rand(100, 1, 28, 28), reference.train_labels, [classifier])
    with torch.no_grad():
        answers = classifier.module.eval()(reference.test_images).argmax(dim=1)
    teacher = DISTILLATION["distil/teacher"].function(real)
    assert teacher == DISTILLATION["distil/teacher"].function(noise) == (answers == reference.test_labels).float().mean()
    student = DISTILLATION["distil/student"].function(real)
    assert 0.4 < student < teacher + 0.1 and DISTILLATION["distil/student"].function(noise) < student - 0.2
    shifted = Evaluation(evaluator, reference.train_images, reference.train_labels.roll(1), [classifier])
    assert DISTILLATION["distil/student"].function(shifted) == student  # the teacher labels them, not the generator


def test_teachers_of_other_classes_are_left_out(evaluator: Evaluator, classifier: Classifier) -> None:
    reference = evaluator.reference
    other = replace(classifier, class_names=tuple("abcdefghij"))
    for teachers in ([], [other], [classifier, other]):
        assert not Evaluation(evaluator, reference.train_images, reference.train_labels, teachers).lesson
    assert Evaluation(evaluator, reference.train_images, reference.train_labels, [classifier]).lesson


def test_the_training_set_is_its_own_best_neighbour(result: EvaluationResult) -> None:
    scores = result.scores["mine"]
    for name in ("prdc/precision", "prdc/recall", "prdc/coverage", "nearest/label_agreement"):
        assert scores[name] == 1.0
    assert scores["nearest/duplicates"] == 0.0
    assert scores["ssim/coverage"] == pytest.approx(1, abs=1e-5)


def test_controls_stand_in_the_order_that_people_see(result: EvaluationResult) -> None:
    rows = result.scores
    assert list(rows) == [
        "mine",
        "black",
        "uniform noise",
        "mean image",
        "class means",
        "labels shifted",
        "other real images",
    ]
    best = rows["other real images"]
    for floor in ("black", "uniform noise", "mean image"):
        for name in ("ssim/coverage", "nearest/label_agreement", "prdc/coverage", "tstr/1nn", "tstr/cnn", "oracle/accuracy"):
            assert rows[floor][name] < best[name] - 0.2, (floor, name)
        assert rows[floor]["kid"] > best["kid"] + 0.3
        assert rows[floor]["tstr/cnn"] < 0.25  # chance is 0.1; a constant prediction is off it by luck alone
    means = rows["class means"]
    assert means["prdc/coverage"] < best["prdc/coverage"] - 0.3 and means["prdc/recall"] < best["prdc/recall"]
    assert means["kid"] > best["kid"] + 0.1 and means["nearest/duplicates"] > best["nearest/duplicates"]


def test_wrong_labels_are_seen_by_the_measures_that_ask_for_labels_and_by_no_other(result: EvaluationResult) -> None:
    shifted, right = result.scores["labels shifted"], result.scores["mine"]
    for name in ("tstr/1nn", "tstr/cnn", "oracle/accuracy", "nearest/label_agreement"):
        assert shifted[name] < 0.15 < right[name]
    assert shifted["prdc/coverage"] == right["prdc/coverage"] == 1.0
    assert shifted["kid"] == pytest.approx(right["kid"])


def test_the_ceiling_is_not_tested_on_itself(evaluator: Evaluator, controls: dict[str, Evaluation]) -> None:
    best = controls["other real images"]
    theirs = {image.numpy().tobytes() for image in best.images}
    assert len(theirs) == 100
    assert not theirs & {image.numpy().tobytes() for image in best.reference.test_images}
    assert len(best.reference.test_images) == len(evaluator.reference.test_images) - 100
    assert "other real images" not in control_sets(evaluator, per_class=101)  # there are 100 of each class


def test_controls_repeat_training_images_where_there_are_too_few(evaluator: Evaluator) -> None:
    shifted = control_sets(evaluator, per_class=12)["labels shifted"]
    assert len(shifted.images) == 120
    assert label_agreement(shifted).item() == 0.0


def test_classes_are_told_apart(trousers: Evaluation, result: EvaluationResult, images: ImageDataset) -> None:
    for name, values in result.by_class.items():
        assert list(values) == list(images.class_names)
        # The numbers of images are equal, so the mean over classes is the mean.
        assert np.mean(list(values.values())) == pytest.approx(result.scores["mine"][name], abs=1e-6)
    alone = trousers.by_class()
    assert alone["ssim/coverage"]["Trouser"] == pytest.approx(1, abs=1e-5) and alone["ssim/coverage"]["Bag"] == 0.0
    assert alone["prdc/coverage"]["Trouser"] == 1.0
    assert alone["tstr/cnn"]["Trouser"] == 1.0 and alone["tstr/cnn"]["Bag"] == 0.0


def test_the_result_is_read_by_people_and_programs(result: EvaluationResult) -> None:
    again = json.loads(json.dumps(result.to_json()))
    assert again["scores"] == result.scores and again["oracle_accuracy"] == result.oracle_accuracy
    text = result.text()
    first, _, _ = text.partition("classes of mine")
    lines = {line.split("  ")[0]: line for line in first.splitlines()}
    assert "max" in lines["prdc/coverage *"] and "min" in lines["kid"]
    assert any(line.startswith("* ") for line in text.splitlines())  # what the star means
    assert result.oracle_trained_on in text and "Ankle boot" in text
