"""The rules: equations that each kind of layer requires of the degrees, and the degree of its output.

Every activation has a degree, a linear form over the λ of the parameter tensors: it scales by e^{α·degree} when ζ becomes
e^{αΛ}ζ.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from dataclasses import replace
from typing import Any, Final

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from gbc.errors import NotQuasiHomogeneous
from gbc.kkt.homogeneity.activations import Activation, Call, Collector, Shift
from gbc.kkt.homogeneity.system import Array

Rule = Callable[[Collector, Call], Any]


def _shift_equivariant(collector: Collector, call: Call) -> Any:
    """Keep degree and shifts: a function of each channel alone that maps x + c to f(x) + c."""
    return call.get(0, "input")


def _homogeneous(collector: Collector, call: Call) -> Any:
    """Keep the degree: f(ax) = a·f(x) for a > 0."""
    return collector.without_shifts(call.get(0, "input"))


def _average_pooling(collector: Collector, call: Call) -> Any:
    """Average pooling: it keeps shifts unless padding adds zeros to the mean."""
    padding = call.module.padding if isinstance(call.module, nn.Module) else call.get(3, "padding", 0)
    return _homogeneous(collector, call) if _has_padding(padding) else _shift_equivariant(collector, call)


def _dropout(collector: Collector, call: Call) -> Any:
    """Refuse a dropout function that is on; dropout that is off changes nothing."""
    if call.get(2, "training", True):
        raise NotQuasiHomogeneous(call.name, "dropout is on; pass training=self.training")
    return _shift_equivariant(collector, call)


def _flatten(collector: Collector, call: Call) -> Any:
    """Flattening: [M, ...] to [M, features] keeps shifts; merging other axes may put different shifts into one channel."""
    start = call.module.start_dim if isinstance(call.module, nn.Module) else call.get(1, "start_dim", 0)
    return _shift_equivariant(collector, call) if start == 1 else _homogeneous(collector, call)


def _degree_0(collector: Collector, call: Call) -> Activation:
    """A non-linearity that is not homogeneous: its input must have degree 0."""
    value = collector.without_shifts(call.get(0, "input"))
    collector.require_zero(value.degree, call.name, f"{call.kind} needs an input of degree 0")
    return Activation(collector.zero, call.name)


def _affine(collector: Collector, call: Call) -> Activation:
    """Linear and convolutional layers: degree out = degree in + λ_W; λ_b = degree out."""
    weight, bias = _parameter(collector, call, 1, "weight"), _parameter(collector, call, 2, "bias")
    assert weight is not None
    # Zeros beyond the border, and overlaps at it, turn a constant into something that is not constant.
    if isinstance(call.module, nn.Module):
        local = isinstance(call.module, nn.ConvTranspose1d | nn.ConvTranspose2d)
        borders = local or (isinstance(call.module, nn.Conv1d | nn.Conv2d) and _has_padding(call.module.padding))
    else:
        borders = call.module not in ("linear", "conv1d", "conv2d") or _has_padding(call.get(4, "padding", 0))
    value = call.get(0, "input")
    value = collector.without_shifts(value) if borders else value
    shifts = tuple(replace(shift, degree=shift.degree + weight) for shift in value.shifts)
    if bias is not None:
        shifts = (*shifts, Shift(bias, call.name))
    return Activation(value.degree + weight, call.name, shifts)


def _normalisation(collector: Collector, call: Call) -> Activation:
    """Layer, group and batch normalisation: degree out = λ_γ = λ_β.

    Normalisation by the input's own statistics removes every scale, and by the batch's statistics every shift too. Stored
    statistics do not change with the scale.
    """
    layer, value = call.module, call.get(0, "input")
    if isinstance(layer, nn.Module):
        batch = isinstance(layer, nn.BatchNorm1d | nn.BatchNorm2d)
        stored = batch and collector.mode != "train" and layer.running_mean is not None
        first = 0  # not used: a module's parameters are its own
    else:
        batch = layer == "batch_norm"
        stored = batch and not call.get(5, "training", False)
        first = 3 if batch else 2
    if stored:
        value = collector.without_shifts(value)
        collector.require_zero(value.degree, call.name, f"{call.kind} by stored statistics needs an input of degree 0")
    elif not batch:
        collector.without_shifts(value)
    weight, bias = _parameter(collector, call, first, "weight"), _parameter(collector, call, first + 1, "bias")
    if weight is None:
        weight = collector.zero
    if bias is None:
        return Activation(weight, call.name)
    value = Activation(weight, call.name, (Shift(bias, call.name),))
    return value if batch else collector.without_shifts(value)


def _sum(collector: Collector, call: Call) -> Activation:
    """X + y and x − y: equal degrees. A number has degree 0."""
    terms = [call.get(0, "input"), call.get(1, "other")]
    degrees = [_degree(collector, term) for term in terms]
    collector.require_zero(degrees[0] - degrees[1], call.name, "the terms of a sum must have equal degrees")
    shifts = tuple(shift for term in terms if isinstance(term, Activation) for shift in term.shifts)
    return Activation(degrees[0], call.name, shifts)


def _concatenate(collector: Collector, call: Call) -> Activation:
    """torch.cat: equal degrees."""
    parts = call.get(0, "tensors")
    first, *others = (_degree(collector, part) for part in parts)
    for other in others:
        collector.require_zero(first - other, call.name, "concatenated tensors must have equal degrees")
    shifts = tuple(shift for part in parts if isinstance(part, Activation) for shift in part.shifts)
    joined = Activation(first, call.name, shifts)
    # Along another axis than the channels, the shift of one part does not apply to the whole.
    return joined if call.get(1, "dim", 0) == 1 else collector.without_shifts(joined)


def _stack(collector: Collector, call: Call) -> Activation:
    """torch.stack: equal degrees. The new axis may move the channels, so shifts are not kept."""
    return collector.without_shifts(_concatenate(collector, call))


def _multiply(collector: Collector, call: Call) -> Activation:
    """x·y and x @ y: degrees add. A number has degree 0."""
    factors = [
        collector.without_shifts(term) for term in (call.get(0, "input"), call.get(1, "other")) if isinstance(term, Activation)
    ]
    return Activation(sum((factor.degree for factor in factors), start=collector.zero), call.name)


def _divide(collector: Collector, call: Call) -> Activation:
    """X / y: degrees subtract."""
    above, below = (_degree_without_shifts(collector, term) for term in (call.get(0, "input"), call.get(1, "other")))
    return Activation(above - below, call.name)


def _add_product(collector: Collector, call: Call) -> Activation:
    """torch.addmm, z + x @ y: equal degrees. z need not be a bias, so it is not a shift."""
    left, right = call.get(1, "mat1"), call.get(2, "other")
    product = _multiply(collector, replace(call, args=(left, right), kwargs={}))
    return collector.without_shifts(_sum(collector, replace(call, args=(call.get(0, "input"), product), kwargs={})))


def _attention(collector: Collector, call: Call) -> Activation:
    """softmax(QKᵀ)·V: QKᵀ must have degree 0; the degree is that of V."""
    query, key, value = (
        _degree_without_shifts(collector, call.get(i, name)) for i, name in enumerate(("query", "key", "value"))
    )
    collector.require_zero(query + key, call.name, "the softmax of attention needs an input of degree 0")
    return Activation(value, call.name)


def _getitem(collector: Collector, call: Call) -> Any:
    """x[...], a part of a tensor: keep the degree."""
    return _homogeneous(collector, call) if isinstance(call.args[0], Activation) else None


def _copy(collector: Collector, call: Call) -> Any:
    """x[...] = y, by which torch.export records that a buffer changes."""
    source = call.get(1, "src")
    return collector.without_shifts(source) if isinstance(source, Activation) else None


def _size(collector: Collector, call: Call) -> None:
    """A size, or a value made from sizes alone, which no parameter scales."""


def _getattr(collector: Collector, call: Call) -> Any:
    """`x.shape` is a size; there is no rule for other attributes."""
    if call.args[1] != "shape":
        raise NotQuasiHomogeneous(call.name, f"no rule is known for the attribute {call.args[1]!r} of a tensor")
    return None


def _degree(collector: Collector, term: Any) -> Array:
    """Degree of a term; 0 for a number, or for a tensor made from sizes alone."""
    degree: Array = term.degree if isinstance(term, Activation) else collector.zero
    return degree


def _degree_without_shifts(collector: Collector, term: Any) -> Array:
    """Degree of a term whose shifts are required to have the same degree."""
    return _degree(collector, collector.without_shifts(term) if isinstance(term, Activation) else term)


def _parameter(collector: Collector, call: Call, position: int, name: str) -> Array | None:
    """Degree of a layer's weight or bias, from the module or the argument of a function; None if there is none."""
    if isinstance(call.module, nn.Module):
        tensor = getattr(call.module, name)
        return None if tensor is None else collector.degree_of(tensor, call.name)
    given = call.get(position, name)
    return None if given is None else _degree_without_shifts(collector, given)


def _has_padding(padding: Any) -> bool:
    return padding == "same" if isinstance(padding, str) else bool(np.any(padding))


MODULES: Final[dict[Any, Rule]] = {
    **dict.fromkeys((nn.Linear, nn.Conv1d, nn.Conv2d, nn.ConvTranspose1d, nn.ConvTranspose2d), _affine),
    **dict.fromkeys((nn.BatchNorm1d, nn.BatchNorm2d, nn.LayerNorm, nn.GroupNorm), _normalisation),
    **dict.fromkeys((nn.ReLU, nn.LeakyReLU, nn.Unflatten), _homogeneous),
    **dict.fromkeys((nn.Identity, nn.Dropout, nn.Dropout1d, nn.Dropout2d), _shift_equivariant),
    **dict.fromkeys((nn.MaxPool1d, nn.MaxPool2d, nn.AdaptiveMaxPool1d, nn.AdaptiveMaxPool2d), _shift_equivariant),
    **dict.fromkeys((nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d), _shift_equivariant),
    **dict.fromkeys((nn.AvgPool1d, nn.AvgPool2d), _average_pooling),
    nn.Flatten: _flatten,
    **dict.fromkeys((nn.GELU, nn.SiLU, nn.Sigmoid, nn.Tanh, nn.Softmax, nn.LogSoftmax), _degree_0),
    **dict.fromkeys((nn.ELU, nn.SELU, nn.Softplus, nn.Mish, nn.ReLU6, nn.Hardtanh, nn.Hardswish), _degree_0),
}


def keeps_degree(layer: nn.Module) -> bool:
    """True for a layer without parameters whose output has the degree of its input, whatever that is."""
    return MODULES.get(type(layer)) in (_homogeneous, _shift_equivariant, _average_pooling, _flatten)


FUNCTIONS: Final[dict[Any, Rule]] = {
    **dict.fromkeys((F.linear, F.conv1d, F.conv2d, F.conv_transpose1d, F.conv_transpose2d), _affine),
    **dict.fromkeys((F.batch_norm, F.layer_norm, F.group_norm), _normalisation),
    F.scaled_dot_product_attention: _attention,
    **dict.fromkeys((torch.relu, F.relu, F.leaky_relu, torch.abs, torch.squeeze, torch.unsqueeze), _homogeneous),
    **dict.fromkeys((torch.reshape, torch.permute, torch.transpose), _homogeneous),
    **dict.fromkeys((F.max_pool1d, F.max_pool2d, F.adaptive_max_pool1d, F.adaptive_max_pool2d), _shift_equivariant),
    **dict.fromkeys((F.adaptive_avg_pool1d, F.adaptive_avg_pool2d, torch.mean), _shift_equivariant),
    **dict.fromkeys((F.avg_pool1d, F.avg_pool2d), _average_pooling),
    **dict.fromkeys((F.dropout, F.dropout2d), _dropout),
    torch.flatten: _flatten,
    **dict.fromkeys((F.gelu, F.silu, torch.sigmoid, torch.tanh, torch.softmax, torch.log_softmax), _degree_0),
    **dict.fromkeys((F.sigmoid, F.tanh, F.softmax, F.log_softmax, F.elu, F.softplus), _degree_0),
    **dict.fromkeys((F.selu, F.mish, F.relu6, F.hardtanh, F.hardswish), _degree_0),
    **dict.fromkeys((operator.add, operator.iadd, torch.add, operator.sub, torch.sub), _sum),
    **dict.fromkeys((torch.cat, torch.concat), _concatenate),
    torch.stack: _stack,
    **dict.fromkeys((operator.mul, operator.imul, torch.mul, operator.matmul, torch.matmul), _multiply),
    **dict.fromkeys((operator.truediv, torch.div), _divide),
    **dict.fromkeys((operator.neg, torch.neg), _homogeneous),
    operator.getitem: _getitem,
    getattr: _getattr,
}

METHODS: Final[dict[Any, Rule]] = {
    **dict.fromkeys(("relu", "relu_", "abs", "view", "reshape", "unflatten", "permute", "transpose"), _homogeneous),
    **dict.fromkeys(("squeeze", "unsqueeze", "sum", "neg", "amax", "chunk", "split", "select", "expand"), _homogeneous),
    **dict.fromkeys(("unbind", "repeat", "t"), _homogeneous),
    **dict.fromkeys(("contiguous", "mean", "clone", "to", "float", "double", "detach"), _shift_equivariant),
    "flatten": _flatten,
    **dict.fromkeys(("sigmoid", "tanh", "softmax", "log_softmax"), _degree_0),
    **dict.fromkeys(("add", "add_", "sub"), _sum),
    **dict.fromkeys(("mul", "matmul"), _multiply),
    "div": _divide,
    **dict.fromkeys(("size", "dim", "numel"), _size),
}

# Operators that torch.export records. ATen names them like tensor methods and functions, see `structure._aten`.
OPERATORS: Final[dict[str, Rule]] = {
    **METHODS,
    **dict.fromkeys(("linear", "conv1d", "conv2d", "conv_transpose1d", "conv_transpose2d"), _affine),
    **dict.fromkeys(("batch_norm", "layer_norm", "group_norm"), _normalisation),
    **dict.fromkeys(("leaky_relu", "leaky_relu_", "slice", "split_with_sizes", "numpy_T"), _homogeneous),
    **dict.fromkeys(("max_pool1d", "max_pool2d", "adaptive_max_pool1d", "adaptive_max_pool2d"), _shift_equivariant),
    **dict.fromkeys(("adaptive_avg_pool1d", "adaptive_avg_pool2d", "alias", "detach_", "lift_fresh_copy"), _shift_equivariant),
    **dict.fromkeys(("avg_pool1d", "avg_pool2d"), _average_pooling),
    **dict.fromkeys(("dropout", "dropout_", "feature_dropout", "feature_dropout_"), _dropout),
    **dict.fromkeys(("gelu", "silu", "elu", "selu", "softplus", "mish", "relu6", "hardtanh", "hardswish"), _degree_0),
    **dict.fromkeys(("sub_", "rsub"), _sum),
    **dict.fromkeys(("cat", "concat"), _concatenate),
    "stack": _stack,
    **dict.fromkeys(("mul_", "mm", "bmm"), _multiply),
    "div_": _divide,
    "addmm": _add_product,
    "scaled_dot_product_attention": _attention,
    **dict.fromkeys(("_assert_tensor_metadata", "sym_size", "zeros_like", "ones_like"), _size),
    "copy_": _copy,
}
