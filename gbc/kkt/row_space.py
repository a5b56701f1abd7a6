"""The row space of a layer: a condition on its inputs that follows from stationarity, computed once from the weights.

The gradient by the weights of a linear layer z = Wx + b is Σ_i δ_i x_iᵀ, where δ_i is the gradient at z for sample i, and the
one by its biases Σ_i δ_i. So every form of stationarity with W on its left-hand side (Eq. 3a, the closed form of weight decay)
reads

    c·[W b] = Σ_i δ_i [x_i 1]ᵀ

and the rows of [W b] are combinations of the training inputs [x_i 1]. Stationarity is not necessary: gradient descent with
decay, from any initial W_0, keeps W_T − κW_0 in their span, where κ = Π(1 − lr·wd) is the remaining share of W_0. Singular
values tell how much training used a direction. A convolution is a linear layer whose inputs are patches. Before BatchNorm,
which subtracts constants, Σ_i δ_i = 0: the rows are combinations of x_i − x̄, and b carries no information.
"""

from __future__ import annotations

from typing import Final

import torch
from torch import Tensor, nn

from gbc.classifiers.architectures import LayerInputs, layers_in_order_of_use
from gbc.classifiers.convergence import before_batch_norm
from gbc.errors import BadInput

Layer = nn.Linear | nn.Conv2d
_NORMALISATIONS: Final = (
    nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm, nn.InstanceNorm1d, nn.InstanceNorm2d, nn.InstanceNorm3d,
    nn.GroupNorm, nn.LayerNorm, nn.LocalResponseNorm, nn.RMSNorm,
)  # fmt: skip
_ROUNDING: Final = 1e-5
"""Energy around the mean is a difference of two sums. Below this share of the sums, it is only float32 rounding."""


class RowSpace:
    """The rows of one layer as a soft projection of its inputs.

    With rows USVᵀ, the cost of an input x is the share of its energy outside, xᵀ(I − VwVᵀ)x / ‖x‖² with
    w_j = s_j²/(s_j² + ε s_1²). It is 0 for an x in the span of strong directions, and 1 for an x orthogonal to all rows. The
    input of a convolution is all patches of an image together.
    """

    def __init__(self, layer: Layer, eps: float, centred: bool) -> None:
        """`eps` is ε: directions weaker than √ε times the strongest count little.

        `centred`: the layer is before BatchNorm, so the mean of the batch is subtracted from inputs, and biases are left out.
        """
        self.layer, self.centred = layer, centred
        self.with_bias = layer.bias is not None and not centred
        values, directions = decompose(layer, self.with_bias)
        energies = values.square()
        # Weight decay may have shrunk a layer to 0: then no input is inside.
        shares = energies / (energies + eps * energies[0]).clamp_min(torch.finfo(energies.dtype).tiny)
        scaled = (directions * shares.sqrt()[:, None]).to(layer.weight)  # [r, K] or [r, K + 1]
        self._rows = scaled[:, :-1] if self.with_bias else scaled
        self._offset = scaled[:, -1] if self.with_bias else None

    def costs(self, inputs: Tensor) -> Tensor:
        """The cost of each input [M, …] of the layer, [M] in [0, 1]; differentiable."""
        inside = self._products(inputs, self._rows, self._offset)  # [M, r, positions]
        energy = self._products(inputs.square(), torch.ones_like(self._rows[:1])) + float(self.with_bias)
        # Black images, and images of a collapsed batch whose energy around the mean is lost in rounding, cost 1.
        least = (_ROUNDING * energy.sum(dim=(1, 2))).clamp_min(1e-12)
        if self.centred:
            mean = self._mean(inputs)
            inside = inside - (self._rows @ mean)[:, None]
            energy = energy - 2 * self._products(inputs, mean[None]) + mean @ mean
        return 1 - inside.square().sum(dim=(1, 2)) / torch.maximum(energy.sum(dim=(1, 2)), least)

    def _products(self, inputs: Tensor, rows: Tensor, offset: Tensor | None = None) -> Tensor:
        """Every vector that the layer multiplies by its weights, times `rows` [r, K]; [M, r, positions]."""
        if isinstance(self.layer, nn.Linear):
            return nn.functional.linear(inputs, rows, offset).reshape(len(inputs), -1, len(rows)).transpose(1, 2)
        # `_conv_forward` uses the layer's own stride, padding and dilation.
        return self.layer._conv_forward(inputs, rows.view(-1, *self.layer.weight.shape[1:]), offset).flatten(2)

    def _mean(self, inputs: Tensor) -> Tensor:
        """The mean of these vectors over batch and positions, [K]; it equals the mean over patches of the mean image."""
        mean = inputs.mean(dim=0, keepdim=True)
        if isinstance(self.layer, nn.Linear):
            return mean.reshape(-1, mean.shape[-1]).mean(dim=0)
        size = self._rows.shape[1]
        return self._products(mean, torch.eye(size, dtype=mean.dtype, device=mean.device)).mean(dim=(0, 2))


class RowSpaces(LayerInputs):
    """The row spaces of a classifier's layers, and the costs of their inputs in its last forward pass."""

    def __init__(self, module: nn.Module, example: Tensor, eps: float, extent: str = "first") -> None:
        """Adds hooks to the first layer of `module`, or with `extent` "all" to every linear and convolutional one.

        `example` is a batch of inputs of the module.

        Raises:
            BadInput: as `row_space_layers`.
        """
        layers = row_space_layers(module, example)
        centred = before_batch_norm(module, example)
        chosen = layers if extent == "all" else dict([next(iter(layers.items()))])
        self.spaces = {name: RowSpace(layer, eps, name in centred) for name, layer in chosen.items()}
        super().__init__(list(chosen.values()))

    def costs(self) -> Tensor:
        """The cost of each sample of the last forward pass, [M] in [0, 1]: the mean over layers."""
        return torch.stack([space.costs(self._inputs[index]) for index, space in enumerate(self.spaces.values())]).mean(dim=0)


def decompose(layer: Layer, with_bias: bool) -> tuple[Tensor, Tensor]:
    """Singular values [r], falling, and right singular vectors [r, K] of the rows of W, or of [W b]; in float64."""
    rows = layer.weight.detach().double().flatten(1)
    if with_bias:
        assert layer.bias is not None
        rows = torch.cat([rows, layer.bias.detach().double()[:, None]], dim=1)
    _, values, directions = torch.linalg.svd(rows, full_matrices=False)
    return values, directions


def row_space_layers(module: nn.Module, example: Tensor) -> dict[str, Layer]:
    """The `linear_layers` of a classifier, trained or not, for a trial that uses its row space.

    Raises:
        BadInput: it has no row space. The message gives the reason and the setting.
    """
    try:
        return linear_layers(module, example)
    except BadInput as fault:
        raise BadInput(f"row_space_weight: {fault}; set it to 0") from None


def linear_layers(module: nn.Module, example: Tensor) -> dict[str, Layer]:
    """Linear and convolutional layers by name, in the order of a forward pass of `example`.

    Raises:
        BadInput: the first layer with weights is of another kind, its input is normalised, or there is no such layer.
    """
    order = layers_in_order_of_use(module, example)
    for name, layer in order:
        kind = type(layer).__name__
        if isinstance(layer, _NORMALISATIONS):
            raise BadInput(f"{kind} ({name}) comes before the first layer, whose rows are then no combinations of images")
        if isinstance(layer, nn.Linear) or (isinstance(layer, nn.Conv2d) and layer.groups == 1):
            break
        if any(parameter.ndim > 1 for parameter in layer.parameters()):
            grouped = ", grouped" if isinstance(layer, nn.Conv2d) else ""
            raise BadInput(
                f"the first layer, {name or 'the whole network'} ({kind}{grouped}), is neither linear nor a plain convolution"
            )
    else:
        raise BadInput("the classifier has no linear or convolutional layer to read")
    return {
        name: layer for name, layer in order if isinstance(layer, nn.Linear | nn.Conv2d) and getattr(layer, "groups", 1) == 1
    }
