"""A network of every member, as one."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from functools import partial
from typing import Any, Final

import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap

from gbc.layers import BatchNormReLU, Doubling
from gbc.training.generator import Generator, conditioned


class Network:
    """A network of every member: called, it is theirs side by side."""

    def __init__(self, modules: Sequence[nn.Module], leaves: Sequence[Tensor]) -> None:
        """`leaves` [K, …] are the parameters, in order; buffers are stacked here."""
        self.leaves = leaves
        self._parameters = dict(zip((name for name, _ in modules[0].named_parameters()), leaves, strict=True))
        named = [dict(module.named_buffers()) for module in modules]
        self.buffers = {name: torch.stack([buffers[name] for buffers in named]) for name in named[0]}
        self._tensors = {**self._parameters, **self.buffers}
        self._skeleton = copy.deepcopy(modules[0]).to("meta")

    def __call__(self, *inputs: Tensor, **same: Any) -> Tensor:
        """Outputs [K, M, …] for inputs [K, M, …]; `same` is everyone's. Buffers change as training changes them."""
        return self._part(self._skeleton, "", inputs, same)

    def _part(self, module: nn.Module, prefix: str, inputs: tuple[Tensor, ...], same: dict[str, Any]) -> Tensor:
        tensors = {name.removeprefix(prefix): value for name, value in self._tensors.items() if name.startswith(prefix)}

        def one(mine: dict[str, Tensor], *inputs: Tensor) -> Tensor:
            found: Tensor = functional_call(module, mine, inputs, same)
            return found

        found: Tensor = vmap(one)(tensors, *inputs)
        return found


class Generators(Network):
    """Convolutional generators, whose feature maps lie side by side as the channels of one.

    What `vmap` would make of the layers copies these maps from order to order, and they are the most that a step moves.
    """

    def __call__(self, *inputs: Tensor, **same: Any) -> Tensor:
        """As `Generator`, a row a member."""
        network = self._skeleton
        assert isinstance(network, Generator)
        cells = self._part(network.fully_connected, "fully_connected.", (vmap(partial(conditioned, network))(*inputs),), same)
        members, samples = cells.shape[:2]
        maps = cells.view(members, samples, *network.grid).transpose(0, 1).flatten(1, 2)  # [M, K channels, height, width]
        for name, layer in network.transposed.named_children():
            own = {key: self._tensors[f"transposed.{name}.{key}"].flatten(0, 1) for key in _AS_CHANNELS[type(layer)]}
            if isinstance(layer, nn.ConvTranspose2d):
                assert not isinstance(layer.padding, str)
                maps = torch.conv_transpose2d(maps, own["weight"], own["bias"], layer.stride, layer.padding, groups=members)
            elif isinstance(layer, BatchNormReLU):
                assert layer.momentum is not None
                # The statistics are views of the buffers, and change with them.
                maps = torch.nn.functional.batch_norm(maps, **own, training=True, momentum=layer.momentum, eps=layer.eps).relu()
                self.buffers[f"transposed.{name}.num_batches_tracked"].add_(1)
        return torch.sigmoid(maps).unflatten(1, (members, -1)).transpose(0, 1).contiguous()


_AS_CHANNELS: Final[dict[type[nn.Module], tuple[str, ...]]] = {
    Doubling: ("weight", "bias"),
    nn.ConvTranspose2d: ("weight", "bias"),
    BatchNormReLU: ("weight", "bias", "running_mean", "running_var"),
    nn.Identity: (),
}
"""Tensors of a layer whose first axis is that of channels."""
