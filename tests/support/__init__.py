"""Helpers of several tests: real servers, sweeps, browsers and faults."""

from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parents[2]
"""The repository."""
