"""Narrower copies of a network: exact where units are superfluous, best by least squares where they are not."""

from __future__ import annotations

import copy
import itertools

import pytest
import torch
from torch import Tensor, nn

from gbc.classifier_config import ClassifierConfig
from gbc.classifiers import architectures
from gbc.classifiers.narrowing import narrow, remove_units
from gbc.errors import BadInput

SHAPE = (1, 16, 16)


def network(name: str, hidden: int, seed: int = 0) -> nn.Module:
    return architectures.build(ClassifierConfig(name=name, hidden=hidden, seed=seed), SHAPE, 5)


def of_rows(units: int) -> nn.Module:
    """A linear layer of each row of an image: after Flatten its units do not stand one after the other."""
    return nn.Sequential(nn.Linear(16, units), nn.ReLU(), nn.Flatten(), nn.Linear(16 * units, 5))


def of_patches(units: int) -> nn.Module:
    """A linear layer of each channel of a convolution."""
    layers = nn.Conv2d(1, 8, 8, 8), nn.Flatten(2), nn.Linear(4, units), nn.Flatten(), nn.Linear(8 * units, 5)
    return nn.Sequential(*layers)


def settled(module: nn.Module, images: Tensor) -> nn.Module:
    """The network with BatchNorm statistics of its own, and biases that are not 0; in eval mode."""
    for parameter in module.parameters():
        if parameter.dim() == 1:
            nn.init.uniform_(parameter, -0.1, 0.5)
    module.train()(images)
    return module.eval()


@pytest.mark.parametrize("name", ["lenet5", "conv", "mlp", "mlp_bn"])
def test_a_network_with_superfluous_units_is_copied_without_loss(name: str) -> None:
    """In the wide network a quarter of the units of each layer is of use, in a random order, and the rest has no way out."""
    torch.manual_seed(0)
    images = torch.rand(300, *SHAPE)
    wide, student = network(name, 168), network(name, 84, seed=1)
    wide = settled(wide, images)
    weighted = [layer for layer in wide.modules() if isinstance(layer, nn.Linear | nn.Conv2d)]
    with torch.no_grad():
        for layer, following in itertools.pairwise(weighted):
            units = len(layer.weight)
            useless = torch.randperm(units)[units // 4 :]
            following.weight.view(len(following.weight), units, -1)[:, useless] = 0
    before = copy.deepcopy(wide.state_dict())
    expected = wide(images)
    assert not torch.allclose(student.eval()(images), expected, atol=0.1)
    narrow(wide, student, images)
    torch.testing.assert_close(student.eval()(images), expected, atol=1e-3 * expected.std().item(), rtol=0)
    assert all(torch.equal(value, before[key]) for key, value in wide.state_dict().items())


def test_the_unit_whose_loss_costs_least_is_removed_and_the_rest_is_fitted_again() -> None:
    """Compared with least squares for every possible choice of two units out of three, with two columns each."""
    rng = torch.Generator().manual_seed(3)
    inputs = torch.cat([torch.randn(50, 6, generator=rng), torch.ones(50, 1)], dim=1).double()
    inputs[:, 4] = inputs[:, 0] + 0.1 * inputs[:, 4]
    outputs = torch.randn(50, 4, generator=rng).double() + inputs[:, :1]
    best = {}
    for kept in itertools.combinations(range(3), 2):
        columns = [column for unit in kept for column in (2 * unit, 2 * unit + 1)] + [6]
        fit = torch.linalg.lstsq(inputs[:, columns], outputs).solution
        best[kept] = ((inputs[:, columns] @ fit - outputs).square().sum().item(), columns, fit)
    kept, weights = remove_units(inputs.T @ inputs, inputs.T @ outputs, 3, 2)
    error, columns, fit = best[tuple(kept)]  # type: ignore[index]
    assert error == min(each[0] for each in best.values())
    torch.testing.assert_close(weights[columns], fit, atol=5e-3, rtol=0)
    assert not weights[[column for column in range(7) if column not in columns]].any()


def test_units_that_matter_for_the_images_are_kept() -> None:
    """The wide network has a unit for each pixel of two, and the images are black at one of them."""
    wide = nn.Sequential(nn.Flatten(), nn.Linear(2, 2, bias=False), nn.ReLU(), nn.Linear(2, 1, bias=False))
    student = nn.Sequential(nn.Flatten(), nn.Linear(2, 1, bias=False), nn.ReLU(), nn.Linear(1, 1, bias=False))
    with torch.no_grad():
        wide[1].weight.copy_(torch.eye(2))
        wide[3].weight.copy_(torch.tensor([[3.0, 1.0]]))
    images = torch.rand(20, 1, 1, 2) * torch.tensor([0.0, 1.0])
    narrow(wide, student, images)
    assert student[1].weight.tolist() == [[0.0, 1.0]]
    torch.testing.assert_close(student(images), wide(images), atol=1e-2, rtol=0)


def test_a_single_layer_and_what_stands_before_and_after_it_are_copied() -> None:
    images = torch.rand(40, *SHAPE)
    wide, student = (nn.Sequential(nn.BatchNorm2d(1), nn.Flatten(), nn.Linear(256, 3), nn.BatchNorm1d(3)) for _ in range(2))
    settled(wide, images)
    narrow(wide, student, images)
    assert torch.equal(student.eval()(images), wide(images))


def test_black_images_leave_a_student_with_finite_weights() -> None:
    wide, student = network("conv", 64), network("conv", 32)
    narrow(wide, student, torch.zeros(4, *SHAPE))
    assert all(parameter.isfinite().all() for parameter in student.parameters())


@pytest.mark.parametrize(
    ("wide", "student", "expected"),
    [
        (network("lenet5", 42), network("lenet5", 84), "6 units"),
        (network("lenet5", 84), network("conv", 84), "the teacher's layers"),
        (network("resnet", 64), network("resnet", 32), "the teacher's layers"),
        (nn.Sequential(nn.MaxPool2d(2), nn.Linear(3, 2)), nn.Sequential(nn.MaxPool2d(4), nn.Linear(3, 2)), "teacher's layers"),
        (nn.Sequential(nn.Linear(3, 2)), nn.Sequential(nn.Linear(4, 2)), "other inputs"),
        (nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 2)), nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 1)), "outputs"),
        (nn.Sequential(nn.Flatten()), nn.Sequential(nn.Flatten()), "other inputs"),
        (of_rows(6), of_rows(3), r"\[1, 16, 16\] of an image"),
        (of_patches(6), of_patches(3), r"\[8, 4\] of an image"),
    ],
)  # fmt: skip
def test_networks_that_do_not_correspond_are_refused(wide: nn.Module, student: nn.Module, expected: str) -> None:
    with pytest.raises(BadInput, match=expected) as fault:
        narrow(wide, student, torch.rand(4, *SHAPE))
    assert "--start teacher" in str(fault.value)
