"""New MLflow stores for tests: made once in a process, then copied."""

from __future__ import annotations

import functools
import tempfile
from pathlib import Path


@functools.cache
def _new_store() -> bytes:
    """A database with MLflow's tables and no run, as MLflow makes it where there is none; that takes it two seconds."""
    from mlflow import MlflowClient

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "mlflow.db")
        MlflowClient(f"sqlite:///{path}").search_experiments()
        return path.read_bytes()


def lay_down_store(folder: Path) -> None:
    """Put a new store where a sweep in `folder` looks for it. Nothing in it names a place, so that a copy is as good."""
    (folder / "mlflow.db").write_bytes(_new_store())
