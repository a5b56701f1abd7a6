"""MLflow's store as a driver uses it: its address, and the runs that the driver writes."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from records.addresses import sqlite_url
from records.mlflow_store import STEP_METRIC, default_address, open_client, usable
from search.files.new_database import new_database
from search.spec import faults
from search.spec.config import SweepConfig

if TYPE_CHECKING:
    from mlflow.entities import Run


@dataclass
class TrialRun:
    """The run of a trial as MLflow last gave it, or as this process left it."""

    run: str
    status: str = "RUNNING"
    tags: dict[str, str] = field(default_factory=dict)
    has_params: bool = False
    last_step: int = 0
    """The step of the last report, 0 before the first."""
    metrics: dict[str, float] = field(default_factory=dict)
    """The last value of each."""
    time: int | None = None
    """The time at which the last report was logged, in milliseconds since 1970; None when this process does not know."""

    @classmethod
    def of(cls, run: Run) -> TrialRun:
        """From what MLflow's client gives, without asking the store again."""
        last_step = max((metric.step for metric in run.data.to_proto().metrics if metric.key == STEP_METRIC), default=0)
        return cls(
            run.info.run_id, run.info.status, dict(run.data.tags), bool(run.data.params), last_step, dict(run.data.metrics)
        )


def address(config: SweepConfig) -> str:
    """Return the address of the MLflow store: the sweep's own, the environment's, or that of the database in this folder."""
    return config.places.tracking_uri or default_address()


def experiments(uri: str) -> dict[str, str]:
    """Return the ids of the store's experiments by name.

    Raises:
        BadInput: it cannot be read, as when it was written by another version of MLflow.
    """
    with faults.readable(), usable(uri):
        return {experiment.name: experiment.experiment_id for experiment in open_client(uri).search_experiments()}


def create_store(uri: str) -> None:
    """Create the database of a store that is `missing`. Nothing in it names its place."""
    from mlflow import MlflowClient
    from sqlalchemy.engine import make_url

    with new_database(Path(str(make_url(uri).database))) as draft:
        MlflowClient(sqlite_url(draft)).search_experiments(max_results=1)


def artifact_root() -> str:
    """Return the address of the folder in which a database in this folder has its files."""
    return f"{Path('mlruns').resolve().as_uri()}/artifacts"


def with_timeout(uri: str) -> str:
    """Make an sqlite store wait a minute for a lock, as the study does; MLflow waits five seconds."""
    if not uri.startswith("sqlite:///"):
        return uri
    from sqlalchemy.engine import make_url

    url = make_url(uri)
    if "timeout" not in url.query:
        url = url.update_query_dict({"timeout": str(faults.PATIENCE)})
    return url.render_as_string(hide_password=False)
