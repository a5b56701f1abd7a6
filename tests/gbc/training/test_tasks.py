"""Remarks on the inputs of a trial."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from gbc.training import tasks


def inputs(accuracy: float | None, classes: int) -> Any:
    regime = {} if accuracy is None else {"accuracy": accuracy}
    classifier = SimpleNamespace(class_names=tuple(map(str, range(classes))))
    return SimpleNamespace(classifiers=(classifier,), regimes=(regime,), folders=(Path("cache/net-1"),))


@pytest.mark.parametrize(("accuracy", "classes", "warned"), [
    (0.1, 10, True), (0.16, 10, False), (0.6, 2, True), (0.8, 2, False), (None, 10, False),
])  # fmt: skip
def test_a_classifier_that_guesses_is_warned_about(accuracy: float | None, classes: int, warned: bool) -> None:
    lines = list(tasks.accuracy_remarks(inputs(accuracy, classes)))
    assert len(lines) == warned and all("warning: classifier net-1 " in line and "class_names" in line for line in lines)
