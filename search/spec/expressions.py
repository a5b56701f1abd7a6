"""Constraints between settings as text: arithmetic and comparisons, read by a parser of our own rules and never executed.

Numbers are floats throughout, so no expression takes more than a moment or a few bytes: what cannot be computed (a division by
zero, an overflow) is NaN, and compares as false.
"""

from __future__ import annotations

import ast
import math
import operator
import warnings
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final

from gbc.settings import shown, suggest

_LONGEST: Final = 300  # characters
_MOST_PARTS: Final = 80
_DEEPEST: Final = 12

_ARITHMETIC: Final[dict[type[ast.AST], Callable[..., float]]] = {
    ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul, ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv, ast.Mod: operator.mod, ast.Pow: math.pow, ast.USub: operator.neg, ast.UAdd: operator.pos,
}  # fmt: skip
_COMPARISONS: Final[dict[type[ast.AST], Callable[[Any, Any], bool]]] = {
    ast.Lt: operator.lt, ast.LtE: operator.le, ast.Gt: operator.gt, ast.GtE: operator.ge, ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
}  # fmt: skip
_FUNCTIONS: Final[dict[str, Callable[..., float]]] = {"min": min, "max": max, "abs": abs}
_ALLOWED: Final = "numbers, names of settings, + - * / // % **, comparisons, and, or, not, min, max and abs"


class Expression:
    """A condition on settings, such as `batch_size * steps <= 200000`."""

    def __init__(self, text: str) -> None:
        """Reads `text`.

        Raises:
            ValueError: it is no expression of the kind, too long or nested too deep; the message says what is allowed.
        """
        self.text = text
        if len(text) > _LONGEST:
            raise ValueError(f"{shown(text)} has {len(text)} characters; at most {_LONGEST}")
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of numbers that run into words
                self._tree = ast.parse(text.strip(), mode="eval").body
        except (SyntaxError, ValueError, MemoryError, RecursionError):
            raise ValueError(f"{shown(text)} cannot be read; write for example batch_size * steps <= 200000") from None
        parts = list(_parts(self._tree, 1))
        if len(parts) > _MOST_PARTS or max(depth for _, depth in parts) > _DEEPEST:
            raise ValueError(f"{shown(text)} has too many parts, or is nested too deep; divide it into several")
        self.names = tuple(dict.fromkeys(name for node, _ in parts if (name := self._checked(node))))
        """The settings that it names, with dots."""

    def check(self, values: Mapping[str, Any]) -> None:
        """Check that it can be judged for settings with such values.

        Raises:
            ValueError: it names no setting, an unknown one or one without a number or a text, or computes with text.
        """
        if not self.names:
            raise ValueError(f"{shown(self.text)} names no setting")
        for name in self.names:
            if name not in values:
                raise ValueError(f"{shown(self.text)}: {name!r} is not a setting; {suggest(name, list(values))}")
            if isinstance(values[name], bool) or not isinstance(values[name], int | float | str):
                raise ValueError(f"{shown(self.text)}: {name} is neither a number nor a text, but {shown(values[name])}")
        if not isinstance(self._value(self._tree, values), bool):
            raise ValueError(f"{shown(self.text)} must compare, as in batch_size * steps <= 200000")

    def holds(self, values: Mapping[str, Any]) -> bool:
        """True for settings that keep it. `check` has accepted it for settings of the same kinds."""
        return bool(self._value(self._tree, values))

    def _checked(self, node: ast.AST) -> str | None:
        """The setting that a part names, None for other parts; raises `ValueError` for what is not allowed."""
        match node:
            case ast.Name() | ast.Attribute():
                if name := _dotted(node):
                    return name
            case ast.Constant(value=str()):
                return None
            case ast.Constant(value=int() | float() as number) if not isinstance(number, bool):
                if isinstance(number, int) and number.bit_length() > 1000:
                    raise ValueError(f"{shown(self.text)} has a number that is too large")
                return None
            case ast.BinOp() | ast.UnaryOp() if type(node.op) in _ARITHMETIC or isinstance(node.op, ast.Not):
                return None
            case ast.Compare() if all(type(comparison) in _COMPARISONS for comparison in node.ops):
                return None
            case ast.BoolOp():
                return None
            case ast.Call(func=ast.Name(id=name), keywords=[]) if name in _FUNCTIONS:
                count = len(node.args)
                if (count == 1) if name == "abs" else (count >= 2):
                    return None
                raise ValueError(f"{shown(self.text)}: {name} takes {'one number' if name == 'abs' else 'two numbers or more'}")
        raise ValueError(f"{shown(self.text)}: {shown(ast.unparse(node))} is not allowed; a constraint has {_ALLOWED}")

    def _value(self, node: ast.AST, values: Mapping[str, Any]) -> float | str | bool:
        """The value of a part. Every part is computed, so that one of a wrong kind shows whatever the values are."""
        match node:
            case ast.Constant(value=value):
                return value if isinstance(value, str) else float(value)  # type: ignore[arg-type]
            case ast.Name() | ast.Attribute():
                value = values[str(_dotted(node))]
                return value if isinstance(value, str) else float(value)
            case ast.BoolOp():
                truths = [self._truth(part, values) for part in node.values]
                return all(truths) if isinstance(node.op, ast.And) else any(truths)
            case ast.UnaryOp(op=ast.Not()):
                return not self._truth(node.operand, values)
            case ast.UnaryOp():
                return self._computed(_ARITHMETIC[type(node.op)], [node.operand], values)
            case ast.BinOp():
                return self._computed(_ARITHMETIC[type(node.op)], [node.left, node.right], values)
            case ast.Call(func=ast.Name(id=name)):
                return self._computed(_FUNCTIONS[name], node.args, values)
            case ast.Compare():
                return self._compared(node, values)
        raise AssertionError(node)  # `_checked` has refused it

    def _computed(self, function: Callable[..., float], nodes: list[ast.expr], values: Mapping[str, Any]) -> float:
        numbers = [self._number(node, values) for node in nodes]
        if any(map(math.isnan, numbers)):
            return math.nan  # `min` and `max` would go by the order
        try:
            result = function(*numbers)
        except (ArithmeticError, ValueError):
            return math.nan
        return result if math.isfinite(result) else math.nan

    def _compared(self, node: ast.Compare, values: Mapping[str, Any]) -> bool:
        operands = [self._value(part, values) for part in (node.left, *node.comparators)]
        kinds = {type(operand) for operand in operands}
        equality = all(isinstance(comparison, ast.Eq | ast.NotEq) for comparison in node.ops)
        if bool in kinds or len(kinds) > 1 or (str in kinds and not equality):
            raise ValueError(f"{shown(self.text)}: {shown(ast.unparse(node))} compares what cannot be compared")
        if any(isinstance(operand, float) and math.isnan(operand) for operand in operands):
            return False
        pairs = zip(node.ops, operands, operands[1:], strict=False)
        return all(_COMPARISONS[type(comparison)](left, right) for comparison, left, right in pairs)

    def _number(self, node: ast.AST, values: Mapping[str, Any]) -> float:
        value = self._value(node, values)
        if not isinstance(value, float):
            raise ValueError(f"{shown(self.text)}: {shown(ast.unparse(node))} is not a number")
        return value

    def _truth(self, node: ast.AST, values: Mapping[str, Any]) -> bool:
        value = self._value(node, values)
        if not isinstance(value, bool):
            raise ValueError(f"{shown(self.text)}: {shown(ast.unparse(node))} is no comparison")
        return value


def _parts(node: ast.AST, depth: int) -> Iterator[tuple[ast.expr, int]]:
    """Every part of an expression with its depth; the names in a dotted one, and the name of a function, are none."""
    pending = [(node, depth)]
    while pending:
        node, depth = pending.pop()
        if isinstance(node, ast.expr):
            yield node, depth
        if isinstance(node, ast.Name | ast.Attribute) and _dotted(node):
            continue
        inner = node.args if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) else ast.iter_child_nodes(node)
        pending += [(child, depth + 1) for child in inner]


def _dotted(node: ast.AST) -> str | None:
    """`classifier.hidden` for names with dots between them; None for an attribute of anything else."""
    names: list[str] = []
    while isinstance(node, ast.Attribute):
        names.append(node.attr)
        node = node.value
    return ".".join([node.id, *reversed(names)]) if isinstance(node, ast.Name) else None
