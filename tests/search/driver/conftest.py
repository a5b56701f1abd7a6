"""A folder for runs that a test drives itself."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.runs import FOLDER
from tests.support.stores import lay_down_store


@pytest.fixture
def run_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Make a new folder the current one, with an empty MLflow store and the folder of the sweep `tiny`."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    lay_down_store(tmp_path)
    FOLDER.mkdir(parents=True)
