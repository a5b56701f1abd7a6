"""Layers that compute what torch's do, on a CPU faster or with less rounding. Parameters and buffers keep their names."""

from __future__ import annotations

from typing import Any, Final

import torch
from torch import Tensor, nn

# Floats in a row that sums run down: wide enough for the vector units, whatever the number of channels.
_ROW: Final = 128


def one_hot(labels: Tensor, classes: int) -> Tensor:
    """True where the column is the label, [M, classes]. torch's own looks at the labels first, and so waits for the device."""
    return labels[:, None] == torch.arange(classes, device=labels.device)


class BatchNormReLU(nn.BatchNorm2d):
    """BatchNorm and then ReLU, for images [M, channels, height, width] in torch's channels-last order.

    In that order torch's own sums of a large batch on a CPU are off by 1e-5 and more, relative, and ten times as much in the
    gradients, since it adds up one number after the other. These are off by 1e-7, and take no more time.
    """

    def forward(self, images: Tensor) -> Tensor:
        """Normalised by the batch's statistics while training, by the stored ones otherwise."""
        if not self.training or images.device.type != "cpu":
            return torch.relu(super().forward(images))
        found, mean, variance = _Training.apply(images, self.weight, self.bias, self.eps)
        self._remember(mean, variance, images.numel() // images.shape[1])
        result: Tensor = found
        return result

    @torch.no_grad()
    def _remember(self, mean: Tensor, variance: Tensor, count: int) -> None:
        assert self.running_mean is not None and self.running_var is not None and self.num_batches_tracked is not None
        assert self.momentum is not None
        self.num_batches_tracked.add_(1)
        self.running_mean.lerp_(mean, self.momentum)
        self.running_var.lerp_(variance * (count / (count - 1)), self.momentum)  # unbiased, as torch stores it


class _Training(torch.autograd.Function):
    """(ReLU(γ (x − m)/√(v + eps) + β), m, v); no gradient flows through the statistics that are handed out."""

    @staticmethod
    def forward(ctx: Any, images: Tensor, weight: Tensor, bias: Tensor, eps: float) -> tuple[Tensor, Tensor, Tensor]:
        ctx.layout = _Layout(images)
        rows, per_channel, spread = ctx.layout.rows(images), ctx.layout.per_channel, ctx.layout.spread
        mean = per_channel(rows) / ctx.layout.count
        centred = rows - spread(mean)
        variance = per_channel(centred.square()) / ctx.layout.count
        deviation = (variance + eps).rsqrt()
        found = torch.addcmul(spread(bias), centred, spread(weight * deviation)).relu_()
        ctx.save_for_backward(centred, found, weight, deviation)
        ctx.mark_non_differentiable(mean, variance)
        return ctx.layout.images(found), mean, variance

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> tuple[Tensor, Tensor, Tensor, None]:
        centred, found, weight, deviation = ctx.saved_tensors
        layout = ctx.layout
        above = torch.ops.aten.threshold_backward(layout.rows(gradients[0]), found, 0)
        by_bias = layout.per_channel(above)
        by_weight = layout.per_channel(above * centred) * deviation
        scale = weight * deviation
        # dx = γ/σ (g − Σg/n − x̂ Σ(g x̂)/n) with x̂ = centred/σ.
        along = layout.spread(-scale * deviation * by_weight / layout.count)
        constant = layout.spread(-scale * by_bias / layout.count)
        by_images = torch.addcmul(constant, centred, along).addcmul_(above, layout.spread(scale))
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
        """One row with a number a channel."""
        return channels.repeat(self.pixels)


class Doubling(nn.ConvTranspose2d):
    """A transposed convolution of 4×4 with stride 2 and padding 1, for images in channels-last order.

    Each 2×2 window of the input decides 2×2 pixels of the output: one ordinary convolution with four times the channels.
    """

    def forward(self, images: Tensor, output_size: Any = None) -> Tensor:
        """[M, outputs, 2 height, 2 width] for [M, inputs, height, width]; `output_size` is torch's and says nothing here."""
        if not self.training or images.device.type != "cpu":
            return super().forward(images)
        found: Tensor = _Doubled.apply(images, self.weight, self.bias)
        return found


class _Doubled(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, images: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        ctx.save_for_backward(images, weight)
        batch, inputs, height, width = images.shape
        outputs = weight.shape[1]
        # [inputs, outputs, window row, row, window column, column]
        windows = weight.view(inputs, outputs, 2, 2, 2, 2).flip(2, 4).permute(3, 5, 1, 0, 2, 4).reshape(-1, inputs, 2, 2)
        windows = windows.contiguous(memory_format=torch.channels_last)
        seen = torch.conv2d(images, windows, bias.repeat(4), padding=1).permute(0, 2, 3, 1)
        seen = seen.view(batch, height + 1, width + 1, 2, 2, outputs)
        found = images.new_empty(batch, height, 2, width, 2, outputs)
        for row in (0, 1):
            for column in (0, 1):
                window = seen[:, row : row + height, column : column + width]
                found[:, :, row, :, column] = window[:, :, :, 1 - row, 1 - column]
        return found.view(batch, 2 * height, 2 * width, outputs).permute(0, 3, 1, 2)

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> tuple[Tensor, Tensor, Tensor]:
        images, weight = ctx.saved_tensors
        return torch.ops.aten.convolution_backward(
            gradients[0], images, weight, [weight.shape[1]], [2, 2], [1, 1], [1, 1], True, [0, 0], 1, [True, True, True]
        )
