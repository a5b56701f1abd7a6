"""Shapes, ranges and determinism of Φ, g and h."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn.functional import softplus

from gbc.classifier_config import ClassifierConfig
from gbc.classifiers import architectures
from gbc.classifiers.architectures import BatchNormInputs, SurrogateReLU, kaiming, normalising_by, with_surrogate
from gbc.classifiers.convergence import before_batch_norm
from gbc.errors import BadInput
from gbc.kkt import homogeneity
from gbc.kkt.multipliers import FreeMultipliers, MultiplierNetwork
from gbc.training.generator import Generator
from tests.support import missing

SHAPE = (1, 28, 28)


def test_every_classifier_gives_logits_and_is_drawn_from_its_seed(architecture: ClassifierConfig) -> None:
    first, second = (architectures.build(architecture, SHAPE, 10) for _ in range(2))
    other = architectures.build(architecture.model_copy(update={"seed": 1}), SHAPE, 10)
    images = torch.rand(4, *SHAPE)
    assert first.eval()(images).shape == (4, 10)
    assert torch.equal(first(images), second.eval()(images))
    assert not torch.equal(first(images), other.eval()(images))


@pytest.mark.parametrize("shape", [(1, 28, 28), (3, 32, 32), (1, 9, 7)])
def test_every_classifier_takes_any_shape_and_number_of_outputs(
    architecture: ClassifierConfig, shape: tuple[int, int, int]
) -> None:
    for outputs in (1, 7):
        assert architectures.build(architecture, shape, outputs).eval()(torch.rand(2, *shape)).shape == (2, outputs)


@pytest.mark.parametrize("name", ["conv", "resnet"])
def test_degrees_other_than_the_last_layers_exist(name: str) -> None:
    """In `conv` every weight has ¼ and a bias the degree of its output. In `resnet`, normalised by the batch, γ and β of
    every norm have ½, so the two sides of each sum agree, and the last layer adds the other half."""
    phi = architectures.build(ClassifierConfig(name=name, hidden=12), (1, 8, 8), 3)
    names = [key for key, _ in phi.named_parameters()]
    if name == "conv":
        depth = {layer: index + 1 for index, layer in enumerate(dict.fromkeys(key.split(".")[0] for key in names))}
        degrees = {key: (depth[key.split(".")[0]] if key.endswith("bias") else 1) / 4 for key in names}
    else:
        norms = {key for key, layer in phi.named_modules() if isinstance(layer, nn.BatchNorm2d)}
        degrees = {key: 0.5 if key.rpartition(".")[0] in norms else 0.0 for key in names}
        *_, weight, bias = names
        degrees |= {weight: 0.5, bias: 1.0}
    # A norm adds 10⁻⁵ to the variance of its input; that input grows with the γ before it, the 10⁻⁵ does not.
    tolerance = 1e-12 if name == "conv" else 1e-2
    assert homogeneity.relative_error(phi, degrees, torch.rand(16, 1, 8, 8), mode="train") < tolerance


def test_a_residual_block_is_the_sum_of_its_branches() -> None:
    """ReLU(body + shortcut): with the body's last γ and β at 0 the block is its shortcut."""
    block = architectures.Residual(3, 5, stride=2).eval()
    nn.init.zeros_(block.body[4].weight)  # type: ignore[arg-type]
    x = torch.rand(2, 3, 9, 8)
    assert block(x).shape == (2, 5, 5, 4)
    assert torch.equal(block(x), torch.relu(block.shortcut(x)))


def test_an_unknown_classifier_gets_a_suggestion() -> None:
    with pytest.raises(BadInput, match=r"'mlp_bm'.*'mlp_bn'"):
        architectures.build(ClassifierConfig(name="mlp_bm"), SHAPE, 10)


def test_the_papers_classifier_has_three_linear_layers_and_two_batch_norms() -> None:
    phi = architectures.build(ClassifierConfig(hidden=1000), SHAPE, 10)
    linear = [layer for layer in phi if isinstance(layer, nn.Linear)]  # type: ignore[attr-defined]
    assert [(layer.in_features, layer.out_features) for layer in linear] == [(784, 1000), (1000, 1000), (1000, 10)]
    assert sum(isinstance(layer, nn.BatchNorm1d) for layer in phi) == 2  # type: ignore[attr-defined]


def test_depth_is_the_number_of_hidden_layers_and_others_have_none() -> None:
    for name, norms in (("mlp", 0), ("mlp_bn", 4)):
        phi = architectures.build(ClassifierConfig(name=name, hidden=6, depth=4), SHAPE, 10)
        linear = [(layer.in_features, layer.out_features) for layer in phi.modules() if isinstance(layer, nn.Linear)]
        assert linear == [(784, 6), (6, 6), (6, 6), (6, 6), (6, 10)]
        assert sum(isinstance(layer, nn.BatchNorm1d) for layer in phi.modules()) == norms
    with pytest.raises(BadInput) as refusal:
        architectures.build(ClassifierConfig(name="conv", depth=4), SHAPE, 10)
    assert not missing(["classifier.depth ", "mlp_bn", "conv"], str(refusal.value))


def test_lenet5_has_the_sizes_of_the_paper_and_half_of_them() -> None:
    """156 + 2,416 + 48,120 + 10,164 + 850 parameters; C5, a convolution with one position there, is a linear layer here."""
    whole, half = (architectures.build(ClassifierConfig(name="lenet5", hidden=hidden), SHAPE, 10) for hidden in (84, 42))
    assert sum(parameter.numel() for parameter in whole.parameters()) == 61_706
    assert [tuple(p.shape) for name, p in half.named_parameters() if name.endswith("weight")] == [
        (3, 1, 5, 5), (8, 3, 5, 5), (60, 200), (42, 60), (10, 42)
    ]  # fmt: skip


def test_kaiming_keeps_the_size_of_signals() -> None:
    """Through a deep ReLU stack the second moment stays of order one; both kinds of layer."""
    dense = nn.Sequential(*[layer for _ in range(6) for layer in (nn.Linear(256, 256), nn.ReLU())])
    up = nn.Sequential(
        nn.ConvTranspose2d(32, 32, 4, stride=2, padding=1), nn.ReLU(), nn.ConvTranspose2d(32, 32, 4, stride=2, padding=1)
    )
    for network in (dense, up):
        kaiming(network, torch.Generator().manual_seed(0))
    assert 0.5 < dense(torch.randn(64, 256)).square().mean() < 2
    assert 0.5 < up(torch.randn(8, 32, 16, 16)).square().mean() / 2 < 2  # the last layer has no ReLU


@pytest.mark.parametrize("mode", ["train", "eval"])
def test_normalising_by_never_touches_the_stored_statistics(mode: str) -> None:
    phi = architectures.build(ClassifierConfig(hidden=8), SHAPE, 10).train()
    before = {name: value.clone() for name, value in phi.state_dict().items()}
    with normalising_by(phi, mode):
        outputs = phi(torch.rand(16, *SHAPE))
    assert phi.training and phi[2].training and phi[2].track_running_stats  # type: ignore[index]
    for name, value in before.items():
        assert torch.equal(phi.state_dict()[name], value), name
    with normalising_by(phi, "eval" if mode == "train" else "train"):
        assert not torch.equal(outputs, phi(torch.rand(16, *SHAPE)))


def test_watched_statistics_are_those_of_the_layers_inputs() -> None:
    phi = architectures.build(ClassifierConfig(hidden=8), SHAPE, 10)
    watch = BatchNormInputs(phi)
    images = torch.rand(16, *SHAPE)
    with normalising_by(phi, "train"):
        phi(images)
    (mean, variance, stored_mean, stored_variance), second = watch.statistics()
    before = phi[1](images.flatten(1))  # type: ignore[index]
    torch.testing.assert_close(mean, before.mean(0))
    torch.testing.assert_close(variance, before.var(0))
    assert torch.equal(stored_mean, torch.zeros(8)) and torch.equal(stored_variance, torch.ones(8))
    assert second[0].shape == (8,)


def test_watched_statistics_of_feature_maps_are_per_channel() -> None:
    layer = nn.BatchNorm2d(3)
    watch = BatchNormInputs(layer)
    maps = torch.randn(5, 3, 4, 4)
    layer(maps)
    ((mean, variance, _, _),) = watch.statistics()
    torch.testing.assert_close(mean, maps.mean((0, 2, 3)))
    torch.testing.assert_close(variance, maps.transpose(0, 1).flatten(1).var(1))


def test_the_surrogate_keeps_the_value_and_changes_the_derivative() -> None:
    """Forward max(z, 0); backward σ(a·z), whose own derivative is aσ(1 − σ): the second order is there."""
    z = torch.tensor([-0.5, 0.0, 0.5], dtype=torch.float64, requires_grad=True)
    outputs = SurrogateReLU(4.0)(z)
    assert outputs.tolist() == [0.0, 0.0, 0.5]
    (first,) = torch.autograd.grad(outputs.sum(), z, create_graph=True)
    expected = torch.sigmoid(4 * z.detach())
    torch.testing.assert_close(first.detach(), expected)
    (second,) = torch.autograd.grad(first.sum(), z)
    torch.testing.assert_close(second, 4 * expected * (1 - expected))


def test_the_surrogate_replaces_every_relu() -> None:
    phi = architectures.build(ClassifierConfig(hidden=8), SHAPE, 10).eval()
    images = torch.rand(3, *SHAPE)
    before = phi(images)
    with_surrogate(phi, 100.0)
    assert torch.equal(phi(images), before)
    assert sum(isinstance(layer, SurrogateReLU) for layer in phi.modules()) == 2
    assert not any(isinstance(layer, nn.ReLU) for layer in phi.modules())


def test_the_surrogate_replaces_a_relu_that_several_layers_share_and_takes_a_new_slope() -> None:
    relu = nn.ReLU()
    phi = nn.Sequential(nn.Linear(4, 4), relu, nn.Sequential(nn.Linear(4, 4), relu), relu)
    for slope in (100.0, 50.0):
        with_surrogate(phi, slope)
        layers = [phi[1], phi[2][1], phi[3]]  # type: ignore[index]
        assert [layer.slope for layer in layers if isinstance(layer, SurrogateReLU)] == [slope] * 3


def test_a_network_without_relu_layers_has_no_surrogate() -> None:
    with pytest.raises(BadInput, match=r"surrogate.*nn\.ReLU"):
        with_surrogate(nn.Sequential(nn.Linear(4, 4), nn.Tanh()), 100.0)


@pytest.mark.parametrize("name", ["conv", "lenet5", "resnet"])
def test_a_convolutional_classifier_of_points_is_refused(name: str) -> None:
    with pytest.raises(BadInput, match=f"{name}.*points"):
        architectures.build(ClassifierConfig(name=name), (2,), 3)


def test_scale_invariant_layers_are_those_before_batch_norm(architecture: ClassifierConfig) -> None:
    """Doubling their weights does not change Φ in train mode; doubling any other layer's does."""
    phi = architectures.build(architecture, SHAPE, 10)
    images = torch.rand(16, *SHAPE)
    invariant = before_batch_norm(phi, images)
    for name, layer in phi.named_modules():
        if isinstance(layer, nn.Linear | nn.Conv2d):
            with normalising_by(phi, "train"), torch.no_grad():
                before = phi(images)
                layer.weight.mul_(2)
                moved = (phi(images) - before).norm() / before.norm()
                layer.weight.div_(2)
            # BatchNorm's ε keeps it from being exact.
            assert (moved < 0.01) == (name in invariant), name


@pytest.mark.parametrize("shape", [(1, 28, 28), (3, 32, 32)])
def test_the_generator_makes_images_of_the_classifiers_shape(shape: tuple[int, int, int]) -> None:
    generator = Generator(classes=5, shape=shape, noise_dim=6, width=16, channels=8)
    images = generator(torch.randn(7, 6), torch.arange(7) % 5)
    assert images.shape == (7, *shape)
    assert images.min() > 0 and images.max() < 1
    kinds = [type(layer) for layer in generator.modules()]
    convolutions = sum(isinstance(layer, nn.ConvTranspose2d) for layer in generator.modules())
    assert kinds.count(nn.Linear) == 3 and convolutions == 3


def test_the_generator_listens_to_label_and_noise() -> None:
    generator = Generator(classes=2, shape=SHAPE, noise_dim=6, width=16, channels=8).eval()
    noise = torch.randn(1, 6)
    first, second = generator(noise, torch.tensor([0])), generator(noise, torch.tensor([1]))
    assert not torch.equal(first, second)
    assert not torch.equal(first, generator(torch.randn(1, 6), torch.tensor([0])))


def test_a_generator_for_sides_it_cannot_reach_is_refused() -> None:
    with pytest.raises(ValueError, match="25×25"):
        Generator(classes=2, shape=(1, 25, 25), noise_dim=4, width=4, channels=4)


def test_multipliers_are_never_negative_and_scale_with_the_fit() -> None:
    h = MultiplierNetwork(classes=3, shape=SHAPE, width=16)
    images, labels = torch.rand(9, *SHAPE), torch.arange(9) % 3
    multipliers = h(images, labels)
    assert multipliers.shape == (9, 3) and multipliers.min() >= 0 and multipliers.max() > 0
    h.scale.fill_(2.0)
    torch.testing.assert_close(h(images, labels), 2 * multipliers)


def test_several_classifiers_are_an_input_of_generator_and_multipliers() -> None:
    generator = Generator(classes=3, shape=SHAPE, noise_dim=4, width=8, channels=4, tasks=2).eval()
    noise, labels = torch.randn(5, 4), torch.zeros(5, dtype=torch.long)
    first, second = (generator(noise, labels, torch.full_like(labels, task)) for task in (0, 1))
    assert not torch.equal(first, second)
    h = MultiplierNetwork(classes=3, shape=SHAPE, width=16, classifiers=2)
    h.scale[1] = 3.0
    assert not torch.equal(h(first, labels, 0), h(first, labels, 1))


def test_a_free_multiplier_is_at_least_lambda_min_and_acts_on_the_strongest_wrong_class() -> None:
    free = FreeMultipliers(count=4, least=0.2, classifiers=2)
    free.start(torch.Generator().manual_seed(0))
    logits, labels = torch.tensor([[3.0, 1.0, 2.0], [3.0, 1.0, 2.0]]), torch.tensor([0, 2])
    multipliers = free(torch.tensor([3, 1]), logits, labels)
    assert (multipliers > 0).tolist() == [[False, False, True], [True, False, False]]
    assert multipliers[0, 2].item() == pytest.approx(0.2 + softplus(free.values[0, 3, 0]).item())
    assert not torch.equal(multipliers, free(torch.tensor([3, 1]), logits, labels, 1))
    free.scale[0] = 3.0
    assert free(torch.tensor([3]), logits[:1], labels[:1])[0, 2].item() == pytest.approx(3 * multipliers[0, 2].item() - 2 * 0.2)
    by_class = FreeMultipliers(count=4, least=0.2, classes=3)
    assert by_class(torch.tensor([3, 1]), logits, labels).shape == (2, 3)
    with torch.no_grad():
        free.values.fill_(-50)
    assert free(torch.arange(2), logits, labels).max().item() == pytest.approx(0.2)


def test_free_multipliers_start_uniform_above_lambda_min() -> None:
    free = FreeMultipliers(count=20_000, least=0.0)
    free.start(torch.Generator().manual_seed(0))
    values = softplus(free.values)
    # Mean ½ and deviation √(1/12) of a uniform number; three standard errors of 20,000 are 0.006.
    assert values.mean().item() == pytest.approx(0.5, abs=0.006) and values.std().item() == pytest.approx(12**-0.5, abs=0.006)
    assert values.min() > 0 and values.max() < 1.001


def test_the_first_layer_can_start_small() -> None:
    usual, small = (
        architectures.build(ClassifierConfig(name="mlp", hidden=8, first_scale=scale), SHAPE, 3).state_dict()
        for scale in (1.0, 1e-4)
    )
    for name in usual:
        torch.testing.assert_close(small[name], usual[name] * (1e-4 if name == "1.weight" else 1.0))
