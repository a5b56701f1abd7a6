"""A narrower copy of a network, without training: units are removed, and the layer after them is fitted by least squares.

From the first layer to the last, with A the units' outputs on some images and Y what the wide network's next layer has on them,
the weights W minimise ‖AW − Y‖². Units are removed one at a time, the one whose removal raises this minimum the least. For a
unit with the columns g of A, and P = (AᵀA)⁻¹, it rises by tr(W_gᵀ (P_gg)⁻¹ W_g): the optimal brain surgeon of Hassibi and Stork
(1993) for groups of weights, layer by layer as in Dong et al. (2017). A is that of the narrower network and Y that of the wide
one, as in He et al. (2017), so that each layer makes up for errors of those before it.
"""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy
from itertools import pairwise
from typing import Final

import torch
from torch import Tensor, nn

from gbc.classifiers.architectures import BATCH_NORMS
from gbc.errors import BadInput

_RIDGE: Final = 1e-3  # of the mean diagonal of AᵀA
_CHUNK: Final = 250  # images whose patches are held at once
Weighted = nn.Linear | nn.Conv2d
_BY_UNIT: Final = (
    nn.ReLU, nn.MaxPool2d, nn.AvgPool2d, nn.AdaptiveAvgPool2d, nn.Flatten, nn.Identity, nn.Dropout, *BATCH_NORMS,
)  # fmt: skip
"""Layers that may stand between those with weights: what they make of a unit depends on that unit alone."""


@torch.no_grad()
def narrow(wide: nn.Module, student: nn.Module, images: Tensor) -> None:
    """Make `student` a narrower copy of `wide` that has nearly its outputs on `images` [M, channels, height, width].

    All are on the CPU. BatchNorm of `wide` goes by its stored statistics.

    Raises:
        BadInput: the two are not the same sequence of layers, a linear one has inputs of several axes, or `student` has more
            units.
    """
    theirs, copies = _layers(deepcopy(wide).eval(), student)
    weighted = {number: layer for number, layer in enumerate(theirs) if isinstance(layer, Weighted)}
    first, last = min(weighted), max(weighted)
    wide_outputs = outputs = nn.Sequential(*theirs[:first])(images)
    _check_inputs(weighted[first], outputs)
    fitted = weighted[first]
    for here, following in pairwise(weighted):
        next_layer = weighted[following]
        wide_outputs = nn.Sequential(*theirs[here:following])(wide_outputs)
        _check_inputs(next_layer, wide_outputs)
        outputs = nn.Sequential(fitted, *theirs[here + 1 : following])(outputs)
        units = _units(fitted)
        kept, weights = remove_units(*_normal_equations(next_layer, outputs, wide_outputs), units, _units(copies[here]))
        for layer, copy in zip([fitted, *theirs[here + 1 : following]], copies[here:following], strict=True):
            _copy_units(layer, copy, kept, units)
        outputs = outputs[:, _columns(kept, units, outputs.shape[1])]
        fitted = _with_weights(next_layer, weights, _columns(kept, units, len(weights) // units * units))
    for layer, copy in [*zip(theirs[:first], copies[:first], strict=True), (fitted, copies[last])]:
        copy.load_state_dict(layer.state_dict())
    for layer, copy in zip(theirs[last + 1 :], copies[last + 1 :], strict=True):
        copy.load_state_dict(layer.state_dict())


def remove_units(gram: Tensor, product: Tensor, units: int, keep: int) -> tuple[list[int], Tensor]:
    """The `keep` units of `units` that fit best, found by removing one after the other, and the weights of the fit.

    `gram` is AᵀA [D, D] and `product` AᵀY [D, outputs], in float64. Columns are in the units' order, as many of each; what is
    over at the end, as a column of ones is, stays. Weights [D, outputs] are 0 for the removed.
    """
    size = len(gram) // units
    inverse = torch.linalg.inv(gram)
    weights = inverse @ product
    kept = list(range(units))
    while len(kept) > keep:
        columns = torch.tensor(_columns(kept, units, size * units)).view(-1, size)
        blocks = inverse[columns[:, :, None], columns[:, None, :]]  # P_gg of each unit
        own = weights[columns]
        rise = (own * torch.linalg.solve(blocks, own)).sum(dim=(1, 2))
        worst = int(rise.argmin())
        removed = columns[worst]
        change = torch.linalg.solve(blocks[worst], inverse[removed]).T
        weights = weights - change @ own[worst]
        inverse = inverse - change @ inverse[removed]
        weights[removed] = 0
        del kept[worst]
    return kept, weights


def _layers(wide: nn.Module, student: nn.Module) -> tuple[list[nn.Module], list[nn.Module]]:
    """The layers of both, in order. Raises BadInput as `narrow`."""
    theirs, copies = list(wide.children()), list(student.children())
    known = isinstance(wide, nn.Sequential) and isinstance(student, nn.Sequential) and all(map(_is_known, theirs))
    if not known or [_kind(layer) for layer in theirs] != [_kind(layer) for layer in copies]:
        raise BadInput("--start teacher: the student must have the teacher's layers, one after the other, with fewer units")
    pairs = [
        (layer.weight, copy.weight)
        for layer, copy in zip(theirs, copies, strict=True)
        if isinstance(layer, Weighted) and isinstance(copy, Weighted)
    ]
    if not pairs or pairs[0][0].shape[1:] != pairs[0][1].shape[1:]:
        raise BadInput("--start teacher: the student takes other inputs than the teacher")
    for weight, narrower in pairs:
        if len(narrower) > len(weight):
            counts = f"{len(narrower)} units, the teacher's {len(weight)}"
            raise BadInput(f"--start teacher: a layer of the student has {counts}; it can have as many or fewer")
    if len(pairs[-1][0]) != len(pairs[-1][1]):
        raise BadInput("--start teacher: the student has other outputs than the teacher")
    return theirs, copies


def _check_inputs(layer: Weighted, inputs: Tensor) -> None:
    """Check that the `inputs` [M, …] of a linear layer are a vector each. Raises BadInput."""
    if isinstance(layer, nn.Linear) and inputs.ndim != 2:
        several = f"[{', '.join(map(str, inputs.shape[1:]))}]"
        raise BadInput(f"--start teacher: a linear layer of the teacher takes {several} of an image; it must take one vector")


def _units(layer: nn.Module) -> int:
    assert isinstance(layer, Weighted)
    return len(layer.weight)


def _is_known(layer: nn.Module) -> bool:
    if isinstance(layer, nn.Conv2d):
        return layer.groups == 1 and layer.padding_mode == "zeros" and not isinstance(layer.padding, str)
    return isinstance(layer, (nn.Linear, *_BY_UNIT))


def _kind(layer: nn.Module) -> tuple[object, ...]:
    """All that must be equal in a layer and its narrower copy."""
    kind: tuple[object, ...] = (type(layer),)
    if isinstance(layer, nn.Linear):
        kind += (layer.bias is None,)
    elif isinstance(layer, nn.Conv2d):
        kind += (layer.bias is None, layer.kernel_size, layer.stride, layer.padding, layer.dilation)
    elif isinstance(layer, BATCH_NORMS):
        kind += (layer.affine, layer.running_mean is None)
    else:
        kind += (repr(layer),)
    return kind


def _normal_equations(layer: Weighted, inputs: Tensor, wide_inputs: Tensor) -> tuple[Tensor, Tensor]:
    """AᵀA and AᵀY in float64. A are the layer's inputs at each position, with 1 if it has a bias; Y are its outputs."""
    gram, product = torch.zeros(()), torch.zeros(())
    for part, wide_part in zip(inputs.split(_CHUNK), wide_inputs.split(_CHUNK), strict=True):
        outputs = layer(wide_part)
        if isinstance(layer, nn.Conv2d):
            assert not isinstance(layer.padding, str)
            part = nn.functional.unfold(part, layer.kernel_size, layer.dilation, layer.padding, layer.stride)
            part, outputs = part.transpose(1, 2).flatten(0, 1), outputs.flatten(2).transpose(1, 2).flatten(0, 1)
        if layer.bias is not None:
            part = torch.cat([part, torch.ones(len(part), 1)], dim=1)
        part, outputs = part.double(), outputs.double()
        gram, product = gram + part.T @ part, product + part.T @ outputs
    # A unit that is always 0 leaves AᵀA without an inverse. The penalty for a distance from the layer's own weights adds one.
    own = layer.weight.flatten(1) if layer.bias is None else torch.cat([layer.weight.flatten(1), layer.bias[:, None]], dim=1)
    penalty = (_RIDGE * gram.diagonal().mean()).clamp_min(1e-9)
    return gram + penalty * torch.eye(len(gram)), product + penalty * own.T


def _columns(kept: Sequence[int], units: int, columns: int) -> list[int]:
    """The columns of the units `kept`, of `columns` in the order of all units."""
    size = columns // units
    return [unit * size + column for unit in kept for column in range(size)]


def _with_weights(layer: Weighted, weights: Tensor, columns: Sequence[int]) -> Weighted:
    """A copy of the layer with the rows `columns` of the weights [D, outputs] of a fit; its bias is the last row."""
    fitted = deepcopy(layer)
    new = weights[list(columns)].T.float()
    fitted.weight = nn.Parameter(new.reshape(len(new), -1, *layer.weight.shape[2:]))
    if layer.bias is not None:
        fitted.bias = nn.Parameter(weights[-1].float())
    return fitted


def _copy_units(layer: nn.Module, copy: nn.Module, kept: Sequence[int], units: int) -> None:
    """Copy weights and statistics of the units `kept` of a layer to its narrower copy."""
    copied = {}
    for name, values in layer.state_dict().items():
        copied[name] = values[_columns(kept, units, len(values))] if values.dim() else values
    copy.load_state_dict(copied)
