"""Base class of all settings, and functions for settings as plain data: YAML, dotted keys, digests, one-line errors.

Models are frozen and strict: an unknown key, a number in quotes or a value out of range is a `BadInput` that names the
source, the key and what is allowed.
"""

from __future__ import annotations

import difflib
import hashlib
import json
from pathlib import Path
from typing import Any, Self

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from gbc.errors import BadInput


class Config(BaseModel):
    """Base of every model: frozen, strict, no unknown keys, no infinities."""

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid", allow_inf_nan=False)

    @classmethod
    def parse(cls, data: object, source: str) -> Self:
        """Build from plain data (as YAML or JSON gives it). `source` names the file or flag in errors.

        Raises:
            BadInput: an unknown key, a wrong type or a value out of range.
        """
        if not isinstance(data, dict):
            raise BadInput(f"{source}: expected a mapping of settings, found {type(data).__name__}")
        try:
            # Through JSON: there pydantic accepts a list for a tuple in strict mode too.
            return cls.model_validate_json(json.dumps(data, default=str))
        except ValidationError as fault:
            raise BadInput(_explain(fault, cls, source)) from None

    def digest(self) -> str:
        """Sixteen hex digits that change when any setting does."""
        return digest(self.model_dump(mode="json"))

    def updated(self, changes: dict[str, Any], source: str) -> Self:
        """A copy with `changes` (dotted keys reach into nested models), validated again.

        Raises:
            BadInput: as in `parse`.
        """
        data = self.model_dump(mode="json")
        for key, value in changes.items():
            assign(data, key, value, source)
        return self.parse(data, source)


def flatten(data: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested settings as one mapping with dotted keys, as used for MLflow parameters and for differences between sweeps."""
    flat: dict[str, Any] = {}
    for key, value in data.items():
        if isinstance(value, dict):
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = value
    return flat


def assign(data: dict[str, Any], dotted: str, value: object, source: str) -> None:
    """Set `dotted` in nested `data`, in place.

    Raises:
        BadInput: the key leads into something that is not a mapping.
    """
    *parents, last = dotted.split(".")
    for parent in parents:
        data = data.setdefault(parent, {})
        if not isinstance(data, dict):
            raise BadInput(f"{source}: {dotted!r} is not a setting: {parent!r} has no parts")
    data[last] = value


def parse_assignment(text: str) -> tuple[str, Any]:
    """`KEY=VALUE` as (key, value); numbers may be written as 1e-4.

    Raises:
        BadInput: there is no `=` or no key.
    """
    key, equals, value = text.partition("=")
    if not equals or not key:
        raise BadInput(f"--set {text!r}: expected KEY=VALUE, for example lr=1e-3")
    for number in (int, float):
        try:
            return key, number(value)
        except ValueError:
            pass
    try:
        return key, yaml.safe_load(value)
    except yaml.YAMLError:
        return key, value


def digest(data: object) -> str:
    """Sixteen hex digits of the canonical JSON of plain data."""
    text = json.dumps(data, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def load_yaml(path: Path) -> dict[str, Any]:
    """The mapping in a YAML file.

    Raises:
        BadInput: there is no such file, it cannot be read, or it does not hold a mapping.
    """
    try:
        data = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise BadInput(f"{path}: no such file") from None
    except (OSError, UnicodeDecodeError) as fault:
        raise BadInput(f"{path}: cannot be read: {fault}") from None
    except yaml.YAMLError as fault:
        raise BadInput(f"{path}: not valid YAML: {' '.join(str(fault).split())}") from None
    if not isinstance(data, dict):
        raise BadInput(f"{path}: expected a mapping of settings, found {type(data).__name__}")
    return data


def suggest(word: str, known: list[str]) -> str:
    """`did you mean …?` if a known word is similar, else the list of known words."""
    near = difflib.get_close_matches(word, known, n=1)
    return f"did you mean {near[0]!r}?" if near else f"known: {', '.join(sorted(known))}"


def _explain(fault: ValidationError, model: type[BaseModel], source: str) -> str:
    """The first error in one line: source, key, given value, allowed values, remedy."""
    errors = fault.errors(include_url=False)
    error = errors[0]
    path = [str(part) for part in error["loc"]]
    key, value = ".".join(path), error["input"]
    if error["type"] == "extra_forbidden":
        line = f"{source}: {key!r} is not a setting; {suggest(path[-1], _keys(model, path[:-1]))}"
    elif isinstance(value, str) and _is_number(value) and "type" in error["type"]:
        line = f"{source}: {key}: {value!r} is text, not a number"
        if "e" in value.lower() and "." not in value:
            mantissa, exponent = value.lower().split("e")
            line += f"; YAML wants a point before the exponent: {mantissa}.0e{exponent}"
        else:
            line += "; remove the quotes"
    else:
        message = error["msg"].removeprefix("Value error, ").removeprefix("Input ")
        shown = "" if isinstance(value, dict) else f"{value!r} "
        line = f"{source}: {key + ': ' if key else ''}{shown}{message}"
    more = len(errors) - 1
    return line + (f" (and {more} more fault{'s' if more > 1 else ''})" if more else "")


def _keys(model: type[BaseModel], path: list[str]) -> list[str]:
    for part in path:
        field = model.model_fields.get(part)
        inner = field.annotation if field else None
        if not (isinstance(inner, type) and issubclass(inner, BaseModel)):
            return []
        model = inner
    return list(model.model_fields)


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
