"""Structural rules for Λ: walk the graph of a network and collect the equations that each layer requires of the degrees.

The input has degree 0 and the logits must have degree 1.
"""

from __future__ import annotations

import contextlib
import inspect
import io
import logging
import operator
import warnings
from collections.abc import Iterator, Mapping
from typing import Any, Final

import torch
from torch import Tensor, fx, nn
from torch._ops import OpOverload

from gbc.classifiers.architectures import normalising_by
from gbc.errors import BadInput, NotQuasiHomogeneous
from gbc.kkt.homogeneity.activations import Activation, Call, Collector
from gbc.kkt.homogeneity.rules import FUNCTIONS, METHODS, MODULES, OPERATORS, Rule
from gbc.kkt.homogeneity.system import Equation, System

# ATen's names of arguments that have other names in torch's functions.
_ARGUMENTS: Final = {"self": "input", "train": "training", "mat2": "other"}


def structural(module: nn.Module, mode: str, example: Tensor | None = None) -> System:
    """The equations of Λ that the layers of `module` require; `mode` is the BatchNorm mode, `train` or `eval`.

    torch.fx reads the forward pass. If that fails and there is an `example`, a batch of inputs [M, ...] with any values,
    torch.export reads it: it knows the sizes, so control flow may depend on them.

    Layers that normalise by their input's own statistics count as scale-invariant: their eps is ignored.

    Raises:
        BadInput: the forward pass cannot be traced (control flow that depends on the input's values).
        NotQuasiHomogeneous: there is no rule for a layer.
    """
    try:
        return traced(module, mode)
    except _Untraceable as fault:
        if example is None:
            raise
        first = fault
    try:
        return exported(module, mode, example)
    except _Untraceable as fault:
        raise BadInput(f"{first}; torch.export: {fault.reason}") from fault


def traced(module: nn.Module, mode: str) -> System:
    """The system of `structural`, by torch.fx alone: a graph of layers, functions and methods."""
    with normalising_by(module, mode):
        try:
            graph = fx.symbolic_trace(module, concrete_args=_defaults(module)).graph
        except Exception as fault:  # the user's forward pass may raise anything for a proxy
            raise _Untraceable(module, fault) from fault
    return _walk(graph, module, Collector(module, mode), {})


def exported(module: nn.Module, mode: str, example: Tensor) -> System:
    """The system of `structural`, by torch.export alone: a graph of ATen operators with parameters and buffers as inputs."""
    with normalising_by(module, mode), torch.no_grad(), _quietly():
        try:
            program = torch.export.export(module, (example,))
        except Exception as fault:  # as above
            raise _Untraceable(module, fault) from fault
    signature, kind = program.graph_signature, program.call_spec.out_spec.type
    if kind is not None:  # a single tensor has none
        raise _not_alone(kind)
    constants = dict.fromkeys(signature.inputs_to_lifted_tensor_constants)
    lifted = {**signature.inputs_to_parameters, **signature.inputs_to_buffers, **constants}
    return _walk(program.graph, module, Collector(module, mode), lifted)


def _defaults(module: nn.Module) -> dict[str, Any] | None:
    """Default values of the optional arguments of the forward pass; None if there are none."""
    arguments = inspect.signature(module.forward).parameters.values()
    return {argument.name: argument.default for argument in arguments if argument.default is not argument.empty} or None


class _Untraceable(BadInput):
    """torch.fx or torch.export failed to read a network."""

    def __init__(self, module: nn.Module, fault: Exception) -> None:
        # torch.export adds pages of advice after the first paragraph.
        self.reason = " ".join(str(fault).strip().partition("\n\n")[0].split())
        super().__init__(f"cannot read the layers of {type(module).__name__}: {self.reason}")


@contextlib.contextmanager
def _quietly() -> Iterator[None]:
    """Suppress the output of torch.export, which prints and logs an unfinished graph when it fails."""
    disabled = logging.root.manager.disable
    with contextlib.redirect_stderr(io.StringIO()), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        logging.disable()
        try:
            yield
        finally:
            logging.disable(disabled)


def _walk(graph: fx.Graph, module: nn.Module, collector: Collector, lifted: Mapping[str, str | None]) -> System:
    """Apply the rules to every node in order; the logits are the last.

    `lifted` names the parameter or buffer that a placeholder stands for, None for a constant. The first of the other
    placeholders is the input, those after it have their defaults.
    """
    values: dict[fx.Node, Any] = {}
    arguments = [node for node in graph.nodes if node.op == "placeholder" and node.name not in lifted]
    for node in graph.nodes:
        args, kwargs = fx.map_arg((node.args, node.kwargs), values.__getitem__)
        match node.op:
            case "placeholder" if node in arguments[1:]:
                values[node] = None
            case "placeholder" | "get_attr":
                name = lifted.get(node.name) if node.op == "placeholder" else str(node.target)
                degree = collector.degree_of(_attribute(module, name), name) if name else collector.zero
                values[node] = Activation(degree, name or "the input")
            case "output":
                # An exported graph returns a tuple that begins with the buffers that the forward pass changes.
                result = args[0][-1] if isinstance(args[0], tuple) and lifted else args[0]
                collector.equations.append(_logits(result, collector))
            case _:
                rule, call = _read(node, module, args, kwargs)
                values[node] = _apply(rule, collector, call)
                if node.op != "call_module" and _changes_its_input(call):
                    values[node.args[0]] = values[node]
    return System(collector.names, tuple(collector.equations))


def _read(node: fx.Node, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Rule | None, Call]:
    """The rule for a node, and the call for that rule."""
    target = node.target
    if node.op == "call_module":
        layer = module.get_submodule(str(target))
        return MODULES.get(type(layer)), Call(str(target), layer, args, kwargs)
    name = _layer_name(node, module)
    if isinstance(target, OpOverload):
        return _aten(target, name, args, kwargs)
    if isinstance(target, str):
        return METHODS.get(target), Call(name, target, args, kwargs)
    source = node.args[0] if node.args else None
    if target is operator.getitem and isinstance(source, fx.Node) and isinstance(source.target, OpOverload):
        return OPERATORS["alias"], Call(name, "getitem", args, kwargs)  # one of several results, not x[...]
    return FUNCTIONS.get(target), Call(name, getattr(target, "__name__", str(target)), args, kwargs)


def _aten(target: OpOverload, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Rule | None, Call]:
    """The rule for an ATen operator, and its call with all arguments under the names in torch's function."""
    arguments = target._schema.arguments
    given = {argument.name: value for argument, value in zip(arguments, args, strict=False)} | kwargs
    kind = target._schema.name.rpartition("::")[2]
    named = {_ARGUMENTS.get(key, key): value for key, value in given.items()}
    return OPERATORS.get(kind), Call(name, kind, (), named)


def _layer_name(node: fx.Node, module: nn.Module) -> str:
    """Path of the PyTorch layer that a node belongs to, else of the innermost module, followed by the node's name."""
    path = next((str(scope[0]) for scope in reversed(node.meta.get("nn_module_stack", {}).values())), "").partition("@")[0]
    # torch.fx stops at these layers, so its own nodes are never inside one.
    if path and isinstance(node.target, OpOverload) and fx.Tracer().is_leaf_module(module.get_submodule(path), path):
        return path
    return f"{path}.{node.name}".lstrip(".")


def _changes_its_input(call: Call) -> bool:
    """True for an in-place operation: its name ends in one underscore, while Python's special methods end in two."""
    return str(call.module).endswith("_") and not str(call.module).endswith("__")


def _apply(rule: Rule | None, collector: Collector, call: Call) -> Any:
    """Apply the layer's rule; None for values computed from sizes alone, which have no degree."""
    if not any(isinstance(value, Activation) for value in _leaves((call.args, call.kwargs))):
        return None
    if rule is None:
        raise NotQuasiHomogeneous(
            call.name, f"no rule is known for {call.kind}; add one to gbc/kkt/homogeneity/rules.py, or take last_layer"
        )
    return rule(collector, call)


def _logits(result: Any, collector: Collector) -> Equation:
    if not isinstance(result, Activation):
        raise _not_alone(type(result))
    result = collector.without_shifts(result)
    zero = "the logits have degree 0 after it, whatever Λ is"
    return Equation(result.degree, 1.0, result.source, "the logits must have degree 1" if result.degree.any() else zero)


def _not_alone(kind: type) -> BadInput:
    return BadInput(f"the network must return its logits [M, C] alone, it returns {kind.__name__}")


def _attribute(module: nn.Module, dotted: str) -> Tensor:
    *parents, last = dotted.split(".")
    tensor: Tensor = getattr(module.get_submodule(".".join(parents)), last)
    return tensor


def _leaves(values: Any) -> list[Any]:
    if isinstance(values, dict):
        values = list(values.values())
    if isinstance(values, list | tuple):
        return [leaf for value in values for leaf in _leaves(value)]
    return [values]
