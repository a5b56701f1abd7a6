"""Helpers of several tests: real servers, sweeps, browsers and faults."""

from collections.abc import Iterable
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parents[2]
"""The repository."""


def missing(named: Iterable[str], message: object) -> list[str]:
    """The keys, files and values in `named` that a message does not show; its other words are free to change."""
    return [name for name in named if name not in str(message)]
