"""A sweep before an MLflow server: what is seen of it, and what happens when it is killed and comes back. Real servers."""

from __future__ import annotations

from pathlib import Path

import pytest

from search.config import SweepConfig
from search.places import Places
from search.tracking import Tracker
from tests.search.servers import mlflow_server


def test_mlflow_prints_no_links_to_its_server(
    config: SweepConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """They hold the password, and what a sweep prints may be JSON."""
    monkeypatch.chdir(tmp_path)
    with mlflow_server(tmp_path, f"sqlite:///{tmp_path / 'mlflow.db'}", {}) as server:
        places = Places(tracking_uri=server.replace("://", "://me:pa55@"))
        tracker = Tracker(config.model_copy(update={"places": places}), {})
        tracker.open_trial(0, {"lr": 0.1})
        tracker.close_trial(0, "complete", None, tmp_path / "none.png")
        tracker.end("FINISHED", None, None, None)
        shown = capsys.readouterr()
        assert shown.out == "" and "pa55" not in shown.err
