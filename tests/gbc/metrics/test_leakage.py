"""Leakage: AUC and its interval by hand, a set that copies training images and one that does not."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from gbc.data.samples import ImageDataset
from gbc.errors import BadInput
from gbc.metrics import leakage
from gbc.metrics.features import Oracle, halves
from gbc.metrics.leakage import Separation, one_to_one, standardised
from tests.support import missing


def alone(members: Tensor, others: Tensor) -> Separation:
    """The separation of a single class."""
    return Separation.of([(members, others)])


def test_auc_and_interval_by_hand() -> None:
    """Members 4, 2 against 3, 1: 4 wins twice and 2 once, so AUC ¾. Placements 1, ½ and ½, 1 have variance ⅛ each: the error
    is √(⅛/2 + ⅛/2) = 0.354."""
    separation = alone(torch.tensor([4.0, 2.0]), torch.tensor([3.0, 1.0]))
    assert separation.auc == 0.75 and separation.high == 1.0
    assert separation.low == pytest.approx(0.75 - 1.959964 * 0.125**0.5)
    assert separation.caught == 0.5  # no false alarm among two: 4 alone is above 3
    assert alone(torch.tensor([1.0, 1.0]), torch.tensor([1.0, 1.0])).auc == 0.5  # ties count one half


def test_classes_are_compared_within_themselves() -> None:
    """The second class scores 10 more, members or not; pooled, its non-members would beat the members of the first."""
    members, others = torch.tensor([4.0, 2.0]), torch.tensor([3.0, 1.0])
    both = Separation.of([(members, others), (members + 10, others + 10)])
    assert both.auc == 0.75 and both.caught == 0.5
    assert 0.75 - both.low == pytest.approx(1.959964 * (0.125 / 2) ** 0.5)  # half the variance
    uneven = Separation.of([(members, others), (torch.zeros(6), torch.ones(6))])
    assert uneven.auc == pytest.approx(0.75 * 2 / 8)


def test_a_verdict_follows_the_interval() -> None:
    ahead = torch.linspace(1, 2, 50)
    assert alone(ahead, -ahead).verdict() != alone(-ahead, ahead).verdict()
    equal = alone(ahead, ahead)
    assert equal.low < 0.5 < equal.high and "not" in equal.verdict()


def test_the_interval_covers_one_half_as_often_as_it_says() -> None:
    """95% of 400 intervals should contain 0.5, for draws from one distribution; three standard errors are 3.3%."""
    rng = torch.Generator().manual_seed(0)
    draws = (alone(*torch.randn(2, 60, generator=rng)) for _ in range(400))
    share = np.mean([draw.low <= 0.5 <= draw.high for draw in draws])
    assert share == pytest.approx(0.95, abs=0.033)


def test_no_generated_image_serves_two() -> None:
    """Greedily row 0 would take column 0 (0.9) and leave row 1 with 0.1: the best sum is 0.8 + 0.7."""
    values, columns = one_to_one(torch.tensor([[0.9, 0.8, 0.0], [0.7, 0.1, 0.0]]))
    assert columns.tolist() == [1, 0] and values.tolist() == pytest.approx([0.8, 0.7])


def test_the_three_sets_of_each_class_are_equal_in_number_and_different(images: ImageDataset) -> None:
    other, spare = halves(images.test_labels)
    for label, chosen in enumerate(leakage.compared(images)):
        assert len(chosen.members) == len(chosen.held_out) == len(chosen.control) == 10
        assert set(images.train_labels[chosen.members]) == set(images.test_labels[chosen.held_out]) == {label}
        assert set(chosen.held_out) <= set(spare) and set(chosen.control) <= set(other)


def doubled(images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """The images and as many of noise, with their labels."""
    noise = torch.rand(images.shape, generator=torch.Generator().manual_seed(0))
    return torch.cat([images, noise]), labels.repeat(2)


def test_copies_of_training_images_are_told_with_certainty(images: ImageDataset, oracle: Oracle) -> None:
    done: list[tuple[int, int]] = []
    report = leakage.measure(images, *doubled(*images.train()), oracle.network, lambda *step: done.append(step))
    assert report.members == report.reconstructed == 100 and report.training_images == 100 and report.samples == 200
    assert report.ssim.auc > 0.999 and report.ssim.low > 0.99 and report.ssim.caught > 0.85
    assert report.feature_distance is not None and report.feature_distance.auc > 0.99
    assert report.control.low < 0.5 < report.control.high
    assert [case.image for case in report.ranking] == [case.sample for case in report.ranking]
    assert report.ranking[0].feature_distance == pytest.approx(0, abs=1e-3)
    assert list(report.by_class) == list(images.class_names) and min(each.auc for each in report.by_class.values()) > 0.99
    assert done[-1] == (10, 10) and len(done) == 10
    assert not missing(["100", "SSIM", "feature distance", "control", "0.4"], report.text())


def test_other_real_images_tell_nothing(images: ImageDataset) -> None:
    """The samples are as many as the images, and none is a training image or held out."""
    other = halves(images.test_labels)[0]
    rows = np.concatenate([other[images.test_labels[other] == label][20:40] for label in range(10)])
    real, labels = (part[torch.from_numpy(rows)] for part in images.test())
    report = leakage.measure(images, real, labels)
    assert report.ssim.low < 0.5 < report.ssim.high and report.ssim.auc == pytest.approx(0.5, abs=0.1)
    assert report.feature_distance is None and report.ranking[0].feature_distance is None


def test_the_ranking_by_hand(images: ImageDataset) -> None:
    """Trousers: the third training image is copied, the first with some noise; all else is noise."""
    train, labels = images.train()
    trousers = torch.nonzero(labels == 1).squeeze(1)
    samples, of = doubled(torch.rand(train.shape, generator=torch.Generator().manual_seed(1)), labels)
    noise = torch.rand(train[0].shape, generator=torch.Generator().manual_seed(2))
    samples[trousers[5]], samples[trousers[7]] = train[trousers[2]], (train[trousers[0]] + 0.1 * noise).clamp(0, 1)
    ranking = [case for case in leakage.measure(images, samples, of).ranking if case.label == "Trouser"]
    first, second, third = ranking[:3]
    assert (first.image, first.sample) == (int(trousers[2]), int(trousers[5]))
    assert (second.image, second.sample) == (int(trousers[0]), int(trousers[7]))
    assert first.ssim == pytest.approx(1, abs=1e-5) and first.ssim > second.ssim > third.ssim
    assert first.z > second.z > third.z


def test_the_z_score_by_hand() -> None:
    """Non-members 1 and 3 have mean 2 and standard deviation √2."""
    scores = standardised(torch.tensor([2.0, 2.0 + 2 * 2**0.5]), torch.tensor([1.0, 3.0]))
    assert scores.tolist() == pytest.approx([0, 2])
    assert standardised(torch.tensor([1.0]), torch.tensor([1.0, 1.0])).tolist() == [0.0]


def test_too_few_samples_of_a_class_are_refused(images: ImageDataset) -> None:
    train, labels = images.train()
    with pytest.raises(BadInput) as fault:
        leakage.measure(images, train[labels != 8], labels[labels != 8])
    assert not missing(["Bag", "--count", "10"], fault.value)
