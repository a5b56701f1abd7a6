"""Changes that make a user's network one that the method can use, without a change of its function.

Lazy layers get their sizes, parametrised weights become plain ones, and a Softmax at the end is taken off, because the method
needs logits. Names of tensors are those of the plain network afterwards.
"""

from __future__ import annotations

from contextlib import suppress

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize, remove_spectral_norm, remove_weight_norm


@torch.no_grad()
def materialise(module: nn.Module, shape: tuple[int, ...], seed: int) -> None:
    """Give lazy layers their sizes and their initialisation, drawn from `seed`, by a pass with two black images of `shape`."""
    if any(isinstance(tensor, nn.parameter.UninitializedParameter) for tensor in module.parameters()):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            module.eval()(torch.zeros(2, *shape))


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
    """Replace an nn.Softmax or nn.LogSoftmax that gives the network's output by nn.Identity; returns a line that says so."""
    outputs: list[tuple[str, Tensor]] = []
    ends = {name: layer for name, layer in module.named_modules() if name and isinstance(layer, nn.Softmax | nn.LogSoftmax)}
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
    if not names:
        return []
    module.set_submodule(names[-1], nn.Identity())
    return [f"{names[-1]}: {type(ends[names[-1]]).__name__} is taken off the end; its input are the logits"]


@torch.no_grad()
def varying_outputs(module: nn.Module, shape: tuple[int, ...]) -> list[str]:
    """A line that says so if two passes in eval mode with the same images of `shape` differ; else none."""
    images = torch.full((2, *shape), 0.5)
    with torch.random.fork_rng(devices=[]):
        same = torch.equal(module.eval()(images), module(images))
    return [] if same else ["two passes with the same images differ (dropout that stays on?): its scores depend on chance"]
