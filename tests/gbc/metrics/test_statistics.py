"""Statistics of two sets against cases solved by hand and against brute force."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from gbc.errors import BadInput
from gbc.metrics.statistics import covered, density, neighbourhoods, precision, recall, squared_mmd


def line(*points: float) -> Tensor:
    return torch.tensor(points, dtype=torch.float)[:, None]


# Precision, recall, density, coverage


def test_prdc_of_points_on_a_line_by_hand() -> None:
    """k = 1: balls of the real 0, 1, 10 have radii 1, 1, 9; those of the generated 0.5, 2.5, 30 have radii 2, 2, 27.5."""
    distances = neighbourhoods(real=line(0, 1, 10), generated=line(0.5, 2.5, 30), k=1)
    assert distances.real_radii.tolist() == [1, 1, 9]
    assert distances.generated_radii.tolist() == [2, 2, 27.5]
    assert precision(distances).item() == pytest.approx(2 / 3)  # 2.5 is near 10; 30 is outside of every ball
    assert density(distances, k=1).item() == pytest.approx((2 + 1 + 0) / 3)  # 0.5 lies in the balls of 0 and of 1
    assert covered(distances).tolist() == [1, 1, 1]
    assert recall(distances).item() == 1.0  # 10 is within 27.5 of 30


def test_which_argument_is_real() -> None:
    """One generated mode out of two real ones is precise but recalls half; the other way round it is the opposite."""
    torch.manual_seed(0)
    both = torch.cat([torch.randn(40, 3), torch.randn(40, 3) + 100])
    one_mode = torch.randn(40, 3)
    distances = neighbourhoods(real=both, generated=one_mode)
    assert precision(distances) > 0.8 and recall(distances) <= 0.5 and covered(distances).mean() <= 0.5
    assert covered(distances)[:40].mean() > 0.8 and covered(distances)[40:].sum() == 0  # an entry for each real sample
    swapped = neighbourhoods(real=one_mode, generated=both)
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
    distances = neighbourhoods(real=real, generated=generated, k=k)
    assert precision(distances).item() == pytest.approx(
        np.mean([any(inside(x, *ball) for ball in real_balls) for x in generated])
    )
    assert recall(distances).item() == pytest.approx(np.mean([any(inside(x, *ball) for ball in generated_balls) for x in real]))
    assert density(distances, k).item() == pytest.approx(
        sum(inside(x, *ball) for ball in real_balls for x in generated) / (k * len(generated))
    )
    assert covered(distances).mean().item() == pytest.approx(
        np.mean([any(inside(x, *b) for x in generated) for b in real_balls])
    )


def test_the_real_set_itself_is_precise_and_covers_and_copies_of_one_image_do_not() -> None:
    real = torch.randn(30, 5)
    same = neighbourhoods(real=real, generated=real)
    assert precision(same) == recall(same) == covered(same).mean() == 1
    copies = neighbourhoods(real=real, generated=real[:1].expand(30, -1))
    assert precision(copies) == 1 and recall(copies) == 0  # a ball of radius 0 holds nothing, not even its own centre
    assert covered(copies).mean() < 0.5


def test_too_few_images_say_what_to_raise() -> None:
    with pytest.raises(BadInput, match=r"5 .* 5.*eval_per_class"):
        neighbourhoods(real=torch.randn(9, 2), generated=torch.randn(5, 2))


# KID


def test_kid_by_hand() -> None:
    """d = 1: real {0, 1}, generated {1, 2}: k(0, 1) = 1, k(1, 2) = 27, across 1 + 1 + 8 + 27."""
    distance = squared_mmd(real=line(0, 1), generated=line(1, 2)).item()
    assert distance == pytest.approx(1 + 27 - 2 * (1 + 1 + 8 + 27) / 4)


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
    """The mean over 2,000 pairs of six samples is 0 within four standard errors; the biased estimator is far above it."""
    rng = torch.Generator().manual_seed(0)
    draws = torch.randn(2000, 2, 6, 2, generator=rng)
    distances = torch.stack([squared_mmd(real=real, generated=generated) for real, generated in draws])
    assert abs(distances.mean()) < 4 * distances.std() / len(distances) ** 0.5
    assert (distances < 0).any()
    many = torch.randn(500, 8, generator=rng)
    assert squared_mmd(real=many, generated=torch.randn(500, 8, generator=rng)) < 0.05
    assert squared_mmd(real=many, generated=many + 1) > 1
    # A set against itself: the pairs of an image with itself count across, but not within.
    assert -0.1 < squared_mmd(real=many, generated=many) <= 0
