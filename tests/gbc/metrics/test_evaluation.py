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
from gbc.errors import BadInput
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
from gbc.metrics.statistics import covered, density, largest_matching, neighbourhoods, precision, recall, squared_mmd


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


def line(*points: float) -> Tensor:
    return torch.tensor(points, dtype=torch.float)[:, None]


# Precision, recall, density, coverage


def test_prdc_of_points_on_a_line_by_hand() -> None:
    """k = 1: balls of the real 0, 1, 10 have radii 1, 1, 9; those of the generated 0.5, 2.5, 30 have radii 2, 2, 27.5."""
    found = neighbourhoods(real=line(0, 1, 10), generated=line(0.5, 2.5, 30), k=1)
    assert found.real_radii.tolist() == [1, 1, 9]
    assert found.generated_radii.tolist() == [2, 2, 27.5]
    assert precision(found).item() == pytest.approx(2 / 3)  # 2.5 is near 10; 30 is outside of every ball
    assert density(found, k=1).item() == pytest.approx((2 + 1 + 0) / 3)  # 0.5 lies in the balls of 0 and of 1
    assert covered(found).tolist() == [1, 1, 1]
    assert recall(found).item() == 1.0  # 10 is within 27.5 of 30


def test_which_argument_is_real() -> None:
    """One generated mode out of two real ones is precise but recalls half; the other way round it is the opposite."""
    torch.manual_seed(0)
    both = torch.cat([torch.randn(40, 3), torch.randn(40, 3) + 100])
    one = torch.randn(40, 3)
    found = neighbourhoods(real=both, generated=one)
    assert precision(found) > 0.8 and recall(found) <= 0.5 and covered(found).mean() <= 0.5
    assert covered(found)[:40].mean() > 0.8 and covered(found)[40:].sum() == 0  # an entry for each real sample
    swapped = neighbourhoods(real=one, generated=both)
    assert precision(swapped) <= 0.5 and recall(swapped) > 0.8 and covered(swapped).mean() > 0.8


def test_real_and_generated_cannot_be_mixed_up_by_position() -> None:
    with pytest.raises(TypeError):
        neighbourhoods(line(0, 1), line(0, 1))  # type: ignore[misc]
    with pytest.raises(TypeError):
        squared_mmd(line(0, 1), line(0, 1))  # type: ignore[misc]


@pytest.mark.parametrize("k", [1, 3, 5])
def test_prdc_equals_a_direct_implementation(k: int) -> None:
    """The definitions of Kynkäänniemi et al. (2019) and Naeem et al. (2020), loop by loop."""
    torch.manual_seed(k)
    real, generated = torch.randn(23, 4).double(), (0.7 * torch.randn(17, 4) + 0.5).double()

    def radius(points: Tensor, at: int) -> float:
        return sorted((points[at] - other).norm().item() for i, other in enumerate(points) if i != at)[k - 1]

    def inside(x: Tensor, centre: Tensor, size: float) -> bool:
        return (x - centre).norm().item() < size

    real_balls = [(real[i], radius(real, i)) for i in range(len(real))]
    generated_balls = [(generated[j], radius(generated, j)) for j in range(len(generated))]
    found = neighbourhoods(real=real, generated=generated, k=k)
    assert precision(found).item() == pytest.approx(np.mean([any(inside(x, *ball) for ball in real_balls) for x in generated]))
    assert recall(found).item() == pytest.approx(np.mean([any(inside(x, *ball) for ball in generated_balls) for x in real]))
    assert density(found, k).item() == pytest.approx(
        sum(inside(x, *ball) for ball in real_balls for x in generated) / (k * len(generated))
    )
    assert covered(found).mean().item() == pytest.approx(np.mean([any(inside(x, *b) for x in generated) for b in real_balls]))


def test_the_real_set_itself_is_precise_and_covers_and_copies_of_one_image_do_not() -> None:
    real = torch.randn(30, 5)
    same = neighbourhoods(real=real, generated=real)
    assert precision(same) == recall(same) == covered(same).mean() == 1
    one = neighbourhoods(real=real, generated=real[:1].expand(30, -1))
    assert precision(one) == 1 and recall(one) == 0  # a ball of radius 0 holds nothing, not even its own centre
    assert covered(one).mean() < 0.5


def test_too_few_images_say_what_to_raise() -> None:
    with pytest.raises(BadInput, match=r"5 .* 5.*eval_per_class"):
        neighbourhoods(real=torch.randn(9, 2), generated=torch.randn(5, 2))


# KID


def test_kid_by_hand() -> None:
    """d = 1: real {0, 1}, generated {1, 2}: k(0, 1) = 1, k(1, 2) = 27, across 1 + 1 + 8 + 27."""
    found = squared_mmd(real=line(0, 1), generated=line(1, 2)).item()
    assert found == pytest.approx(1 + 27 - 2 * (1 + 1 + 8 + 27) / 4)


def test_kid_equals_a_double_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    real, generated = torch.randn(7, 3).double(), torch.randn(5, 3).double() + 1

    def kernel(x: Tensor, y: Tensor) -> float:
        return (x @ y / 3 + 1).item() ** 3

    def within(points: Tensor) -> float:
        return float(np.mean([kernel(x, y) for i, x in enumerate(points) for j, y in enumerate(points) if i != j]))

    expected = within(real) + within(generated) - 2 * np.mean([kernel(x, y) for x in real for y in generated])
    assert squared_mmd(real=real, generated=generated).item() == pytest.approx(expected)
    monkeypatch.setattr("gbc.metrics.statistics._ROWS", 2)
    assert squared_mmd(real=real, generated=generated).item() == pytest.approx(expected)


def test_kid_is_unbiased_near_0_for_equal_distributions_and_large_for_others() -> None:
    """Of 2,000 pairs of six samples the mean is 0 within four standard errors; the biased estimator is far above it."""
    rng = torch.Generator().manual_seed(0)
    draws = torch.randn(2000, 2, 6, 2, generator=rng)
    found = torch.stack([squared_mmd(real=real, generated=generated) for real, generated in draws])
    assert abs(found.mean()) < 4 * found.std() / len(found) ** 0.5
    assert (found < 0).any()
    many = torch.randn(500, 8, generator=rng)
    assert squared_mmd(real=many, generated=torch.randn(500, 8, generator=rng)) < 0.05
    assert squared_mmd(real=many, generated=many + 1) > 1
    # A set against itself: the pairs of an image with itself count across, but not within.
    assert -0.1 < squared_mmd(real=many, generated=many) <= 0


def test_the_evaluation_takes_the_training_images_for_real(evaluator: Evaluator, trousers: Evaluation) -> None:
    """Real trousers alone are precise and cover little; with the arguments swapped they would be imprecise."""
    scores = trousers.scores()
    assert scores["prdc/precision"] == 1.0
    assert scores["prdc/recall"] < 0.5 and scores["prdc/coverage"] < 0.5
    assert len(covered(trousers.neighbourhoods)) == len(evaluator.reference.train_images)


# Reconstructed images


def test_one_generated_image_cannot_serve_two() -> None:
    """Rows 0 and 1 both resemble column 0 alone, row 2 resembles columns 1 and 2: two pairs at most. 0.4 is not above 0.4."""
    found = torch.tensor([[0.9, 0.1, 0.0], [0.8, 0.4, 0.0], [0.0, 0.7, 0.6]])
    assert largest_matching(found) == 2
    assert largest_matching(found.mT) == 2
    found[1, 1] = 0.41  # a greedy choice of the best pairs, (0, 0) and (2, 1), would leave row 1 alone
    assert largest_matching(found) == 3
    assert largest_matching(found, threshold=0.85) == 1


def test_copies_are_reconstructed_and_noise_is_not(evaluator: Evaluator) -> None:
    reference = evaluator.reference
    copies = Evaluation(evaluator, reference.train_images, reference.train_labels)
    assert MEASURES["reconstructed/train"].function(copies) == len(reference.train_images) == 100
    one = Evaluation(evaluator, reference.train_images[:1], reference.train_labels[:1])
    assert (one.to_training > 0.4).sum() > 1 and MEASURES["reconstructed/train"].function(one) == 1
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
