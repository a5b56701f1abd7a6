"""Φ(x; ζ): architectures of classifiers."""

from __future__ import annotations

import functools
import itertools
import math
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final

import torch
from torch import Tensor, nn

from gbc.classifier_config import ClassifierConfig
from gbc.classifiers import custom, libraries
from gbc.errors import BadInput
from gbc.settings import suggest

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Classifier:
    """A trained network and all that the training of a generator may know about it: never the data."""

    module: nn.Module
    """Maps images [M, channels, height, width] in [0, 1], or points [M, d], to logits [M, C], or [M, 1] as in B.2."""
    class_names: tuple[str, ...]
    shape: Shape
    """(channels, height, width) of its input, or (d,)."""
    samples: int
    """N, the number of its training images or points."""

    def numbers_of(self, class_names: Sequence[str]) -> list[int]:
        """The network's own number of each of `class_names`; −1 for a class that it does not have."""
        return [self.class_names.index(name) if name in self.class_names else -1 for name in class_names]


def check_name(config: ClassifierConfig) -> None:
    """Raise `BadInput` if the classifier has no factory, and a name that none of ours has."""
    if not config.factory and config.name not in CLASSIFIERS:
        raise BadInput(f"unknown classifier {config.name!r}; {suggest(config.name, list(CLASSIFIERS))}")


def build(config: ClassifierConfig, shape: Shape, classes: int) -> nn.Module:
    """A new network with `classes` outputs and Kaiming initialisation, drawn from `config.seed`.

    With `config.first_scale` below 1 the first layer starts small, so that after training it depends on the data alone: Haim et
    al. (2022) use 10⁻⁴. A user's factory keeps its own initialisation.

    Raises:
        BadInput: an unknown name, one of images for points, or a factory that cannot be used.
    """
    if config.factory:
        if libraries.is_library(config.factory):
            make = functools.partial(libraries.make, config.factory, shape, classes)
            return custom.new_network(make, config.factory, config.seed, shape)
        return custom.call_factory(config.factory, config.seed, shape)
    check_name(config)
    if config.depth != ClassifierConfig.model_fields["depth"].default and config.name not in _FULLY_CONNECTED:
        raise BadInput(f"classifier.depth is a setting of {' and '.join(_FULLY_CONNECTED)}; leave it out for {config.name}")
    if len(shape) != 3 and config.name not in _FULLY_CONNECTED:
        raise BadInput(f"classifier {config.name}: it takes images, and the data are points; choose mlp or mlp_bn")
    module = CLASSIFIERS[config.name](config, shape, classes)
    kaiming(module, torch.Generator().manual_seed(config.seed))
    if config.first_scale != 1:
        with torch.no_grad():
            next(module.parameters()).mul_(config.first_scale)  # the weights of the first layer; its bias starts at 0
    return module


def mlp_bn(config: ClassifierConfig, shape: Shape, classes: int) -> nn.Sequential:
    """The paper's classifier: three fully connected layers with BatchNorm and ReLU (section 5.2), or `depth` + 1 of them."""
    widths = [math.prod(shape), *[config.hidden] * config.depth]
    hidden = [
        layer
        for inside, outside in itertools.pairwise(widths)
        for layer in (nn.Linear(inside, outside), nn.BatchNorm1d(outside), nn.ReLU())
    ]
    return nn.Sequential(nn.Flatten(), *hidden, nn.Linear(config.hidden, classes))


def mlp(config: ClassifierConfig, shape: Shape, classes: int) -> nn.Sequential:
    """`mlp_bn` without BatchNorm."""
    return nn.Sequential(*(layer for layer in mlp_bn(config, shape, classes) if not isinstance(layer, nn.BatchNorm1d)))


def conv(config: ClassifierConfig, shape: Shape, classes: int) -> nn.Sequential:
    """Two convolutions of stride 2, then two linear layers; ReLU, biases, no BatchNorm.

    Without BatchNorm, wd·ζ = −∇CE holds for every tensor once training has converged.
    """
    depth, height, width = shape
    channels = max(4, config.hidden // 16)
    features = 2 * channels * math.ceil(height / 4) * math.ceil(width / 4)
    return nn.Sequential(
        nn.Conv2d(depth, channels, 3, stride=2, padding=1), nn.ReLU(),
        nn.Conv2d(channels, 2 * channels, 3, stride=2, padding=1), nn.ReLU(),
        nn.Flatten(),
        nn.Linear(features, config.hidden), nn.ReLU(),
        nn.Linear(config.hidden, classes),
    )  # fmt: skip


def lenet5(config: ClassifierConfig, shape: Shape, classes: int) -> nn.Sequential:
    """LeNet-5 (LeCun et al. 1998) with ReLU and max-pooling; `hidden` is the width of its last hidden layer, 84 in the paper.

    The other widths, 6 and 16 channels and 120 units, are in proportion. The literature on distillation without data has it
    as a teacher, and with half of the widths as a student.
    """
    depth, height, width = shape
    first, second, units = (max(1, round(size * config.hidden / 84)) for size in (6, 16, 120))
    padding = 0 if min(height, width) >= 12 else 2  # a small image is smaller than the kernel after the first pooling
    rows, columns = ((side // 2 - 4 + 2 * padding) // 2 for side in (height, width))
    return nn.Sequential(
        nn.Conv2d(depth, first, 5, padding=2), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(first, second, 5, padding=padding), nn.ReLU(), nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(second * rows * columns, units), nn.ReLU(),
        nn.Linear(units, config.hidden), nn.ReLU(),
        nn.Linear(config.hidden, classes),
    )  # fmt: skip


class Residual(nn.Module):
    """ReLU(body(x) + shortcut(x)) with two convolutions in the body (He et al. 2016, Fig. 2)."""

    def __init__(self, inside: int, outside: int, stride: int) -> None:
        """From `inside` to `outside` channels; `stride` divides height and width."""
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(inside, outside, 3, stride=stride, padding=1, bias=False), nn.BatchNorm2d(outside), nn.ReLU(),
            nn.Conv2d(outside, outside, 3, padding=1, bias=False), nn.BatchNorm2d(outside),
        )  # fmt: skip
        # BatchNorm on both branches, so that their degrees of homogeneity can be equal.
        self.shortcut = nn.Sequential(nn.Conv2d(inside, outside, 1, stride=stride, bias=False), nn.BatchNorm2d(outside))
        self.relu = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        """[M, inside, height, width] to [M, outside, ⌈height/stride⌉, ⌈width/stride⌉]."""
        out: Tensor = self.relu(self.body(x) + self.shortcut(x))
        return out


def resnet(config: ClassifierConfig, shape: Shape, classes: int) -> nn.Sequential:
    """A convolution of stride 2, three residual blocks with BatchNorm, the mean over pixels, a linear layer."""
    channels = max(4, config.hidden // 16)
    return nn.Sequential(
        nn.Conv2d(shape[0], channels, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(channels), nn.ReLU(),
        Residual(channels, channels, stride=1),
        Residual(channels, 2 * channels, stride=2),
        Residual(2 * channels, 4 * channels, stride=2),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(),
        nn.Linear(4 * channels, classes),
    )  # fmt: skip


CLASSIFIERS: Final[dict[str, Callable[[ClassifierConfig, Shape, int], nn.Module]]] = {
    "mlp_bn": mlp_bn,
    "mlp": mlp,
    "conv": conv,
    "lenet5": lenet5,
    "resnet": resnet,
}
_FULLY_CONNECTED: Final = ("mlp", "mlp_bn")

BATCH_NORMS: Final = (nn.BatchNorm1d, nn.BatchNorm2d)


def kaiming(module: nn.Module, rng: torch.Generator) -> None:
    """He et al. (2015) initialisation of every linear and convolutional layer, in place; biases start at 0."""
    for layer in module.modules():
        if isinstance(layer, nn.Linear | nn.Conv2d | nn.ConvTranspose2d):
            fan_in = layer.weight[0].numel()
            if isinstance(layer, nn.ConvTranspose2d):
                # With stride s, only one in s² of the kernel × input channels weights acts on each output pixel.
                fan_in = layer.in_channels * math.prod(layer.kernel_size) // math.prod(layer.stride)
            with torch.no_grad():
                layer.weight.normal_(0, math.sqrt(2 / fan_in), generator=rng)
                if layer.bias is not None:
                    layer.bias.zero_()


def two_logits(outputs: Tensor) -> Tensor:
    """The scalar Φ [M, 1] of supplement B.2 as two logits (−Φ/2, Φ/2); other outputs [M, C] unchanged.

    Then Φ_y − Φ_c = ±Φ = y·Φ with y = ±1, so the equations for several classes become those of B.2: a mix of binary and
    multi-class classifiers needs no special case.
    """
    return torch.cat([-outputs / 2, outputs / 2], dim=1) if outputs.shape[1] == 1 else outputs


@contextmanager
def normalising_by(module: nn.Module, mode: str) -> Iterator[None]:
    """Context in which BatchNorm uses the batch's statistics (`train`) or the stored ones (`eval`), and stores nothing."""
    layers = [layer for layer in module.modules() if isinstance(layer, BATCH_NORMS)]
    states = [(layer.training, layer.track_running_stats) for layer in layers]
    training = module.training
    try:
        module.eval()
        for layer in layers:
            layer.train(mode == "train")
            layer.track_running_stats = mode == "eval"
        yield
    finally:
        module.train(training)
        for layer, (was_training, tracked) in zip(layers, states, strict=True):
            layer.training, layer.track_running_stats = was_training, tracked


@torch.no_grad()
def layers_in_order_of_use(module: nn.Module, example: Tensor) -> list[tuple[str, nn.Module]]:
    """The layers without parts that a forward pass of `example` uses, with their names, in its order.

    A layer that is used twice stands twice. BatchNorm goes by its stored statistics.
    """
    used: list[tuple[str, nn.Module]] = []
    leaves = [(name, layer) for name, layer in module.named_modules() if not list(layer.children())]
    handles = [leaf[1].register_forward_pre_hook(lambda *_, leaf=leaf: used.append(leaf)) for leaf in leaves]
    try:
        with normalising_by(module, "eval"):
            module(example)
    finally:
        for handle in handles:
            handle.remove()
    return used


def last_layer(module: nn.Module, example: Tensor) -> nn.Module:
    """The last linear or convolutional layer that a forward pass of `example` uses; if there is none, the last of any kind."""
    layers = [layer for _, layer in layers_in_order_of_use(module, example)]
    return next((layer for layer in reversed(layers) if isinstance(layer, nn.Linear | nn.Conv2d)), layers[-1])


class _SurrogateReLU(torch.autograd.Function):
    """ReLU with the derivative σ(a·z) (Haim et al. 2022)."""

    @staticmethod
    def forward(ctx: Any, values: Tensor, slope: float) -> Tensor:
        ctx.save_for_backward(values)
        ctx.slope = slope
        return values.clamp_min(0)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        (values,) = ctx.saved_tensors
        return gradients[0] * torch.sigmoid(ctx.slope * values), None


class SurrogateReLU(nn.Module):
    """ReLU whose derivative is σ(a·z) instead of a step.

    Because ReLU'' = 0, no gradient tells which unit should switch on or off. The gradient of this one does.
    """

    def __init__(self, slope: float) -> None:
        """`slope` is a, 10 to 500 in the literature; larger is nearer to the step."""
        super().__init__()
        self.slope = slope

    def forward(self, values: Tensor) -> Tensor:
        """max(z, 0), any shape."""
        result: Tensor = _SurrogateReLU.apply(values, self.slope)
        return result


def with_surrogate(module: nn.Module, slope: float) -> nn.Module:
    """`module` with every ReLU layer replaced by `SurrogateReLU(slope)`, in place.

    Raises:
        BadInput: it has no ReLU layer. A ReLU that its forward pass calls as a function cannot be replaced.
    """
    layers = module.named_modules(remove_duplicate=False)  # one layer may stand in several places
    relus = [name for name, layer in layers if name and isinstance(layer, nn.ReLU | SurrogateReLU)]
    if not relus:
        raise BadInput("surrogate: the classifier has no nn.ReLU layer that could get another derivative; set it to 0")
    for name in relus:
        module.set_submodule(name, SurrogateReLU(slope))
    return module


class LayerInputs:
    """Records the inputs of some layers of a classifier in its last forward pass."""

    def __init__(self, layers: Sequence[nn.Module]) -> None:
        """Adds hooks to `layers`, which are removed when this object is gone."""
        self.layers = layers
        self._inputs: dict[int, Tensor] = {}
        for index, layer in enumerate(layers):
            handle = layer.register_forward_pre_hook(_recorder(self._inputs, index))
            weakref.finalize(self, handle.remove)

    def of(self, index: int) -> Tensor:
        """The input of that layer."""
        return self._inputs[index]

    def forget(self) -> None:
        """Drop the inputs: they keep the whole graph of the forward pass alive."""
        self._inputs.clear()


def _recorder(inputs: dict[int, Tensor], index: int) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
    """A hook that writes a layer's input into `inputs`. It knows no more, so that it keeps nothing else alive."""

    def hook(_: nn.Module, given: tuple[Tensor, ...]) -> None:
        inputs[index] = given[0]

    return hook


class BatchNormInputs(LayerInputs):
    """Records the inputs of every BatchNorm layer of a classifier that has stored statistics, and computes their statistics."""

    layers: Sequence[nn.BatchNorm1d | nn.BatchNorm2d]

    def __init__(self, module: nn.Module) -> None:
        """Adds hooks to those layers of `module`, as `LayerInputs`."""
        super().__init__(
            [layer for layer in module.modules() if isinstance(layer, BATCH_NORMS) and layer.running_mean is not None]
        )

    def statistics(self) -> list[tuple[Tensor, Tensor, Tensor, Tensor]]:
        """(mean, variance, stored mean, stored variance) of each layer's last input, each [features]."""
        result = []
        for index, layer in enumerate(self.layers):
            values = self._inputs[index]
            axes = [axis for axis in range(values.ndim) if axis != 1]
            # Not `torch.var_mean`, which takes several times as long on a CPU.
            mean = values.mean(dim=axes, keepdim=True)
            # Unbiased, as PyTorch stores it.
            variance = (values - mean).square().sum(dim=axes) / (values.numel() // mean.numel() - 1)
            assert layer.running_mean is not None and layer.running_var is not None
            result.append((mean.flatten(), variance, layer.running_mean, layer.running_var))
        return result
