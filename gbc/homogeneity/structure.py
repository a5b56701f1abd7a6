"""Structural rules for Λ: walk the graph of a network and write down what each layer asks of the degrees.

The input has degree 0 and the logits must have degree 1.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, fx, nn

from gbc.classifiers import normalising_by
from gbc.errors import BadInput, NotQuasiHomogeneous
from gbc.homogeneity.activations import Activation, Call, Collector
from gbc.homogeneity.rules import FUNCTIONS, METHODS, MODULES, Rule
from gbc.homogeneity.system import Equation, System


def structural(module: nn.Module, mode: str) -> System:
    """The equations of Λ by the layers of `module`; `mode` is the BatchNorm mode, `train` or `eval`.

    Layers that normalise by their input's own statistics count as scale-invariant: their eps is left aside.

    Raises:
        BadInput: the forward pass cannot be traced (control flow that depends on the input).
        NotQuasiHomogeneous: a layer that no rule is known for.
    """
    with normalising_by(module, mode):
        try:
            graph = fx.symbolic_trace(module).graph
        except Exception as fault:  # whatever the user's forward raises when it is given a proxy
            raise BadInput(f"cannot read the layers of {type(module).__name__}: {' '.join(str(fault).split())}") from fault
    return _walk(graph, module, Collector(module, mode))


def _walk(graph: fx.Graph, module: nn.Module, collector: Collector) -> System:
    """Every node in order; the logits come last."""
    found: dict[fx.Node, Any] = {}
    for node in graph.nodes:
        args, kwargs = fx.map_arg((node.args, node.kwargs), lambda argument: found[argument])
        match node.op:
            case "placeholder":
                found[node] = Activation(collector.zero, "the input")
            case "get_attr":
                name = str(node.target)
                found[node] = Activation(collector.degree_of(_attribute(module, name), name), name)
            case "call_module":
                layer = module.get_submodule(str(node.target))
                found[node] = _apply(MODULES.get(type(layer)), collector, Call(str(node.target), layer, args, kwargs))
            case "call_function" | "call_method":
                # The innermost module whose forward pass this is, where there is one.
                owner = next(reversed(node.meta.get("nn_module_stack", {})), "")
                kind = node.target if isinstance(node.target, str) else getattr(node.target, "__name__", str(node.target))
                call = Call(f"{owner}.{node.name}".lstrip("."), kind, args, kwargs)
                rules = METHODS if node.op == "call_method" else FUNCTIONS
                found[node] = _apply(rules.get(node.target), collector, call)
            case "output":
                collector.equations.append(_logits(args[0], collector))
    return System(collector.names, tuple(collector.equations))


def _apply(rule: Rule | None, collector: Collector, call: Call) -> Any:
    """By the layer's rule; what is computed from sizes alone carries no degree."""
    if not any(isinstance(value, Activation) for value in _leaves((call.args, call.kwargs))):
        return None
    if rule is None:
        raise NotQuasiHomogeneous(
            call.name, f"no rule is known for {call.what}; add one to gbc/homogeneity/rules.py, or take last_layer"
        )
    return rule(collector, call)


def _logits(result: Any, collector: Collector) -> Equation:
    if not isinstance(result, Activation):
        raise BadInput(f"the network must return its logits [M, C] alone, it returns {type(result).__name__}")
    result = collector.settled(result)
    zero = "the logits have degree 0 after it, whatever Λ is"
    return Equation(result.degree, 1.0, result.source, "the logits must have degree 1" if result.degree.any() else zero)


def _attribute(module: nn.Module, dotted: str) -> Tensor:
    *parents, last = dotted.split(".")
    found: Tensor = getattr(module.get_submodule(".".join(parents)), last)
    return found


def _leaves(values: Any) -> list[Any]:
    if isinstance(values, dict):
        values = list(values.values())
    if isinstance(values, list | tuple):
        return [leaf for value in values for leaf in _leaves(value)]
    return [values]
