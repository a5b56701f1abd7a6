"""Uses of argparse, and words of SQLite, the interpreter and torchvision (docs/internals.md)."""

from __future__ import annotations

import argparse
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest
import torchvision

from search.worker import watchdog


def test_sqlite_says_locked_and_full(tmp_path: Path) -> None:
    path = tmp_path / "a.db"
    with closing(sqlite3.connect(path, isolation_level=None)) as first, closing(sqlite3.connect(path, timeout=0)) as second:
        first.execute("CREATE TABLE t (x)")
        first.execute("BEGIN EXCLUSIVE")
        with pytest.raises(sqlite3.OperationalError, match="locked"):
            second.execute("SELECT * FROM t")
        first.execute("ROLLBACK")
        first.execute("PRAGMA max_page_count = 2")
        with pytest.raises(sqlite3.OperationalError, match="database or disk is full"):
            first.execute("INSERT INTO t VALUES (zeroblob(100000))")


def test_the_interpreter_says_timeout() -> None:
    script = "import faulthandler, time; faulthandler.dump_traceback_later(0.1, exit=True); time.sleep(60)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 1 and done.stderr.startswith(watchdog._TIMEOUT_WORDS)


def test_torchvision_says_not_found(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match=r"(?i)not found"):
        torchvision.datasets.FashionMNIST(tmp_path, download=False)


def test_a_parser_knows_its_flags_and_subcommands() -> None:
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument("--flag")
    commands = parser.add_subparsers()
    command = commands.add_parser("command", add_help=False)
    assert list(parser._option_string_actions) == ["--flag"]
    assert parser._actions[1] is commands and commands.choices == {"command": command}
