"""Changes that make a user's network one that the method can use, without a change of its function.

Lazy layers get their sizes, parametrised weights become plain ones, and a Softmax at the end is taken off, because the method
needs logits. If forward itself computes probabilities, logits are made from these. Names of tensors are those of the plain
network afterwards.
"""

from __future__ import annotations

import copy
from contextlib import suppress
from typing import Final

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize, remove_spectral_norm, remove_weight_norm

_PROBABILITIES: Final = "probabilities"
_LOGARITHMS: Final = "logarithms of probabilities"
_ROUNDING: Final = 1e-4
"""Probabilities in float32 may miss a sum of one by less than this."""


@torch.no_grad()
def materialise(module: nn.Module, shape: tuple[int, ...], seed: int) -> None:
    """Give lazy layers their sizes and their initialisation, drawn from `seed`, by a pass with two black images of `shape`."""
    if any(isinstance(tensor, nn.parameter.UninitializedParameter) for tensor in module.parameters()):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            module.eval()(torch.zeros(2, *shape))


class Hardsigmoid(nn.Module):
    """`nn.Hardsigmoid`, whose derivative torch cannot differentiate again, as a ReLU6, whose derivative it can."""

    def forward(self, x: Tensor) -> Tensor:
        """min(max(x + 3, 0), 6) / 6, any shape."""
        return nn.functional.relu6(x + 3) / 6


def replace_hardsigmoids(module: nn.Module) -> None:
    """Replace every `nn.Hardsigmoid` inside `module` by one of the same function that has second derivatives."""
    layers = module.named_modules(remove_duplicate=False)  # one layer may stand in several places
    for name in [name for name, layer in layers if name and isinstance(layer, nn.Hardsigmoid)]:
        module.set_submodule(name, Hardsigmoid())


def fold_parametrisations(module: nn.Module) -> list[str]:
    """Replace weights that are computed from others (weight_norm, spectral_norm and their like) by their values.

    Returns a line for each layer. The network is in eval mode afterwards: there the values are the same in every pass.
    """
    folded = []
    module.eval()
    for name, layer in module.named_modules():
        if parametrize.is_parametrized(layer):
            for tensor in list(layer.parametrizations):
                parametrize.remove_parametrizations(layer, tensor, leave_parametrized=True)
            folded.append(f"{name}: the computed weight is taken as it is")
        for remove in (remove_weight_norm, remove_spectral_norm):  # torch's older ones, which are hooks
            with suppress(ValueError):
                remove(layer)
                layer._load_state_dict_pre_hooks.clear()  # spectral_norm leaves one, which wants the old names
                folded.append(f"{name}: the computed weight is taken as it is")
    return folded


@torch.no_grad()
def take_off_softmax(module: nn.Module, shape: tuple[int, ...]) -> list[str]:
    """Replace the nn.Softmax, nn.LogSoftmax or, for one output, nn.Sigmoid at the network's end by nn.Identity.

    Returns a line that says so.
    """
    outputs: list[tuple[str, Tensor]] = []
    kinds = nn.Softmax | nn.LogSoftmax | nn.Sigmoid
    ends = {name: layer for name, layer in module.named_modules() if name and isinstance(layer, kinds)}
    if not ends:
        return []
    hooks = [
        layer.register_forward_hook(lambda _, __, output, name=name: outputs.append((name, output)))
        for name, layer in ends.items()
    ]
    result = module.eval()(torch.zeros(2, *shape))
    for hook in hooks:
        hook.remove()
    names = [name for name, output in outputs if output is result]
    if not names or (isinstance(ends[names[-1]], nn.Sigmoid) and result.shape[1] != 1):
        return []
    module.set_submodule(names[-1], nn.Identity())
    return [f"{names[-1]}: {type(ends[names[-1]]).__name__} is taken off the end; its input are the logits"]


@torch.no_grad()
def make_logits(module: nn.Module, shape: tuple[int, ...]) -> list[str]:
    """Make logits from the outputs of a network that computes probabilities, or their logarithms, in its forward pass.

    They are log p_c − mean_c log p_c. For p = softmax(z) that is z_c − mean_c z_c: differences between classes, which are all
    that the losses use, and Λ are those of z. Returns a line that says so; none if the outputs for random images are others.
    """
    images = torch.randn(8, *shape, generator=torch.Generator().manual_seed(0))
    kind = _kind(module.eval()(images))
    if kind is None:
        return []
    with torch.random.fork_rng(devices=[]):  # for dropout
        in_training = _kind(copy.deepcopy(module).train()(images))

    def centred_logarithms(network: nn.Module, _: object, outputs: Tensor) -> Tensor:
        if network.training and in_training is None:  # many networks have their softmax in eval mode alone
            return outputs
        if kind == _PROBABILITIES:
            # Second derivatives of the logarithm hold 1/p², which must stay finite.
            outputs = outputs.clamp_min(torch.finfo(outputs.dtype).tiny ** 0.5).log()
        return outputs - outputs.mean(dim=1, keepdim=True)

    # A hook, not a module around the network: names of tensors stay.
    module.register_forward_hook(centred_logarithms)
    made = "their logarithms, less the mean over classes," if kind == _PROBABILITIES else "less their mean over classes they"
    return [
        f"the outputs are {kind}: {made} are the logits; differences between classes and Λ are those before the softmax, "
        "but lambda_policy last_layer alone sees through it"
    ]


def _kind(outputs: Tensor) -> str | None:
    """The kind of the outputs [M, C] of a classifier: probabilities or their logarithms; None for logits."""
    if outputs.shape[1] > 1 and (outputs >= 0).all() and ((outputs.sum(dim=1) - 1).abs() < _ROUNDING).all():
        return _PROBABILITIES
    if outputs.shape[1] > 1 and (outputs.logsumexp(dim=1).abs() < _ROUNDING).all():
        return _LOGARITHMS
    return None


@torch.no_grad()
def varying_outputs(module: nn.Module, shape: tuple[int, ...]) -> list[str]:
    """A line that says so if two passes in eval mode with the same images of `shape` differ; else none."""
    images = torch.full((2, *shape), 0.5)
    with torch.random.fork_rng(devices=[]):
        same = torch.equal(module.eval()(images), module(images))
    return [] if same else ["two passes with the same images differ (dropout that stays on?): its scores depend on chance"]
