"""MLflow's store: its address, whether it answers, and the runs of a sweep in it."""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

from gbc.errors import BadInput
from search.spec import faults
from search.spec.config import SweepConfig
from search.spec.locations import first_line, public, sqlite_url

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

STEP_METRIC: Final = "loss/total"
"""A metric of every report: its last step is how far a run has come."""
_PAGE: Final = 500
_SQLITE: Final = "sqlite:///"


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
    """When the last report was logged, in milliseconds since 1970; None when this process does not know."""

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


def default_address() -> str:
    """Return the address of the store where a sweep names none: the environment's, or that of the database in this folder."""
    return os.environ.get("MLFLOW_TRACKING_URI") or sqlite_url(Path("mlflow.db").resolve())


def experiments(uri: str) -> dict[str, str]:
    """Return the ids of the store's experiments by name.

    Raises:
        BadInput: it cannot be read, as when it was written by another version of MLflow.
    """
    reach(uri)
    with usable(uri):
        from mlflow import MlflowClient

        return {one.name: one.experiment_id for one in MlflowClient(uri).search_experiments()}


def missing(uri: str) -> bool:
    """Return whether the store is a database in a file that does not exist or is empty: MLflow would create it."""
    if not uri.startswith(_SQLITE):
        return False
    from sqlalchemy.engine import make_url

    database = make_url(uri).database
    path = Path(str(database))
    return database not in (None, "", ":memory:") and not (path.exists() and path.stat().st_size)


def artifact_root() -> str:
    """Return the address of the folder in which a database in this folder has its files."""
    return f"{Path('mlruns').resolve().as_uri()}/artifacts"


@contextmanager
def usable(uri: str) -> Iterator[None]:
    """Turn what MLflow, its database or its server raise into one line that names the store.

    Raises:
        BadInput: in place of it.
    """
    _be_quiet()
    from mlflow.exceptions import MlflowException
    from sqlalchemy.exc import SQLAlchemyError

    try:
        yield
    except (MlflowException, SQLAlchemyError, OSError) as fault:
        raise BadInput(_why_not(fault, uri)) from None


def _why_not(fault: Exception, uri: str) -> str:
    """Say in one line why a store cannot be used, and what helps."""
    if "schema" in str(fault) or "revision" in str(fault):
        mend = f"keep a copy and run `mlflow db upgrade {public(uri)}`"
        return f"MLflow store {public(uri)}: written by another version of MLflow; {mend}"
    mend = "move it away or set MLFLOW_TRACKING_URI" if uri.startswith("sqlite") else "see --tracking-uri"
    return f"MLflow store {public(uri)}: cannot be used: {first_line(fault, uri)}; {mend}"


def reach(uri: str) -> None:
    """Check within seconds that a server answers: MLflow would try for minutes.

    Raises:
        BadInput: nobody does.
    """
    if not uri.startswith("http"):
        return
    try:
        parts = urlsplit(uri)
        port = parts.port or (443 if parts.scheme == "https" else 80)
        socket.create_connection((parts.hostname or "localhost", port), timeout=10).close()
    except (OSError, ValueError) as fault:
        raise BadInput(_why_not(fault, uri)) from None


def with_timeout(uri: str) -> str:
    """Make an sqlite store wait a minute for a lock, as the study does; MLflow waits five seconds."""
    if not uri.startswith(_SQLITE):
        return uri
    from sqlalchemy.engine import make_url

    url = make_url(uri)
    if "timeout" not in url.query:
        url = url.update_query_dict({"timeout": str(faults.PATIENCE)})
    return url.render_as_string(hide_password=False)


def _be_quiet() -> None:
    """Switch off telemetry and MLflow's messages about its tables and runs, before its first import."""
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ["MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT"] = "true"  # links to runs, with the password in a server's address
    for noisy in ("alembic", "mlflow.store.db.utils", "mlflow.tracking"):
        logging.getLogger(noisy).setLevel(logging.WARNING)


def all_runs(client: MlflowClient, experiment: str, query: str) -> Iterator[Run]:
    """Yield every run that `query` finds, newest first, in as few requests as its number allows."""
    token: str | None = None
    while True:
        found = client.search_runs([experiment], query, max_results=_PAGE, page_token=token)
        yield from found
        token = found.token
        if not token:
            return


def trials_query(name: str) -> str:
    """Return the query for the runs of all trials of a sweep."""
    return f"tags.`sweep.name` = '{name}' and tags.`sweep.role` = 'trial'"
