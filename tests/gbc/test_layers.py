"""Layers against torch's own in float64, and the generator against one of torch's own layers in their own order."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from gbc.layers import BatchNormReLU, UpsamplingConvolution
from gbc.training.generator import Generator

# Batch 7 and 9×5 pixels have no divisor near 128/channels; 260 channels are more than a row.
SHAPES = [(16, 8, 14, 14), (7, 3, 9, 5), (4, 260, 3, 3), (3, 1, 1, 2)]


def channels_last(*shape: int) -> Tensor:
    """Far from 0, as what comes out of a network may be."""
    return (3 + torch.randn(shape)).contiguous(memory_format=torch.channels_last)


def with_gradients(layer: nn.Module, images: Tensor, direction: Tensor) -> list[Tensor]:
    images = images.clone(memory_format=torch.preserve_format).requires_grad_()
    output = layer(images)
    output.backward(direction)
    assert images.grad is not None
    return [output.detach(), images.grad, *(parameter.grad for parameter in layer.parameters()), *layer.buffers()]


def relative_error(computed: Tensor, exact: Tensor) -> float:
    return ((computed.double() - exact).norm() / exact.double().norm().clamp_min(1e-300)).item()


@pytest.mark.parametrize("shape", SHAPES)
def test_batch_norm_and_relu_are_torchs(shape: tuple[int, ...]) -> None:
    """Output, all gradients and the stored statistics after a step, and the output in eval mode."""
    torch.manual_seed(0)
    ours = BatchNormReLU(shape[1])
    nn.init.uniform_(ours.weight, 0.5, 2)
    nn.init.normal_(ours.bias)
    theirs = nn.Sequential(nn.BatchNorm2d(shape[1]), nn.ReLU()).double()
    theirs[0].load_state_dict(ours.state_dict())
    images, direction = channels_last(*shape), channels_last(*shape)
    computed = with_gradients(ours, images, direction)
    exact = with_gradients(theirs, images.double(), direction.double())
    for mine, right in zip(computed, exact, strict=True):
        assert relative_error(mine, right) < 1e-6  # some roundings of float32
    torch.testing.assert_close(ours.eval()(images).double(), theirs.eval()(images.double()), rtol=1e-5, atol=1e-6)


def test_sums_over_a_large_batch_are_as_exact_as_over_a_small_one() -> None:
    """Torch's own layer in this order is off by 1e-5 and more."""
    torch.manual_seed(0)
    images = channels_last(256, 8, 28, 28)
    exact = nn.Sequential(nn.BatchNorm2d(8), nn.ReLU()).double()(images.double())
    assert relative_error(BatchNormReLU(8)(images), exact) < 1e-6
    assert relative_error(torch.relu(nn.BatchNorm2d(8)(images)), exact) > 3e-6


def test_gradients_of_batch_norm_and_relu() -> None:
    torch.manual_seed(0)
    layer = BatchNormReLU(3).double()
    nn.init.normal_(layer.bias)
    images = torch.randn(4, 3, 2, 5, dtype=torch.float64).contiguous(memory_format=torch.channels_last).requires_grad_()
    assert torch.autograd.gradcheck(layer, images)


@pytest.mark.parametrize("shape", [(3, 8, 7, 5), (2, 2, 1, 1)])
def test_doubling_is_a_transposed_convolution(shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    ours, theirs = (kind(shape[1], 3, 4, stride=2, padding=1).double() for kind in (UpsamplingConvolution, nn.ConvTranspose2d))
    theirs.load_state_dict(ours.state_dict())
    images = channels_last(*shape).double()
    direction = torch.randn_like(theirs(images))
    for mine, right in zip(with_gradients(ours, images, direction), with_gradients(theirs, images, direction), strict=True):
        torch.testing.assert_close(mine, right, rtol=1e-12, atol=1e-12)


def test_a_checkpoint_of_torchs_own_layers_fits() -> None:
    assert BatchNormReLU(4).state_dict().keys() == nn.BatchNorm2d(4).state_dict().keys()


@pytest.mark.parametrize("colours", [1, 3])
@pytest.mark.parametrize("training", [True, False], ids=["training", "eval"])
def test_the_generator_is_the_papers_in_torchs_own_layers(colours: int, training: bool) -> None:
    """The same function of the same parameters: images and, while training, gradients."""
    torch.manual_seed(0)
    ours = Generator(classes=10, shape=(colours, 28, 28), noise_dim=16, width=64, channels=16).train(training)
    noise, labels = torch.randn(64, 16), torch.arange(64) % 10
    plain = PlainGenerator(ours).train(training)
    images, expected = ours(noise, labels), plain(noise, labels)
    torch.testing.assert_close(images, expected, rtol=1e-5, atol=1e-6)
    assert images.is_contiguous()
    # In float32 a pre-activation within rounding of 0 may fall on the other side of a ReLU, which moves gradients by 1e-3.
    ours, plain, direction = ours.double(), plain.double(), torch.randn_like(images).double()
    gradients = torch.autograd.grad(ours(noise.double(), labels), list(ours.parameters()), direction)
    right = torch.autograd.grad(plain(noise.double(), labels), list(plain.parameters()), direction)
    for mine, theirs in zip(gradients, right, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-9, atol=1e-9)


class PlainGenerator(nn.Module):
    """The paper's network of torch's own layers, with the parameters of ours."""

    def __init__(self, ours: Generator) -> None:
        super().__init__()
        self.fully_connected, self.grid = copy.deepcopy(ours.fully_connected), ours.grid
        layers: list[nn.Module] = []
        for layer in copy.deepcopy(ours.transposed):
            if isinstance(layer, BatchNormReLU):
                norm = nn.BatchNorm2d(layer.num_features)
                norm.load_state_dict(layer.state_dict())
                layers += [norm, nn.ReLU()]
            elif not isinstance(layer, nn.Identity):
                layers.append(layer)
        self.transposed = nn.Sequential(*layers)

    def forward(self, noise: Tensor, labels: Tensor) -> Tensor:
        features = self.fully_connected(torch.cat([noise, nn.functional.one_hot(labels, 10).to(noise.dtype)], dim=1))
        return torch.sigmoid(self.transposed(features.view(-1, *self.grid)))
