"""The rules: what each kind of layer asks of the degrees, and the degree of what comes out.

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


def _passed(collector: Collector, call: Call) -> Any:
    """What works on each channel alone and maps x + c to f(x) + c: the degree and the shifts are kept."""
    return call.get(0, "input")


def _kept(collector: Collector, call: Call) -> Any:
    """f(ax) = a·f(x) for a > 0: the degree is kept."""
    return collector.settled(call.get(0, "input"))


def _average(collector: Collector, call: Call) -> Any:
    """A mean keeps shifts, but for padding with zeros, which enter it."""
    padding = call.module.padding if isinstance(call.module, nn.Module) else call.get(3, "padding", 0)
    return _kept(collector, call) if _any(padding) else _passed(collector, call)


def _dropped(collector: Collector, call: Call) -> Any:
    """Dropout is off, unless a function is told otherwise."""
    if call.get(2, "training", True):
        raise NotQuasiHomogeneous(call.name, "dropout is on; pass training=self.training")
    return _passed(collector, call)


def _flattened(collector: Collector, call: Call) -> Any:
    """[M, ...] to [M, features] keeps shifts; what merges other axes may put different shifts into one channel."""
    start = call.module.start_dim if isinstance(call.module, nn.Module) else call.get(1, "start_dim", 0)
    return _passed(collector, call) if start == 1 else _kept(collector, call)


def _degree_0(collector: Collector, call: Call) -> Activation:
    """A non-linearity that is not homogeneous: its input must not scale."""
    value = collector.settled(call.get(0, "input"))
    collector.ask(value.degree, call.name, f"{call.what} needs an input of degree 0")
    return Activation(collector.zero, call.name)


def _affine(collector: Collector, call: Call) -> Activation:
    """Linear and convolutional layers: degree out = degree in + λ_W; λ_b = degree out."""
    weight, bias = _parameter(collector, call, 1, "weight"), _parameter(collector, call, 2, "bias")
    assert weight is not None
    # Zeros beyond the border, and overlaps at it, make of a constant something that is not one.
    if isinstance(call.module, nn.Module):
        local = isinstance(call.module, nn.ConvTranspose1d | nn.ConvTranspose2d)
        borders = local or (isinstance(call.module, nn.Conv1d | nn.Conv2d) and _any(call.module.padding))
    else:
        borders = call.module not in ("linear", "conv1d", "conv2d") or _any(call.get(4, "padding", 0))
    value = call.get(0, "input")
    value = collector.settled(value) if borders else value
    shifts = tuple(replace(shift, degree=shift.degree + weight) for shift in value.shifts)
    if bias is not None:
        shifts = (*shifts, Shift(bias, call.name))
    return Activation(value.degree + weight, call.name, shifts)


def _normalised(collector: Collector, call: Call) -> Activation:
    """Layer, group and batch normalisation: degree out = λ_γ = λ_β.

    By the input's own statistics any scale is divided out, and by the batch's every shift too; stored ones do not follow.
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
        value = collector.settled(value)
        collector.ask(value.degree, call.name, f"{call.what} by stored statistics needs an input of degree 0")
    elif not batch:
        collector.settled(value)
    weight, bias = _parameter(collector, call, first, "weight"), _parameter(collector, call, first + 1, "bias")
    if weight is None:
        weight = collector.zero
    if bias is None:
        return Activation(weight, call.name)
    value = Activation(weight, call.name, (Shift(bias, call.name),))
    return value if batch else collector.settled(value)


def _summed(collector: Collector, call: Call) -> Activation:
    """Equal degrees in x + y and x − y. A number that is added has degree 0."""
    terms = [call.get(0, "input"), call.get(1, "other")]
    degrees = [_degree(collector, term) for term in terms]
    collector.ask(degrees[0] - degrees[1], call.name, "the terms of a sum must have equal degrees")
    shifts = tuple(shift for term in terms if isinstance(term, Activation) for shift in term.shifts)
    return Activation(degrees[0], call.name, shifts)


def _concatenated(collector: Collector, call: Call) -> Activation:
    """torch.cat: equal degrees."""
    parts = call.get(0, "tensors")
    first, *others = (_degree(collector, part) for part in parts)
    for other in others:
        collector.ask(first - other, call.name, "concatenated tensors must have equal degrees")
    shifts = tuple(shift for part in parts if isinstance(part, Activation) for shift in part.shifts)
    joined = Activation(first, call.name, shifts)
    # Along any other axis than the channels one part's shift is not shared by the whole.
    return joined if call.get(1, "dim", 0) == 1 else collector.settled(joined)


def _stacked(collector: Collector, call: Call) -> Activation:
    """torch.stack makes a new axis, so that channels may move: equal degrees."""
    return collector.settled(_concatenated(collector, call))


def _multiplied(collector: Collector, call: Call) -> Activation:
    """Degrees add in x·y and x @ y. A number has degree 0."""
    factors = [collector.settled(term) for term in (call.get(0, "input"), call.get(1, "other")) if isinstance(term, Activation)]
    return Activation(sum((factor.degree for factor in factors), start=collector.zero), call.name)


def _divided(collector: Collector, call: Call) -> Activation:
    """Degrees subtract in x / y."""
    above, below = (_settled(collector, term) for term in (call.get(0, "input"), call.get(1, "other")))
    return Activation(above - below, call.name)


def _added_product(collector: Collector, call: Call) -> Activation:
    """torch.addmm, z + x @ y: equal degrees. What is added need not be a bias, so it is no shift."""
    left, right = call.get(1, "mat1"), call.get(2, "other")
    product = _multiplied(collector, replace(call, args=(left, right), kwargs={}))
    return collector.settled(_summed(collector, replace(call, args=(call.get(0, "input"), product), kwargs={})))


def _attention(collector: Collector, call: Call) -> Activation:
    """softmax(QKᵀ)·V: degree 0 of QKᵀ; the degree of V is kept."""
    query, key, value = (_settled(collector, call.get(i, name)) for i, name in enumerate(("query", "key", "value")))
    collector.ask(query + key, call.name, "the softmax of attention needs an input of degree 0")
    return Activation(value, call.name)


def _item(collector: Collector, call: Call) -> Any:
    """A part of a tensor, x[...]."""
    return _kept(collector, call) if isinstance(call.args[0], Activation) else None


def _copied(collector: Collector, call: Call) -> Any:
    """x[...] = y, which is how torch.export writes down that a buffer changes."""
    source = call.get(1, "src")
    return collector.settled(source) if isinstance(source, Activation) else None


def _size(collector: Collector, call: Call) -> None:
    """A size, or what is made from it alone, is not scaled by anything."""


def _builtin(collector: Collector, call: Call) -> Any:
    """`x.shape` is a size; other attributes are not known."""
    if call.args[1] != "shape":
        raise NotQuasiHomogeneous(call.name, f"no rule is known for the attribute {call.args[1]!r} of a tensor")
    return None


def _degree(collector: Collector, term: Any) -> Array:
    """A number, or a tensor made of sizes alone, has degree 0."""
    degree: Array = term.degree if isinstance(term, Activation) else collector.zero
    return degree


def _settled(collector: Collector, term: Any) -> Array:
    """The degree that a tensor has as a whole, once its shifts have it too."""
    return _degree(collector, collector.settled(term) if isinstance(term, Activation) else term)


def _parameter(collector: Collector, call: Call, position: int, name: str) -> Array | None:
    """The degree of a layer's weight or bias, be it the module's own or an argument of the function; None without."""
    if isinstance(call.module, nn.Module):
        tensor = getattr(call.module, name)
        return None if tensor is None else collector.degree_of(tensor, call.name)
    given = call.get(position, name)
    return None if given is None else _settled(collector, given)


def _any(padding: Any) -> bool:
    return padding == "same" if isinstance(padding, str) else bool(np.any(padding))


MODULES: Final[dict[Any, Rule]] = {
    **dict.fromkeys((nn.Linear, nn.Conv1d, nn.Conv2d, nn.ConvTranspose1d, nn.ConvTranspose2d), _affine),
    **dict.fromkeys((nn.BatchNorm1d, nn.BatchNorm2d, nn.LayerNorm, nn.GroupNorm), _normalised),
    **dict.fromkeys((nn.ReLU, nn.LeakyReLU, nn.Unflatten), _kept),
    **dict.fromkeys((nn.Identity, nn.Dropout, nn.Dropout1d, nn.Dropout2d), _passed),
    **dict.fromkeys((nn.MaxPool1d, nn.MaxPool2d, nn.AdaptiveMaxPool1d, nn.AdaptiveMaxPool2d), _passed),
    **dict.fromkeys((nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d), _passed),
    **dict.fromkeys((nn.AvgPool1d, nn.AvgPool2d), _average),
    nn.Flatten: _flattened,
    **dict.fromkeys((nn.GELU, nn.SiLU, nn.Sigmoid, nn.Tanh, nn.Softmax, nn.LogSoftmax), _degree_0),
    **dict.fromkeys((nn.ELU, nn.SELU, nn.Softplus, nn.Mish, nn.ReLU6, nn.Hardtanh, nn.Hardswish), _degree_0),
}

FUNCTIONS: Final[dict[Any, Rule]] = {
    **dict.fromkeys((F.linear, F.conv1d, F.conv2d, F.conv_transpose1d, F.conv_transpose2d), _affine),
    **dict.fromkeys((F.batch_norm, F.layer_norm, F.group_norm), _normalised),
    F.scaled_dot_product_attention: _attention,
    **dict.fromkeys((torch.relu, F.relu, F.leaky_relu, torch.abs, torch.squeeze, torch.unsqueeze), _kept),
    **dict.fromkeys((torch.reshape, torch.permute, torch.transpose), _kept),
    **dict.fromkeys((F.max_pool1d, F.max_pool2d, F.adaptive_max_pool1d, F.adaptive_max_pool2d), _passed),
    **dict.fromkeys((F.adaptive_avg_pool1d, F.adaptive_avg_pool2d, torch.mean), _passed),
    **dict.fromkeys((F.avg_pool1d, F.avg_pool2d), _average),
    **dict.fromkeys((F.dropout, F.dropout2d), _dropped),
    torch.flatten: _flattened,
    **dict.fromkeys((F.gelu, F.silu, torch.sigmoid, torch.tanh, torch.softmax, torch.log_softmax), _degree_0),
    **dict.fromkeys((F.sigmoid, F.tanh, F.softmax, F.log_softmax, F.elu, F.softplus), _degree_0),
    **dict.fromkeys((operator.add, operator.iadd, torch.add, operator.sub, torch.sub), _summed),
    **dict.fromkeys((torch.cat, torch.concat), _concatenated),
    torch.stack: _stacked,
    **dict.fromkeys((operator.mul, operator.imul, torch.mul, operator.matmul, torch.matmul), _multiplied),
    **dict.fromkeys((operator.truediv, torch.div), _divided),
    **dict.fromkeys((operator.neg, torch.neg), _kept),
    operator.getitem: _item,
    getattr: _builtin,
}

METHODS: Final[dict[Any, Rule]] = {
    **dict.fromkeys(("relu", "relu_", "abs", "view", "reshape", "unflatten", "permute", "transpose"), _kept),
    **dict.fromkeys(("squeeze", "unsqueeze", "sum", "neg", "amax", "chunk", "split", "select", "expand"), _kept),
    **dict.fromkeys(("unbind", "repeat", "t"), _kept),
    **dict.fromkeys(("contiguous", "mean", "clone", "to", "float", "double", "detach"), _passed),
    "flatten": _flattened,
    **dict.fromkeys(("sigmoid", "tanh", "softmax", "log_softmax"), _degree_0),
    **dict.fromkeys(("add", "add_", "sub"), _summed),
    **dict.fromkeys(("mul", "matmul"), _multiplied),
    "div": _divided,
    **dict.fromkeys(("size", "dim", "numel"), _size),
}

# What torch.export records. ATen gives its operators the names of tensor methods and functions, see `structure.aten`.
OPERATORS: Final[dict[str, Rule]] = {
    **METHODS,
    **dict.fromkeys(("linear", "conv1d", "conv2d", "conv_transpose1d", "conv_transpose2d"), _affine),
    **dict.fromkeys(("batch_norm", "layer_norm", "group_norm"), _normalised),
    **dict.fromkeys(("leaky_relu", "leaky_relu_", "slice", "split_with_sizes", "numpy_T"), _kept),
    **dict.fromkeys(("max_pool1d", "max_pool2d", "adaptive_max_pool1d", "adaptive_max_pool2d"), _passed),
    **dict.fromkeys(("adaptive_avg_pool1d", "adaptive_avg_pool2d", "alias", "detach_", "lift_fresh_copy"), _passed),
    **dict.fromkeys(("avg_pool1d", "avg_pool2d"), _average),
    **dict.fromkeys(("dropout", "dropout_", "feature_dropout", "feature_dropout_"), _dropped),
    **dict.fromkeys(("gelu", "silu", "elu", "selu", "softplus", "mish", "relu6", "hardtanh", "hardswish"), _degree_0),
    **dict.fromkeys(("sub_", "rsub"), _summed),
    **dict.fromkeys(("cat", "concat"), _concatenated),
    "stack": _stacked,
    **dict.fromkeys(("mul_", "mm", "bmm"), _multiplied),
    "div_": _divided,
    "addmm": _added_product,
    "scaled_dot_product_attention": _attention,
    **dict.fromkeys(("_assert_tensor_metadata", "sym_size", "zeros_like", "ones_like"), _size),
    "copy_": _copied,
}
