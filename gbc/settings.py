"""The base of all models of settings, and settings as plain data: YAML, dotted keys, digests, errors in one line each.

Models are frozen and strict: an unknown key, a number in quotes or a value out of range is a `BadInput` that names the
source, the key and what is allowed.
"""

from __future__ import annotations

import difflib
import hashlib
import json
import math
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Final, Self, get_args, get_origin

from pydantic import BaseModel, ConfigDict, ValidationError

from gbc import plain_yaml
from gbc.errors import BadInput

_MOST_FAULTS: Final = 10
_SYNONYMS: Final = {
    "learning_rate": "lr", "epochs": "steps", "iterations": "steps", "num_steps": "steps", "latent_dim": "noise_dim",
    "random_state": "seed", "gpu": "device",
}  # fmt: skip
"""Names that others give to settings of ours, where the letters are too different to see it."""


class Config(BaseModel):
    """Base of every model: frozen, strict, no unknown keys, no infinities."""

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid", allow_inf_nan=False)

    @classmethod
    def parse(cls, data: object, source: str, origins: Mapping[str, str] | None = None) -> Self:
        """Build from plain data (as YAML or JSON gives it). `source` names the file or flag in errors.

        `origins` maps dotted keys to the flags that set them, which are then named instead.

        Raises:
            BadInput: an unknown key, a wrong type or a value out of range; up to ten faults, a line each.
        """
        data = cls.shaped(data, source, origins)
        try:
            # Through JSON: there pydantic accepts a list for a tuple in strict mode too.
            return cls.model_validate_json(json.dumps(data, default=str))
        except ValidationError as fault:
            raise BadInput(_explain(fault, cls, data, source, origins or {})) from None

    @classmethod
    def shaped(cls, data: object, source: str, origins: Mapping[str, str] | None = None) -> dict[str, Any]:
        """`data` with a mapping wherever the model has one: a name in its place is what `named` makes of it.

        Raises:
            BadInput: a mapping or a list where the other, or neither, is meant.
        """
        shaped: dict[str, Any] = _shaped(cls, data, (), source, origins or {})
        return shaped

    @classmethod
    def named(cls, text: str) -> dict[str, Any] | None:
        """The settings that a single word stands for; None where it stands for none."""
        return None

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
            assign(data, key, value, source, type(self))
        return self.parse(data, source, {key: f"{source} {key}" for key in changes} if source == "--set" else None)


def flatten(data: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested settings as one mapping with dotted keys, as used for MLflow parameters and for differences between sweeps."""
    flat: dict[str, Any] = {}
    for key, value in data.items():
        if isinstance(value, dict):
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = value
    return flat


def assign(data: dict[str, Any], dotted: str, value: object, source: str, model: type[Config] | None = None) -> None:
    """Set `dotted` in nested `data`, in place. A word for a part of `model` that has a name sets the name alone.

    Raises:
        BadInput: the key leads into something that is not a mapping.
    """
    *parents, last = dotted.split(".")
    for parent in parents:
        data = data.setdefault(parent, {})
        if not isinstance(data, dict):
            raise BadInput(f"{source}: {dotted!r} is not a setting: {parent!r} has no parts")
    part = _part(model, [*parents, last]) if model else None
    named = part.named(value) if part and isinstance(value, str) else None
    if named and isinstance(data.get(last), dict):
        data[last].update(named)
    else:
        data[last] = value


def parse_assignment(text: str, flag: str = "--set") -> tuple[str, Any]:
    """`KEY=VALUE` as (key, value), which is YAML; `flag` is what a message names.

    Raises:
        BadInput: there is no `=`, no key, or the value is no YAML.
    """
    key, equals, value = text.partition("=")
    if not equals or not all(key.split(".")):
        raise BadInput(f"{flag} {text!r}: expected KEY=VALUE, for example lr=1e-3")
    return key, plain_yaml.parse(value, f"{flag} {key}")


def digest(data: object) -> str:
    """Sixteen hex digits of the canonical JSON of plain data."""
    text = json.dumps(data, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def load_yaml(path: Path) -> dict[str, Any]:
    """The mapping in a YAML file.

    Raises:
        BadInput: there is no such file, it cannot be read, or it does not hold a mapping.
    """
    data = plain_yaml.load(path)
    if not isinstance(data, dict):
        raise BadInput(f"{path}: expected a mapping of settings, found {_kind(data)}")
    return data


def suggest(given: str, known: Iterable[str]) -> str:
    """`did you mean …?` when something near is known, else the list."""
    known = sorted(known)
    plain = {re.sub(r"[-_ ]", "", name).lower(): name for name in known}
    near = difflib.get_close_matches(re.sub(r"[-_ ]", "", given).lower(), plain, n=1)
    meant = _SYNONYMS.get(given) if _SYNONYMS.get(given) in known else plain[near[0]] if near else None
    if meant:
        return f"did you mean {meant!r}?"
    more = f" and {len(known) - 20} more" if len(known) > 20 else ""
    return f"known: {', '.join(known[:20])}{more}"


def shown(value: object) -> str:
    """A value in a message, cut where it is long."""
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:50]}…"


def _shaped(annotation: Any, value: Any, path: tuple[str, ...], source: str, origins: Mapping[str, str]) -> Any:
    """`value` with every part in the shape that `annotation` asks for; numbers and words are left to the model."""
    kind, inner = get_origin(annotation), get_args(annotation)

    def wrong(expected: str) -> BadInput:
        location, key = _location(path, source, origins)
        return BadInput(f"{location}: {key + ': ' if key else ''}expected {expected}, found {_kind(value)}")

    if isinstance(annotation, type) and issubclass(annotation, Config):
        if isinstance(value, str) and (named := annotation.named(value)):
            value = named
        if not isinstance(value, dict):
            raise wrong("a mapping of settings")
        fields = annotation.model_fields
        return {
            key: _shaped(fields[key].annotation, part, (*path, key), source, origins) if key in fields else part
            for key, part in value.items()
        }
    if kind is dict:
        if not isinstance(value, dict):
            raise wrong("a mapping")
        return {key: _shaped(inner[1], part, (*path, str(key)), source, origins) for key, part in value.items()}
    if kind is tuple:
        if not isinstance(value, list | tuple):
            raise wrong("a list")
        item_type = inner[0]
        return [_shaped(item_type, item, (*path, str(number)), source, origins) for number, item in enumerate(value)]
    if type(None) in inner and value is not None:
        for part in inner:
            if get_origin(part) in (dict, tuple) or (isinstance(part, type) and issubclass(part, Config)):
                return _shaped(part, value, path, source, origins)
    return value


def _location(path: tuple[str, ...], source: str, origins: Mapping[str, str]) -> tuple[str, str]:
    """The origin of the value at `path`, and the part of `path` that it does not name: (flag, rest) or (source, path)."""
    for end in range(len(path), 0, -1):
        if flag := origins.get(".".join(path[:end])):
            return flag, ".".join(part for part in path[end:] if not part.isdigit())  # on a command line nobody counts
    inside = [flag for key, flag in origins.items() if key.startswith(".".join((*path, "")))] if path else []
    return (inside[0] if len(inside) == 1 else source), ".".join(path)


def _kind(value: object) -> str:
    if value is None:
        return "nothing"
    names: dict[type, str] = {dict: "a mapping", list: "a list", tuple: "a list", str: "the text"}
    name = names.get(type(value), "")
    return f"{name} {shown(value)}" if name in ("", "the text") else name


def _explain(fault: ValidationError, model: type[Config], data: Any, source: str, origins: Mapping[str, str]) -> str:
    """A line for each error: source, key, the value that was found, the values that are allowed, the remedy."""
    by_path: dict[tuple[str, ...], list[Any]] = {}
    for error in fault.errors(include_url=False):
        path = _path(error["loc"], data) if error["type"] != "missing" else tuple(map(str, error["loc"]))
        by_path.setdefault(path, []).append(error)
    lines = [line for path, errors in by_path.items() for line in _lines(path, errors, model, source, origins)]
    more = len(lines) - _MOST_FAULTS
    return "\n".join(lines[:_MOST_FAULTS] + ([f"{source}: and {more} more fault{'s' * (more > 1)}"] if more > 0 else []))


def _path(loc: tuple[Any, ...], data: Any) -> tuple[str, ...]:
    """Without the branches of unions, which are in no file."""
    path: list[str] = []
    for part in loc:
        if (isinstance(data, dict) and part in data) or (isinstance(data, list) and isinstance(part, int) and part < len(data)):
            data = data[part]
        else:
            break
        path.append(str(part))
    return tuple(path)


def _lines(path: tuple[str, ...], errors: list[Any], model: type[Config], source: str, origins: Mapping[str, str]) -> list[str]:
    error, value = errors[0], errors[0]["input"]
    location, key = _location(path, source, origins)
    start = f"{location}: {key}: " if key else f"{location}: "
    if error["type"] == "json_invalid":
        return [f"{source}: holds text that is not UTF-8"]
    if error["type"] == "extra_forbidden":
        part = _part(model, list(path[:-1]))
        hint = suggest(path[-1], part.model_fields if part else ())
        if len(hint) > 200:
            hint = "`python search/run.py --dry-run` prints all that are"
        return [f"{location}: {shown('.'.join(path))} is not a setting; {hint}"]
    if isinstance(value, str) and _is_number(value) and "type" in error["type"]:
        remedy = "remove the quotes" if math.isfinite(float(value)) else "a finite number is needed"
        return [f"{start}{shown(value)} is text, not a number; {remedy}"]
    messages = dict.fromkeys(fault["msg"].removeprefix("Value error, ").removeprefix("Input ") for fault in errors)
    message = " or ".join([*messages][:1] + [message.removeprefix("should be ") for message in [*messages][1:]])
    if error["type"] == "value_error" and isinstance(value, dict):
        # Of several settings together: those that were set by flags and are spoken of are to blame.
        prefix = "".join(f"{part}." for part in path)
        blamed = [flag for key, flag in origins.items() if key.startswith(prefix) and key.rpartition(".")[2] in message]
        start = f"{', '.join(blamed)}: " if blamed else start
        return [start + line for line in message.splitlines()]
    return [f"{start}{message}" if isinstance(value, dict) else f"{start}{shown(value)} {message}"]


def _part(model: type[Config], path: list[str]) -> type[Config] | None:
    """The model at a path; None where there is none."""
    annotation: Any = model
    for part in path:
        if isinstance(annotation, type) and issubclass(annotation, Config):
            field = annotation.model_fields.get(part)
            annotation = field.annotation if field else None
        else:  # an element of a list or a mapping
            annotation = next((member for member in get_args(annotation) if member is not str), None)
        for member in get_args(annotation):
            if type(None) in get_args(annotation) and member is not type(None):
                annotation = member
                break
    return annotation if isinstance(annotation, type) and issubclass(annotation, Config) else None


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
