"""Names of variables say what the variables hold: no binding has one of the words that fit any value."""

from __future__ import annotations

import symtable
from collections.abc import Iterator

import pytest

from tests.support import ROOT

VAGUE = frozenset(
    {"entry", "found", "it", "judged", "look", "mend", "one", "place", "places", "said", "thing", "things", "told"}
    | {"word", "words", "how", "what", "when", "where", "which", "who", "whose", "why"}
)
PRODUCT = ("dashboards", "gbc", "records", "search")


def vague_bindings(source: str, path: str = "source", *, functions: bool) -> Iterator[str]:
    """Path, line of the scope and name of each variable and parameter with a vague name, and with `functions` of each function.

    Fields and methods of classes are left out: they belong to an interface, as the functions of the product do.
    """
    tables = [symtable.symtable(source, path, "exec")]
    while tables:
        table = tables.pop()
        tables += table.get_children()
        for name in VAGUE.intersection(table.get_identifiers()):
            symbol = table.lookup(name)
            if symbol.is_namespace():  # a function or a class
                counts = functions
            else:
                counts = table.get_type() != "class" and (symbol.is_assigned() or symbol.is_parameter())
            if counts:
                yield f"{path}:{table.get_lineno()}: {name}"


@pytest.mark.parametrize("folder", [*PRODUCT, "tests"])
def test_no_binding_has_a_vague_name(folder: str) -> None:
    """The functions of tests are no interface, so theirs count too."""
    vague = [
        binding
        for path in sorted((ROOT / folder).rglob("*.py"))
        for binding in vague_bindings(path.read_text(), str(path.relative_to(ROOT)), functions=folder == "tests")
    ]
    assert vague == []


@pytest.mark.parametrize(
    "source",
    [
        "found = 1", "found: int = 1", "(found, other) = 1, 2", "for found in []: pass", "with open('') as found: pass",
        "[found for found in []]", "print(found := 1)", "def f(found): pass", "lambda *found: 1",
        "try: pass\nexcept OSError as found: pass", "match 1:\n    case found: pass", "match []:\n    case [*found]: pass",
        "class A:\n    def f(self):\n        found = 1", "[1 for i in [] if (found := i)]",
    ],
)  # fmt: skip
def test_each_kind_of_binding_is_seen(source: str) -> None:
    (binding,) = vague_bindings(source, functions=False)
    assert binding.endswith(": found")


@pytest.mark.parametrize("source", ["def look(): pass", "class A:\n    def look(self): pass"])
def test_functions_of_tests_are_seen_and_those_of_the_product_are_not(source: str) -> None:
    assert list(vague_bindings(source, functions=False)) == []
    assert len(list(vague_bindings(source, functions=True))) == 1


def test_uses_and_fields_are_no_bindings() -> None:
    source = "class A:\n    found: int = 1\n    entry = 2\n\n    def f(self): return self.found + one(told=2) + word"
    assert list(vague_bindings(source, functions=True)) == []
