"""YAML as settings need it: plain values within limits, every fault in one line with its line number.

The loader is PyYAML's safe one with four changes. Numbers and truth values are YAML 1.2's: `1e-3` is a number and `no` is text,
as the name of a class may be. There are no dates. Tags are those of plain values, and no key occurs twice. Size, depth and what
aliases expand to have a limit.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, Final

import yaml

from gbc.errors import BadInput

BYTES: Final = 256 * 1024
DEPTH: Final = 20
VALUES: Final = 20_000
"""With those that aliases repeat."""

_TAG: Final = "tag:yaml.org,2002:"
_FORMS: Final = {
    "null": re.compile(r"(?:~|null|Null|NULL|)$"),
    "bool": re.compile(r"(?:true|True|TRUE|false|False|FALSE)$"),
    "int": re.compile(r"[-+]?[0-9][0-9_]*$"),
    "float": re.compile(
        r"(?:[-+]?(?:\.[0-9]+|[0-9][0-9_]*(?:\.[0-9_]*)?)(?:[eE][-+]?[0-9]+)?|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN))$"
    ),
}
_STARTS: Final = {"bool": "tTfF", "int": "-+0123456789", "float": "-+0123456789."}
_CONTROL: Final = re.compile("[\x00-\x08\x0b-\x1f\x7f\ud800-\udfff]")
_EXACT: Final = 2**53


class _Refused(yaml.YAMLError):
    """Raised for valid YAML that is not allowed in settings."""

    def __init__(self, text: str, mark: Any) -> None:
        super().__init__(text)
        self.text, self.line = text, mark.line + 1


class _Loader(yaml.SafeLoader):
    """Composes nodes within the limits; `plain` makes values of them."""

    yaml_implicit_resolvers: Any = {  # noqa: RUF012 (PyYAML's own class attribute)
        first: [(tag, form) for tag, form in known if tag.removeprefix(_TAG) not in ("timestamp", *_STARTS)]
        for first, known in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self._depth = self._count = 0
        self._counts: dict[int, int] = {}

    def fetch_flow_collection_start(self, TokenClass: Any) -> None:
        """Read `[` or `{` as the base class does, which reads ahead of what is composed, in time quadratic in the depth."""
        if self.flow_level > 10 * DEPTH:  # not at once: what comes before may be wrong in another way
            raise _Refused(f"nested more than {DEPTH} levels deep", self.get_mark())
        super().fetch_flow_collection_start(TokenClass)

    def compose_node(self, parent: Any, index: Any) -> Any:
        """Compose a node as the base class does, within the limits on tags, depth and number of nodes."""
        event: Any = self.peek_event()  # type: ignore[no-untyped-call]
        if isinstance(event, yaml.AliasEvent):
            node = super().compose_node(parent, index)
            if id(node) not in self._counts:
                raise _Refused(f"&{event.anchor} contains itself", event.start_mark)
            self._add(self._counts[id(node)], event)
            return node
        tag = getattr(event, "tag", None) or "!"
        if tag != "!" and tag.removeprefix(_TAG) not in (*_FORMS, "str", "seq", "map"):
            tag = _shown(tag.replace(_TAG, "!!"))
            raise _Refused(f"the tag {tag} is not for settings; write a number, text, a list or a mapping", event.start_mark)
        before, self._depth = self._count, self._depth + 1
        if self._depth > DEPTH:
            raise _Refused(f"nested more than {DEPTH} levels deep", event.start_mark)
        self._add(1, event)
        node = super().compose_node(parent, index)
        self._depth -= 1
        self._counts[id(node)] = self._count - before
        return node

    def compose_mapping_node(self, anchor: Any) -> Any:
        """Compose a mapping as the base class does; refuse a key that is not a scalar or occurs twice."""
        node: Any = super().compose_mapping_node(anchor)
        lines: dict[str, int] = {}
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                raise _Refused("a key must be a word, not a list or a mapping", key.start_mark)
            if key.value in lines:
                raise _Refused(f"{_shown(key.value)} is set twice, first in line {lines[key.value]}", key.start_mark)
            lines[key.value] = key.start_mark.line + 1
        return node

    def plain(self, node: Any) -> Any:
        """The value of a node: None, bool, int, float, str, list or dict."""
        if isinstance(node, yaml.SequenceNode):
            return [self.plain(item) for item in node.value]
        if isinstance(node, yaml.MappingNode):
            self.flatten_mapping(node)  # `<<`
            return {_text(key): self.plain(value) for key, value in node.value}
        kind, text = node.tag.removeprefix(_TAG), node.value
        if kind not in _FORMS:
            return _text(node)
        if not _FORMS[kind].fullmatch(text):
            raise _Refused(f"{_shown(text)} is not {'an' if kind == 'int' else 'a'} {kind}", node.start_mark)
        if kind == "null":
            return None
        if kind == "bool":
            return self.bool_values[text.lower()]
        return _number(text.replace("_", ""), node)

    def _add(self, count: int, event: Any) -> None:
        self._count += count
        if self._count > VALUES:
            raise _Refused(f"more than {VALUES:,} values, with those that aliases repeat", event.start_mark)


class _Dumper(yaml.SafeDumper):
    """Quotes text that `_Loader` would take for a number."""


for _kind, _first in _STARTS.items():
    _Loader.add_implicit_resolver(_TAG + _kind, _FORMS[_kind], list(_first))
    _Dumper.add_implicit_resolver(_TAG + _kind, _FORMS[_kind], list(_first))


def parse(text: str, source: str) -> Any:
    """The value that `text` is, made of None, bool, int, float, str, list and dict; `source` names it in errors.

    A number with an exponent that is a whole one, such as `1e3`, is an int.

    Raises:
        BadInput: it is not YAML, not plain, or beyond a limit.
    """
    if len(text.encode(errors="replace")) > BYTES:
        raise BadInput(f"{source}: larger than {BYTES // 1024} kB, which no file of settings is")
    try:
        loader = _Loader(text)
        node = loader.get_single_node()
        return None if node is None else loader.plain(node)
    except _Refused as fault:
        raise BadInput(f"{source}: {_at(fault.line, text)}{fault.text}") from None
    except yaml.MarkedYAMLError as fault:
        mark = fault.problem_mark or fault.context_mark
        message = " ".join(filter(None, (fault.context, fault.problem)))
        raise BadInput(f"{source}: not valid YAML: {_at(mark.line + 1 if mark else 1, text)}{message}") from None
    except yaml.YAMLError as fault:
        raise BadInput(f"{source}: not valid YAML: {' '.join(str(fault).split())[:200]}") from None


def load(path: Path) -> Any:
    """The value in a file of YAML.

    Raises:
        BadInput: there is no such file, it cannot be read, and as `parse`.
    """
    try:
        with path.open("rb") as file:
            content = file.read(BYTES + 1)  # a device has no end
        text = content.decode() if len(content) <= BYTES else " " * len(content)
    except FileNotFoundError:
        raise BadInput(f"{path}: no such file") from None
    except OSError as fault:
        raise BadInput(f"{path}: cannot be read: {fault.strerror}") from None
    except UnicodeDecodeError as fault:
        line = content[: fault.start].count(b"\n") + 1
        raise BadInput(f"{path}: cannot be read: line {line} is not UTF-8 text") from None
    return parse(text, str(path))


def dump(data: object) -> str:
    """YAML that `parse` reads as `data`."""
    return yaml.dump(data, Dumper=_Dumper, sort_keys=False, allow_unicode=True)


def _at(line: int, text: str) -> str:
    return f"line {line}: " if "\n" in text.strip() else ""


def _text(node: Any) -> str:
    if _CONTROL.search(node.value):
        raise _Refused("text with a control character", node.start_mark)
    return str(node.value)


def _number(text: str, node: Any) -> int | float:
    digits = text.lstrip("+-").lower()
    if digits.isdigit():
        if len(digits) > 19 or int(digits) >= 2**63:
            raise _Refused(f"{_shown(text)} is too large; integers end at 2^63 - 1", node.start_mark)
        return int(text)
    number = float(text.lower().replace(".inf", "inf").replace(".nan", "nan"))
    return int(number) if "e" in digits and number.is_integer() and abs(number) < _EXACT else number


def _shown(text: str) -> str:
    return repr(text if len(text) <= 40 else f"{text[:30]}…")
