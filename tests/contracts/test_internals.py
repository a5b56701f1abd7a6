"""docs/internals.md names what the code uses and the tests that watch it."""

from __future__ import annotations

import ast
import re

from tests.support import ROOT

PAGE = (ROOT / "docs" / "internals.md").read_text()
SOURCES = [path for package in ("gbc", "records", "search", "dashboards") for path in sorted((ROOT / package).rglob("*.py"))]


def rows() -> list[list[str]]:
    """The cells of each line of the page's tables."""
    lines = [line.strip("|").split(" | ") for line in PAGE.splitlines() if line.startswith("| ")]
    return [[cell.strip() for cell in cells] for cells in lines if cells[0].strip() != "what"]


def test_every_row_has_a_test_and_every_contract_its_row() -> None:
    named = {name for cells in rows() for name in re.findall(r"`(test_\w+)`", cells[-1])}
    for cells in rows():
        assert re.search(r"`test_\w+`", cells[-1]), cells
    ours = [path for path in (ROOT / "tests" / "contracts").glob("test_*.py") if path.name != "test_internals.py"]
    contracts = {name for path in ours for name in re.findall(r"^def (test_\w+)", path.read_text(), flags=re.MULTILINE)}
    assert contracts <= named
    everywhere = "".join(path.read_text() for path in (ROOT / "tests").rglob("test_*.py"))
    assert [name for name in named if f"def {name}(" not in everywhere] == []


def test_what_a_row_names_is_in_the_files_it_names() -> None:
    for names, files_cell, *_ in rows():
        files = re.findall(r"`([\w/]+\.py)`", files_cell)
        text = "".join((ROOT / file).read_text() for file in files)
        private = re.findall(r"\b_[a-z]\w+", " ".join(re.findall(r"`([^`]+)`", names)))
        assert files and [name for name in private if name not in text] == []


def test_every_private_name_of_a_library_has_a_row() -> None:
    own = {name for path in SOURCES for name in _defined(path.read_text())} | {"_exit"}  # the latter is documented, of `os`
    for path in SOURCES:
        for name in _used(ast.parse(path.read_text())) - own:
            assert re.search(rf"\b{name}\b", PAGE), f"{path.relative_to(ROOT)}: {name} has no row in docs/internals.md"


def _defined(text: str) -> set[str]:
    """Private names that a module of ours defines: functions, classes, attributes and variables."""
    return set(re.findall(r"(?:(?:def |class |self\.|cls\.)|^ *)(_\w+)", text, flags=re.MULTILINE))


def _used(tree: ast.Module) -> set[str]:
    """Private attributes, and private parts of the modules that are imported or named."""
    names: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute):
            names.add(node.attr)
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.update(node.module.split("."))
        elif isinstance(node, ast.Constant) and re.fullmatch(r"[a-z]\w*(\.\w+)+", str(node.value)):
            names.update(str(node.value).split("."))
    return {name for name in names if re.match(r"_[a-z]", name)}
