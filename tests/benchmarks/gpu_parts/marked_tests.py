"""Every test that is marked `gpu`, one row each; on a CPU two tests of the same module that need no GPU."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from queue import Queue
from typing import Final

import pytest

from tests.benchmarks.harness import ROOT, Column, Options, Row, pick

ABOUT: Final = "`pytest -m gpu`: what passes, and the first line of what fails"
LIMIT: Final = 75.0
COLUMNS: Final = (
    Column("test", "test"),
    Column("outcome", "outcome"),
    Column("seconds", "s", ".1f"),
    Column("reason", "first line"),
)

_MARK: Final = re.compile(r"^\s*(@pytest\.mark\.gpu|pytestmark = .*mark\.gpu)\b", flags=re.MULTILINE)
_ON_A_CPU: Final = "tests/gbc/training/test_cuda_graph.py"


def rows(options: Options) -> Iterator[Row]:
    """A row for each test, as soon as it has ended."""
    if pick(options).type == "cuda":
        return outcomes(["-m", "gpu", *marked_files(ROOT / "tests")], ROOT)
    return outcomes(["-m", "not gpu", "-k", "lost or wrong_step", str(ROOT / _ON_A_CPU)], ROOT)


def outcomes(arguments: Sequence[str], root: Path) -> Iterator[Row]:
    """A row for each test that pytest runs with these words. A file that cannot be collected is a failure."""
    ended: Queue[Row | None] = Queue()

    def run() -> None:
        pytest.main(["-p", "no:cacheprovider", f"--rootdir={root}", *arguments], plugins=[_Outcomes(ended)])
        ended.put(None)

    threading.Thread(target=run, daemon=True).start()
    while (row := ended.get()) is not None:
        yield row


def marked_files(folder: Path) -> list[str]:
    """The files below `folder` with tests that are marked: collecting all others takes longer than running these."""
    return [str(path) for path in sorted(folder.rglob("test_*.py")) if _MARK.search(path.read_text())]


class _Outcomes:
    """A plugin of pytest that hands on each outcome."""

    def __init__(self, ended: Queue[Row | None]) -> None:
        self._ended = ended

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.when == "call" or not report.passed:
            self._put(report.nodeid.rpartition("/")[2], report.outcome, report.duration, report)

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        if report.failed:
            self._put(report.nodeid.rpartition("/")[2], "failed", 0.0, report)

    def _put(self, test: str, outcome: str, seconds: float, report: pytest.TestReport | pytest.CollectReport) -> None:
        crash = getattr(report.longrepr, "reprcrash", None)
        message = crash.message if crash else report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longreprtext
        reason = None if outcome == "passed" else next(iter(message.splitlines()), "")
        self._ended.put({"test": test, "outcome": outcome, "seconds": seconds, "reason": reason})
