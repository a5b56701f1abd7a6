"""Layers equivalent to torch's, but faster on a CPU or with less rounding. Parameters and buffers have the same names."""

from __future__ import annotations

from typing import Any, Final

import torch
from torch import Tensor, nn

# Floats in a row, over which sums are taken: wide enough for the vector units, for any number of channels.
_ROW: Final = 128


def one_hot(labels: Tensor, classes: int) -> Tensor:
    """True where the column is the label, [M, classes]. Unlike torch's function, it does not wait for the device."""
    return labels[:, None] == torch.arange(classes, device=labels.device)


class BatchNormReLU(nn.BatchNorm2d):
    """BatchNorm and then ReLU, for images [M, channels, height, width] in torch's channels-last order.

    In that order torch adds up one number after the other on a CPU. For a large batch its sums have relative errors of 1e-5 and
    more, its gradients ten times as much. Here the error is 1e-7, in the same time.
    """

    def forward(self, images: Tensor) -> Tensor:
        """ReLU of the images normalised by the batch's statistics in training mode, by the stored ones in eval mode."""
        if not self.training or images.device.type != "cpu":
            return torch.relu(super().forward(images))
        activations, mean, variance = _BatchNormReLUFunction.apply(images, self.weight, self.bias, self.eps)
        self._update_running_statistics(mean, variance, images.numel() // images.shape[1])
        result: Tensor = activations
        return result

    @torch.no_grad()
    def _update_running_statistics(self, mean: Tensor, variance: Tensor, count: int) -> None:
        assert self.running_mean is not None and self.running_var is not None and self.num_batches_tracked is not None
        assert self.momentum is not None
        self.num_batches_tracked.add_(1)
        self.running_mean.lerp_(mean, self.momentum)
        self.running_var.lerp_(variance * (count / (count - 1)), self.momentum)  # unbiased, as torch stores it


class _BatchNormReLUFunction(torch.autograd.Function):
    """(ReLU(γ (x − m)/√(v + eps) + β), m, v); no gradient flows through the returned statistics m and v."""

    @staticmethod
    def forward(ctx: Any, images: Tensor, weight: Tensor, bias: Tensor, eps: float) -> tuple[Tensor, Tensor, Tensor]:
        ctx.layout = _Layout(images)
        rows, per_channel, spread = ctx.layout.rows(images), ctx.layout.per_channel, ctx.layout.spread
        mean = per_channel(rows) / ctx.layout.count
        centred = rows - spread(mean)
        variance = per_channel(centred.square()) / ctx.layout.count
        deviation = (variance + eps).rsqrt()
        activations = torch.addcmul(spread(bias), centred, spread(weight * deviation)).relu_()
        ctx.save_for_backward(centred, activations, weight, deviation)
        ctx.mark_non_differentiable(mean, variance)
        return ctx.layout.images(activations), mean, variance

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> tuple[Tensor, Tensor, Tensor, None]:
        centred, activations, weight, deviation = ctx.saved_tensors
        layout = ctx.layout
        active = torch.ops.aten.threshold_backward(layout.rows(gradients[0]), activations, 0)
        by_bias = layout.per_channel(active)
        by_weight = layout.per_channel(active * centred) * deviation
        scale = weight * deviation
        # dx = γ/σ (g − Σg/n − x̂ Σ(g x̂)/n) with x̂ = centred/σ.
        along = layout.spread(-scale * deviation * by_weight / layout.count)
        constant = layout.spread(-scale * by_bias / layout.count)
        by_images = torch.addcmul(constant, centred, along).addcmul_(active, layout.spread(scale))
        return layout.images(by_images), by_weight, by_bias, None


class _Layout:
    """Images [M, channels, height, width] in channels-last order as rows of several pixels."""

    def __init__(self, images: Tensor) -> None:
        batch, self.channels, height, width = images.shape
        self.shape = (batch, height, width, self.channels)
        self.count = batch * height * width
        """Pixels in a channel."""
        self.pixels = max(1, _ROW // self.channels)
        while self.count % self.pixels:
            self.pixels -= 1

    def rows(self, images: Tensor) -> Tensor:
        return images.permute(0, 2, 3, 1).reshape(-1, self.pixels * self.channels)

    def images(self, rows: Tensor) -> Tensor:
        return rows.view(self.shape).permute(0, 3, 1, 2)

    def per_channel(self, rows: Tensor) -> Tensor:
        """Sums, [channels]."""
        return rows.sum(dim=0).view(self.pixels, self.channels).sum(dim=0)

    def spread(self, channels: Tensor) -> Tensor:
        """One row that repeats the number of each channel, [pixels · channels]."""
        return channels.repeat(self.pixels)


class UpsamplingConvolution(nn.ConvTranspose2d):
    """A transposed convolution with a 4×4 kernel, stride 2 and padding 1, for images in channels-last order.

    Each 2×2 window of the input determines 2×2 pixels of the output: one ordinary convolution with four times the channels.
    """

    def forward(self, images: Tensor, output_size: Any = None) -> Tensor:
        """[M, outputs, 2 height, 2 width] for [M, inputs, height, width]. `output_size` is torch's argument, not used here."""
        if not self.training or images.device.type != "cpu":
            return super().forward(images)
        result: Tensor = _UpsamplingFunction.apply(images, self.weight, self.bias)
        return result


class _UpsamplingFunction(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, images: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        ctx.save_for_backward(images, weight)
        batch, inputs, height, width = images.shape
        outputs = weight.shape[1]
        # [inputs, outputs, window row, row, window column, column]
        windows = weight.view(inputs, outputs, 2, 2, 2, 2).flip(2, 4).permute(3, 5, 1, 0, 2, 4).reshape(-1, inputs, 2, 2)
        windows = windows.contiguous(memory_format=torch.channels_last)
        convolved = torch.conv2d(images, windows, bias.repeat(4), padding=1).permute(0, 2, 3, 1)
        convolved = convolved.view(batch, height + 1, width + 1, 2, 2, outputs)
        upsampled = images.new_empty(batch, height, 2, width, 2, outputs)
        for row in (0, 1):
            for column in (0, 1):
                window = convolved[:, row : row + height, column : column + width]
                upsampled[:, :, row, :, column] = window[:, :, :, 1 - row, 1 - column]
        return upsampled.view(batch, 2 * height, 2 * width, outputs).permute(0, 3, 1, 2)

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> tuple[Tensor, Tensor, Tensor]:
        images, weight = ctx.saved_tensors
        return torch.ops.aten.convolution_backward(
            gradients[0], images, weight, [weight.shape[1]], [2, 2], [1, 1], [1, 1], True, [0, 0], 1, [True, True, True]
        )
