"""Small networks for tests of Λ, with what is known about each of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

SHAPE: Final = (1, 8, 8)


class Residual(nn.Module):
    """conv → BN → ReLU, a residual block as in ResNet, a mean over space, a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU())
        self.block = nn.Sequential(
            nn.Conv2d(4, 4, 3, padding=1, bias=False), nn.BatchNorm2d(4), nn.ReLU(),
            nn.Conv2d(4, 4, 3, padding=1, bias=False), nn.BatchNorm2d(4),
        )  # fmt: skip
        self.head = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        return self.head(F.relu(x + self.block(x)).mean(dim=(2, 3)))


class PlainResidual(nn.Module):
    """No normalisation: the sum forces the block's degrees to 0."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.block, self.head = nn.Linear(64, 5), nn.Linear(5, 5), nn.Linear(5, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(torch.flatten(x, 1)).relu()
        return self.head(torch.add(x, torch.relu(self.block(x))))


class Functional(nn.Module):
    """A network of functions and methods, a concatenation, and a scale of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.left, self.right = nn.Conv2d(1, 3, 3), nn.Conv2d(1, 3, 3, bias=False)
        self.scale = nn.Parameter(torch.tensor(1.5))
        self.head = nn.Linear(6 * 3 * 3, 3)

    def forward(self, x: Tensor) -> Tensor:
        left, right = F.leaky_relu(self.left(x), 0.1), F.relu(self.right(x))
        x = F.dropout(torch.cat([left, right], dim=1), 0.5, training=self.training)
        x = F.adaptive_avg_pool2d(F.max_pool2d(self.scale * x, 2), 3)
        return self.head(F.avg_pool2d(x, 1).view(x.size(0), -1))


class BiasesBeforeBatchNorm(nn.Module):
    """Biases on many ways to a BatchNorm that removes them in train mode; one, behind padding, is not removed."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(1, 6, 3), nn.Conv2d(6, 6, 1)
        self.c = nn.Conv2d(1, 6, 3, padding=1)
        self.d = nn.Conv2d(6, 6, 3, padding=1)
        self.pool, self.n1, self.n2 = nn.MaxPool2d(2), nn.BatchNorm2d(6), nn.BatchNorm2d(6)
        self.flat, self.hidden, self.n3, self.head = nn.Flatten(), nn.Linear(150, 9), nn.BatchNorm1d(9), nn.Linear(9, 3)

    def forward(self, x: Tensor) -> Tensor:
        first = self.n1(self.pool(self.b(self.a(x))) + self.pool(self.a(x)))
        second = self.n2(self.pool(self.d(self.c(x))))
        x = torch.cat([first.flatten(1), second.flatten(1)], dim=1)
        return self.head(self.n3(self.hidden(x)).relu())


def linear(*layers: nn.Module) -> nn.Sequential:
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 6), *layers, nn.Linear(6, 3))


NETWORKS: Final[dict[str, Callable[[], nn.Module]]] = {
    "conv": lambda: nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.LeakyReLU(), nn.MaxPool2d(2), nn.Conv2d(4, 4, 3, padding=1, bias=False), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(), nn.Linear(4, 3),
    ),
    "conv_bn": lambda: nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.AvgPool2d(2), nn.Conv2d(4, 4, 2), nn.MaxPool2d(2),
        nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(4, 3),
    ),
    "transposed": lambda: nn.Sequential(
        nn.ConvTranspose2d(1, 4, 2, stride=2), nn.ReLU(), nn.ConvTranspose2d(4, 6, 2), nn.BatchNorm2d(6), nn.ReLU(),
        nn.AdaptiveMaxPool2d(2), nn.Flatten(), nn.Linear(24, 3),
    ),
    "residual": Residual,
    "plain_residual": PlainResidual,
    "functional": Functional,
    "layer_norm": lambda: linear(nn.LayerNorm(6), nn.ReLU(), nn.Linear(6, 6), nn.LayerNorm(6), nn.ReLU()),
    "layer_norm_last": lambda: nn.Sequential(nn.Flatten(), nn.Linear(64, 3), nn.LayerNorm(3)),
    "group_norm": lambda: nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.GroupNorm(2, 4), nn.ReLU(), nn.Conv2d(4, 2, 3), nn.GroupNorm(1, 2), nn.Flatten(),
        nn.Linear(32, 3),
    ),
    "batch_norm_not_affine": lambda: linear(nn.BatchNorm1d(6, affine=False), nn.ReLU()),
    "batch_norm_twice": lambda: linear(nn.BatchNorm1d(6), nn.Identity(), nn.BatchNorm1d(6), nn.ReLU()),
    "gelu": lambda: linear(nn.GELU()),
    "sigmoid_inside": lambda: linear(nn.Sigmoid(), nn.Linear(6, 6), nn.ReLU()),
    "bias_free": lambda: nn.Sequential(
        nn.Flatten(), nn.Linear(64, 6, bias=False), nn.ReLU(), nn.Linear(6, 5, bias=False), nn.ReLU(),
        nn.Linear(5, 3, bias=False),
    ),
    "biases_before_batch_norm": BiasesBeforeBatchNorm,
}  # fmt: skip


FREEDOM: Final = {
    # Directions Λ may move in, counted by hand: unknowns minus independent equations, in (train, eval) mode.
    "conv": (2, 2),  # 5 tensors: λ_b1 = λ_W1, λ_W1 + λ_W2 + λ_W3 = 1 = λ_b3
    "conv_bn": (6, 2),  # the paper's three layers: 10 tensors
    "transposed": (4, 2),  # its bias at a border is no constant, so only the one before BN goes free in train mode
    "residual": (6, 2),  # 11 tensors; the sum ties the two last γ; in train mode all that BN scales away is free
    "plain_residual": (1, 1),  # the sum sets the block's weight to 0, and all is said by the first layer's
    "functional": (2, 2),
    "layer_norm": (4, 4),  # 10 tensors: λ_b = λ_W twice, λ_γ = λ_β twice, λ_γ + λ_W3 = 1 = λ_b3
    "layer_norm_last": (1, 1),  # λ_W = λ_b is free, λ_γ = λ_β = 1
    "group_norm": (4, 4),
    "batch_norm_not_affine": (2, 0),
    "batch_norm_twice": (5, 1),
    "gelu": (0, 0),  # nothing before it may scale
    "sigmoid_inside": (1, 1),
    "bias_free": (2, 2),  # λ_W1 + λ_W2 + λ_W3 = 1
    "biases_before_batch_norm": (12, 3),
}


def lived_in(module: nn.Module) -> nn.Module:
    """No tensor is 0 and no stored statistic is trivial any more, as after training."""
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
        for layer in module.modules():
            if isinstance(layer, nn.BatchNorm1d | nn.BatchNorm2d) and layer.running_mean is not None:
                assert layer.running_var is not None
                layer.running_mean.normal_()
                layer.running_var.uniform_(0.5, 2.0)
    return module
