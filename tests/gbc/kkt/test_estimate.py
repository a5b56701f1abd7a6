"""Eq. (10) against the rules: same null space, same solutions, on every network."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from gbc.classifier_config import ClassifierConfig
from gbc.classifiers import architectures
from gbc.errors import NotQuasiHomogeneous
from gbc.kkt import homogeneity
from gbc.kkt.homogeneity import diagonal, estimated, estimated_scalars, structural
from tests.support.networks import NETWORKS, SHAPE, lived_in

# Equations are scaled to entries of order 1; float64 rounding, times 1/√variance where eps is 1e-14, stays below this.
TOLERANCE = 1e-10


def inputs(samples: int = 50) -> torch.Tensor:
    return 2 * torch.randn(samples, *SHAPE)


def build(name: str) -> nn.Module:
    if name in NETWORKS:
        return NETWORKS[name]()
    return architectures.build(ClassifierConfig(name=name, hidden=12), SHAPE, 3)


@pytest.mark.parametrize("mode", ["train", "eval"])
@pytest.mark.parametrize("name", [*architectures.CLASSIFIERS, *NETWORKS])
def test_rules_and_derivatives_agree(name: str, mode: str) -> None:
    """And Φ itself agrees with the degrees that derivatives give."""
    phi, images = lived_in(build(name)), inputs()
    rules = structural(phi, mode)
    system = estimated(phi, images, mode=mode, rng=torch.Generator().manual_seed(0))
    assert system.names == rules.names
    assert system.nullity == rules.nullity
    np.testing.assert_allclose(system.matrix @ rules.null_space.T, 0, atol=TOLERANCE)
    assert system.residual(rules.solve()) < TOLERANCE
    degrees = system.solve()
    assert rules.residual(degrees) < TOLERANCE
    assert homogeneity.relative_error(phi, degrees, images[:16], mode=mode, eps=homogeneity.EPS) < 1e-8


def test_second_derivatives_see_what_is_zero() -> None:
    """Fresh biases are 0, so ⟨b, ∇Φ⟩ = 0 says nothing of them: three more directions seem free."""
    phi = build("mlp")
    assert estimated(phi, inputs(), mode="eval").nullity == 2 + 3
    assert estimated(phi, inputs(), mode="eval", rng=torch.Generator().manual_seed(0)).nullity == 2


def test_the_rank_has_a_wide_gap() -> None:
    system = estimated(lived_in(build("mlp_bn")), inputs(), mode="train", rng=torch.Generator().manual_seed(0))
    assert system.singular_values[system.rank - 1] > 1e-3
    assert system.singular_values[system.rank] < 1e-12


def test_a_network_that_is_not_quasi_homogeneous_has_no_solution() -> None:
    phi = nn.Sequential(nn.Flatten(), nn.Linear(64, 3), nn.Softmax(dim=1))
    with pytest.raises(NotQuasiHomogeneous, match=r"Eq\. \(10\)") as caught:
        estimated(phi, inputs(), mode="eval").solve()
    assert caught.value.layer == "the network"


def figure_3() -> nn.Sequential:
    return nn.Sequential(nn.Linear(2, 10), nn.ReLU(), nn.Linear(10, 1))


def test_every_hidden_unit_is_free_scalar_by_scalar() -> None:
    """Unit j: its incoming weights and bias share λ_j, its outgoing weight has 1 − λ_j; 10 units, 10 directions."""
    phi = figure_3()
    system = estimated_scalars(phi, 3 * torch.randn(30, 2), mode="eval")
    assert len(system.names) == 41 and system.nullity == 10
    assert system.names[:3] == ("0.weight[0,0]", "0.weight[0,1]", "0.weight[1,0]")
    solution = system.with_fixed({"0.bias[3]": 0.1, "2.weight[0,5]": 0.6}).solve()
    assert [solution[f"0.weight[3,{i}]"] for i in (0, 1)] == pytest.approx([0.1, 0.1])
    assert solution["2.weight[0,3]"] == pytest.approx(0.9) and solution["0.bias[5]"] == pytest.approx(0.4)
    assert solution["2.bias[0]"] == pytest.approx(1)


def test_figure_3_by_scalar_by_tensor_and_by_rule() -> None:
    phi, points = figure_3(), 3 * torch.randn(30, 2)
    scalars = estimated_scalars(phi, points, mode="eval")
    by_rule = structural(phi, "eval").solve()
    flat = homogeneity.flat_degrees(by_rule, phi.double()).tolist()
    assert scalars.residual(dict(zip(scalars.names, flat, strict=True))) < TOLERANCE
    by_tensor = estimated(phi, points, mode="eval").solve()
    assert by_tensor == pytest.approx(by_rule, abs=TOLERANCE)
    for degrees in (by_rule, by_tensor, diagonal(scalars.solve())):
        assert homogeneity.relative_error(phi, degrees, points, mode="eval") < 1e-10


def test_scalars_through_batch_norm() -> None:
    """In train mode the scale of each unit is its γ's and β's; 2·3 weights and 3 biases before them are free by unit."""
    phi = lived_in(nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3), nn.ReLU(), nn.Linear(3, 1)))
    system = estimated_scalars(phi, 2 * torch.randn(20, 2), mode="train")
    # A unit's weights scale together (1), its bias is free (1), γ and β together (1): 3 units.
    assert system.nullity == 9
    assert (
        homogeneity.relative_error(phi, diagonal(system.solve()), torch.randn(9, 2), mode="train", eps=homogeneity.EPS) < 1e-8
    )
