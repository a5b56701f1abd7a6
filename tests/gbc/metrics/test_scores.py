from __future__ import annotations

import pytest
import torch
from skimage.metrics import structural_similarity

from gbc.data.datasets import ImageDataset
from gbc.metrics import scores
from gbc.metrics.scores import METRICS, ReferenceSet, ScoredSamples, SSIMFeatures, controls, nearest_neighbour, ssim
from gbc.report import METRIC_DIRECTIONS


@pytest.mark.parametrize("channels", [1, 3])
def test_ssim_equals_scikit_images(channels: int, images: ImageDataset) -> None:
    real = images.train()[0][::10]
    pictures = torch.cat([real, torch.rand(4, 1, 28, 28), torch.zeros(1, 1, 28, 28)]).expand(-1, channels, -1, -1)
    if channels == 3:
        pictures = pictures * torch.rand(len(pictures), 3, 1, 1)
    similarities = ssim(SSIMFeatures(pictures[:7]), SSIMFeatures(pictures))
    for i, left in enumerate(pictures[:7]):
        for j, right in enumerate(pictures):
            expected = structural_similarity(left.numpy(), right.numpy(), data_range=1.0, channel_axis=0)
            assert similarities[i, j].item() == pytest.approx(expected, abs=1e-5)


def test_ssim_is_the_same_however_the_work_is_cut(monkeypatch: pytest.MonkeyPatch, images: ImageDataset) -> None:
    real = SSIMFeatures(images.train()[0][:20])
    whole = ssim(real, real)
    monkeypatch.setattr("gbc.metrics.scores._CHUNK", 1)
    torch.testing.assert_close(ssim(real, real), whole, rtol=0, atol=1e-6)  # float32 sums in another order


def test_the_training_set_itself_covers_everything(reference: ReferenceSet) -> None:
    scores = ScoredSamples(reference, reference.train_images, reference.train_labels).scores()
    assert scores["ssim/coverage"] == pytest.approx(1, abs=1e-5)
    assert scores["ssim/nearest"] == pytest.approx(1, abs=1e-5)


def test_coverage_asks_for_the_right_class_and_for_every_class(reference: ReferenceSet) -> None:
    shifted = ScoredSamples(reference, reference.train_images, (reference.train_labels + 1) % 10).scores()
    assert shifted["ssim/coverage"] < 0.5
    assert shifted["ssim/nearest"] == pytest.approx(1, abs=1e-5)  # the paper's score does not notice
    one_class = reference.train_labels == 3
    alone = ScoredSamples(reference, reference.train_images[one_class], reference.train_labels[one_class]).scores()
    assert alone["ssim/coverage"] == pytest.approx(0.1, abs=1e-5)


def test_nearest_names_the_image_itself(reference: ReferenceSet) -> None:
    picked = torch.tensor([5, 50, 90])
    index, value = ScoredSamples(reference, reference.train_images[picked], reference.train_labels[picked]).nearest
    assert index.tolist() == picked.tolist() and value.min() > 0.999


def test_one_nearest_neighbour_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    references = torch.tensor([[0.0, 0.0], [1.0, 1.0]])[:, None, None]
    queries = torch.tensor([[0.1, 0.2], [0.9, 0.7], [0.4, 0.4]])[:, None, None]
    assert nearest_neighbour(queries, references).tolist() == [0, 1, 0]
    monkeypatch.setattr(scores, "_DISTANCES", 4)  # two queries at a time
    assert nearest_neighbour(queries, references).tolist() == [0, 1, 0]


def test_training_on_the_test_set_is_perfect_and_wrong_labels_are_not(reference: ReferenceSet) -> None:
    perfect = ScoredSamples(reference, reference.test_images, reference.test_labels)
    assert METRICS["tstr/1nn"](perfect).item() == 1.0
    wrong = ScoredSamples(reference, reference.test_images, (reference.test_labels + 1) % 10)
    assert METRICS["tstr/1nn"](wrong).item() == 0.0


def test_every_metric_is_a_number_between_0_and_1_with_a_direction(reference: ReferenceSet) -> None:
    noise = torch.rand(30, 1, 28, 28)
    for name, value in ScoredSamples(reference, noise, torch.arange(30) % 10).scores().items():
        assert 0 <= value <= 1, name
        assert METRIC_DIRECTIONS[name] == "max"


def test_controls_stand_in_the_order_that_people_see(images: ImageDataset) -> None:
    rows = controls(images, per_class=5)
    assert list(rows) == ["black", "uniform noise", "mean image", "class means", "other real images"]
    coverage = {name: scores["ssim/coverage"] for name, scores in rows.items()}
    assert coverage["uniform noise"] < coverage["black"] < coverage["mean image"] < coverage["class means"]
    assert coverage["class means"] < coverage["other real images"]
    # The reason why the sweep does not search by the paper's score:
    assert rows["black"]["ssim/nearest"] > rows["mean image"]["ssim/nearest"] - 0.2
    assert rows["black"]["tstr/1nn"] == pytest.approx(0.1, abs=0.02)


def test_a_ceiling_is_tested_on_every_class(reference: ReferenceSet) -> None:
    """Without a test image of one class left, it would be tested on an easier task than the generated set."""
    kept = torch.ones(len(reference.test_labels), dtype=torch.bool)
    kept[torch.nonzero(reference.test_labels == 3).squeeze(1)[5:]] = False
    fewer = ReferenceSet(
        reference.train_images, reference.train_labels, reference.test_images[kept], reference.test_labels[kept]
    )
    assert scores.ceiling(fewer, 5) is None
    best = scores.ceiling(fewer, 4)
    assert best is not None and best[0].test_labels.unique().tolist() == list(range(10))
