"""MLflow's store as a driver uses it: where it is, and what it knows of the runs that the driver writes."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Final
from urllib.parse import quote

from records.mlflow_store import MARK, default_address, file_of, pages, query_of, reach, usable
from search.spec import faults
from search.spec.config import SweepConfig

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run


@dataclass
class Known:
    """What is known of a trial's run."""

    run: str
    status: str = "RUNNING"
    tags: dict[str, str] = field(default_factory=dict)
    has_params: bool = False
    mark: int = 0
    """The step of the last report, 0 before the first."""
    metrics: dict[str, float] = field(default_factory=dict)
    """The last value of each."""
    time: int | None = None
    """When the last report was logged, in milliseconds since 1970; None when this process does not know."""

    @classmethod
    def of(cls, run: Run) -> Known:
        """From what MLflow's client gives, without asking the store again."""
        mark = max((metric.step for metric in run.data.to_proto().metrics if metric.key == MARK), default=0)
        return cls(run.info.run_id, run.info.status, dict(run.data.tags), bool(run.data.params), mark, dict(run.data.metrics))


def address(config: SweepConfig) -> str:
    """Of the MLflow store: where the sweep's places or the environment say, or the database in this folder."""
    return config.places.tracking_uri or default_address()


def experiments(uri: str) -> dict[str, str]:
    """The ids of the store's experiments by name.

    Raises:
        BadInput: it cannot be read, as when it was written by another version of MLflow.
    """
    with faults.readable(), usable(uri):
        reach(uri)
        from mlflow import MlflowClient

        return {one.name: one.experiment_id for one in MlflowClient(uri).search_experiments()}


def patient(uri: str) -> str:
    """An sqlite store that waits a minute for whoever has it locked, as the study does; five seconds by default."""
    return f"{uri}?timeout={faults.PATIENCE}" if uri.startswith("sqlite:") and "?" not in uri else uri


def known_runs(client: MlflowClient, uri: str, experiment: str, name: str) -> list[Known]:
    """The runs of the trials of sweep `name`, newest first.

    A database in a file is read as what it is: through MLflow's client a thousand runs take seconds, nearly all of it for
    parameters that nobody asked for. `tests/search/tracking/test_client.py` compares the two.
    """
    file = file_of(uri)
    if file is not None and "?" not in uri:
        return _in_file(file, experiment, name)
    return [Known.of(run) for run in pages(client, experiment, query_of(name, "trial"))]


_RUNS: Final = """
    SELECT run_uuid FROM runs
    JOIN tags AS named USING (run_uuid) JOIN tags AS role USING (run_uuid)
    WHERE lifecycle_stage = 'active' AND experiment_id = :experiment
    AND named.key = 'sweep.name' AND named.value = :name AND role.key = 'sweep.role' AND role.value = 'trial'
"""


def _in_file(path: Path, experiment: str, name: str) -> list[Known]:
    which = {"experiment": int(experiment), "name": name}
    with closing(sqlite3.connect(f"file:{quote(str(path))}?mode=ro", uri=True, timeout=faults.PATIENCE)) as store:
        store.execute("BEGIN")  # one moment of it
        rows = store.execute(
            f"SELECT run_uuid, status, EXISTS (SELECT 1 FROM params WHERE params.run_uuid = runs.run_uuid) "
            f"FROM runs WHERE run_uuid IN ({_RUNS}) ORDER BY start_time DESC, run_uuid",
            which,
        )
        found = {run: Known(run, status, has_params=bool(has)) for run, status, has in rows}
        for run, key, value in store.execute(f"SELECT run_uuid, key, value FROM tags WHERE run_uuid IN ({_RUNS})", which):
            found[run].tags[key] = value
        query = f"SELECT run_uuid, key, value, is_nan, step FROM latest_metrics WHERE run_uuid IN ({_RUNS})"
        for run, key, value, is_nan, step in store.execute(query, which):
            found[run].metrics[key] = float("nan") if is_nan else value
            if key == MARK:
                found[run].mark = step
    return list(found.values())
