"""The spectrum of a layer beside a random start's: matrices whose answer is known, and classifiers that were trained."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from gbc.classifier_config import ClassifierConfig
from gbc.classifiers import architectures, pretrain
from gbc.classifiers.architectures import Classifier
from gbc.data.datasets import ImageDataset
from gbc.errors import BadInput
from gbc.kkt.spectrum import Spectrum, random_edge, spectra
from tests.support import missing

SHAPES = [(256, 784), (512, 784), (300, 300), (24, 64), (10, 256), (16, 27)]


def first(module: nn.Module, *shape: int) -> Spectrum:
    (spectrum,) = spectra(module, torch.rand(2, *shape))
    return spectrum


def of(weights: Tensor) -> Spectrum:
    layer = nn.Linear(weights.shape[1], len(weights), bias=False)
    with torch.no_grad():
        layer.weight.copy_(weights)
    return first(layer, weights.shape[1])


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("scale", [1.0, 1e-3])
def test_nothing_stands_above_a_random_start(shape: tuple[int, int], scale: float) -> None:
    """A start of any scale. A finite matrix may have its largest value a little above the edge, no second one."""
    for seed in range(3):
        weights = math.sqrt(2 / shape[1]) * scale * torch.randn(shape, generator=torch.Generator().manual_seed(seed))
        spectrum = of(weights)
        assert spectrum.above <= 1 and not spectrum.informative and spectrum.shape == shape
        assert spectrum.strongest == pytest.approx(torch.linalg.matrix_norm(weights, 2).item(), rel=1e-5)
        assert 0.8 * spectrum.edge < spectrum.strongest < 1.05 * spectrum.edge  # the edge is where the values end


@pytest.mark.parametrize("name", ["mlp_bn", "mlp", "conv", "resnet"])
def test_no_layer_of_a_fresh_classifier_says_anything(name: str) -> None:
    for seed in range(3):
        module = architectures.build(ClassifierConfig(name=name, hidden=64, seed=seed), (1, 28, 28), 10)
        for spectrum in spectra(module, torch.rand(2, 1, 28, 28), "all"):
            assert spectrum.above <= 1 and not spectrum.informative, spectrum


@pytest.mark.parametrize("shape", [(256, 784), (300, 200), (64, 64)])
@pytest.mark.parametrize("rank", [1, 5, 20])
@pytest.mark.parametrize("left", [1.0, 1e-2])
def test_a_planted_rank_is_found(shape: tuple[int, int], rank: int, left: float) -> None:
    """Directions of 3 to 4 times the edge of the noise, √m + √n; noise hardly moves those that are so far outside."""
    rng = torch.Generator().manual_seed(rank)
    noise = left * math.sqrt(2 / shape[1]) * torch.randn(shape, generator=rng)
    rows, columns = (torch.linalg.qr(torch.randn(size, rank, generator=rng))[0] for size in shape)
    strengths = left * math.sqrt(2 / shape[1]) * (math.sqrt(shape[0]) + math.sqrt(shape[1])) * torch.linspace(3, 4, rank)
    spectrum = of(noise + rows * strengths @ columns.T)
    assert spectrum.above == rank
    share = strengths.square().sum() / (strengths.square().sum() + noise.square().sum())
    assert spectrum.energy == pytest.approx(share.item(), rel=0.1)  # noise in the planted directions counts too
    assert spectrum.informative == (spectrum.energy >= 0.25)


def test_the_edge_of_a_square_matrix_by_hand() -> None:
    """The median eigenvalue of the Marchenko–Pastur law of ratio 1 is 0.6528; with unit variance the edge is near 2√n."""
    values = torch.full((400,), math.sqrt(0.6528 * 400)) * math.sqrt(2 / 400)
    assert random_edge(values, (400, 400)) == pytest.approx(2 * math.sqrt(2), rel=0.05)
    assert random_edge(values, (400, 400)) > 2 * math.sqrt(2)


def test_a_layer_that_was_trained_in_most_directions_is_measured_by_its_start_at_most() -> None:
    """Ten rows that all stand out: their own median says nothing of the start, whose deviation is at most √(2/fan-in)."""
    spectrum = of(torch.linalg.qr(torch.randn(300, 10))[0].T * 20)
    assert spectrum.above == 10 and spectrum.energy == pytest.approx(1)


def test_a_layer_that_weight_decay_took_to_0_says_nothing() -> None:
    spectrum = of(torch.zeros(8, 20))
    assert (spectrum.above, spectrum.energy, spectrum.informative) == (0, 0.0, False)
    assert not missing(["0 of 8 ", " 0%", "says nothing"], spectrum.summary())


def test_biases_count_where_no_batch_norm_follows() -> None:
    layers = nn.Linear(20, 8), nn.BatchNorm1d(8)
    assert first(nn.Sequential(layers[0]), 20).shape == (8, 21)
    assert first(nn.Sequential(*layers), 20).shape == (8, 20)
    assert first(nn.Sequential(nn.Conv2d(3, 8, 5)), 3, 6, 6).shape == (8, 76)


def test_the_first_layer_or_all(classifier: Classifier) -> None:
    x = torch.rand(2, 1, 28, 28)
    assert [spectrum.layer for spectrum in spectra(classifier.module, x, "all")] == ["1", "4", "7"]
    assert spectra(classifier.module, x) == spectra(classifier.module, x, "all")[:1]


def test_a_spectrum_as_a_sentence_and_as_data() -> None:
    spectrum = Spectrum("1", (512, 784), 3.0, 2.0, 62, 0.94)
    counted = "row space of layer 1: 62 of 512 directions above a random start, 94% of the energy; it says where "  # golden
    assert spectrum.summary().startswith(counted)
    assert not missing([" 3%", "says nothing"], replace(spectrum, energy=0.03).summary())
    assert json.loads(json.dumps(spectrum.to_json())) == {
        "layer": "1", "shape": [512, 784], "strongest": 3.0, "edge": 2.0, "above": 62, "energy": 0.94, "informative": True,
    }  # fmt: skip


def test_a_classifier_without_a_row_space_has_no_spectrum() -> None:
    with pytest.raises(BadInput, match=r"^BatchNorm1d \(0\) "):
        spectra(nn.Sequential(nn.BatchNorm1d(4), nn.Linear(4, 2)), torch.rand(2, 4))


def test_weight_decay_on_every_tensor_shrinks_the_start_of_weights_before_batch_norm(images: ImageDataset) -> None:
    """And what stands above it is where the images are. The default leaves the start as it was."""
    spectrum_by_decay = {}
    for decay in ("not_scale_invariant", "all"):
        config = ClassifierConfig.parse(
            {"name": "mlp_bn", "hidden": 128, "optimiser": "converge", "lr": 0.1, "weight_decay": 5e-2, "steps": 300,
             "polish": 0, "decay": decay},
            "test",
        )  # fmt: skip
        module, regime = pretrain.train(config, images)
        spectrum_by_decay[decay] = first(module, *images.shape)
        assert regime["accuracy"] > 0.95
    start = first(architectures.build(ClassifierConfig(name="mlp_bn", hidden=128), images.shape, 10), *images.shape)
    kept, shrunk = spectrum_by_decay["not_scale_invariant"], spectrum_by_decay["all"]
    assert shrunk.edge < 0.3 * start.edge and kept.edge > 0.9 * start.edge
    assert shrunk.energy > 0.9 > 2 * kept.energy and shrunk.above > kept.above
    assert shrunk.informative and not kept.informative
