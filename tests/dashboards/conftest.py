"""One small real sweep with everything a report can show, recorded once for all tests here."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from mlflow import MlflowClient
from mlflow.tracking._tracking_service import utils

from dashboards import report
from search.spec.config import SweepConfig
from tests.dashboards.artifacts import log_all
from tests.search.conftest import tiny_sweep
from tests.support.records import move, play

REASON = "RuntimeError: </script><b>broken</b> & bent"


@pytest.fixture(scope="session")
def recorded(tmp_path_factory: pytest.TempPathFactory, classifier_cache: Path) -> Path:
    """The folder of sweep `tiny`: trials 0 to 7 complete, 8 and 9 stopped at steps 3 and 6, 10 failed."""
    folder = tmp_path_factory.mktemp("report")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        config = SweepConfig.parse(tiny_sweep(trials=11, keep=1), "test")
        play(config, classifier_cache, stop={8: 3, 9: 6}, leave={}, fail={10: REASON})
        log_all(client(), "fashion_mnist", "tiny")
    return folder


@pytest.fixture(scope="session")
def page(recorded: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Its report; the folder is not to be changed."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(recorded)
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        path, _ = report.write(["tiny"], tmp_path_factory.mktemp("page") / "report.html")
        return path


@pytest.fixture
def folder(recorded: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A copy of the folder that a test may damage, and the working folder."""
    move(recorded, tmp_path)
    utils._artifact_repos_cache.clear()  # by run, and every copy has the same runs
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    yield tmp_path
    utils._artifact_repos_cache.clear()


def client() -> MlflowClient:
    return MlflowClient(f"sqlite:///{Path('mlflow.db').resolve()}")
