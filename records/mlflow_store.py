"""The MLflow store of sweeps: where it is, whether it answers, and the runs in it. Nothing is written."""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

from records.addresses import first_line, public, sqlite_url
from records.creation_lock import creation_lock
from records.errors import Unreadable

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

STEP_METRIC: Final = "loss/total"
"""A metric of every report: its history says which reports a run has and when they were made, its last step how far it is."""

# Tags of runs.
NAME: Final = "sweep.name"
ROLE: Final = "sweep.role"
"""`sweep`, or `trial`."""
REPEATS: Final = "sweep.repeats"
TRIAL: Final = "sweep.trial"
"""Its number."""
OUTCOME: Final = "sweep.outcome"
REASON: Final = "sweep.reason"
RETRIES: Final = "sweep.retries"
LOG: Final = "sweep.log"
BEST_TRIAL: Final = "sweep.best_trial"
FRONT: Final = "sweep.front"
"""Numbers of the trials on the Pareto front."""

_PAGE: Final = 500


def default_address() -> str:
    """Return the address of the store where a sweep names none: the environment's, or that of the database in this folder."""
    return os.environ.get("MLFLOW_TRACKING_URI") or sqlite_url(Path("mlflow.db").resolve())


def experiment_name(dataset: str) -> str:
    """Return the name of the experiment that holds the sweeps of a data set."""
    return f"gbc-{dataset}"


def missing(uri: str) -> bool:
    """Return whether the store is a database in a file that does not exist or is empty: MLflow would create it."""
    if not uri.startswith("sqlite:"):
        return False
    from sqlalchemy.engine import make_url

    database = make_url(uri).database
    path = Path(str(database))
    return database not in (None, "", ":memory:") and not (path.exists() and path.stat().st_size)


@contextmanager
def usable(uri: str) -> Iterator[None]:
    """Turn what MLflow, its database or its server raise into one line that names the store.

    Raises:
        Unreadable: in place of it.
    """
    _be_quiet()
    from mlflow.exceptions import MlflowException
    from sqlalchemy.exc import SQLAlchemyError

    try:
        yield
    except (MlflowException, SQLAlchemyError, OSError) as fault:
        raise Unreadable(_explain(fault, uri)) from None


def reach(uri: str) -> None:
    """Check within seconds that a server answers: MLflow would try for minutes.

    Raises:
        Unreadable: nobody does.
    """
    if not uri.startswith("http"):
        return
    try:
        parts = urlsplit(uri)
        port = parts.port or (443 if parts.scheme == "https" else 80)
        socket.create_connection((parts.hostname or "localhost", port), timeout=10).close()
    except (OSError, ValueError) as fault:
        raise Unreadable(_explain(fault, uri)) from None


def open_client(uri: str) -> MlflowClient:
    """Open the store for reading.

    MLflow creates the tables that a store in PostgreSQL lacks, and must not while a driver does. A database in a file is not
    `missing` only once it is whole.

    Raises:
        Unreadable: no server answers. Within `usable` also for whatever else goes wrong.
    """
    reach(uri)
    from mlflow import MlflowClient

    with creation_lock(uri) if uri.startswith("postgresql") else nullcontext():
        return MlflowClient(uri)


def all_runs(client: MlflowClient, experiment: str, query: str) -> Iterator[Run]:
    """Yield every run that `query` finds, newest first, in as few requests as its number allows."""
    token: str | None = None
    while True:
        page = client.search_runs([experiment], query, max_results=_PAGE, page_token=token)
        yield from page
        token = page.token
        if not token:
            return


def runs_query(name: str, role: str | None = None) -> str:
    """Return the query for the runs of a sweep, or for those of one role in it."""
    return f"tags.`{NAME}` = '{name}'" + (f" and tags.`{ROLE}` = '{role}'" if role else "")


def runs_of(client: MlflowClient, dataset: str, name: str) -> tuple[list[Run], list[Run]]:
    """Return the runs of a sweep and those of its trials, oldest first."""
    experiment = client.get_experiment_by_name(experiment_name(dataset))
    if experiment is None or experiment.lifecycle_stage == "deleted":
        return [], []
    runs = list(all_runs(client, experiment.experiment_id, runs_query(name)))[::-1]
    sweeps, trials = ([run for run in runs if run.data.tags.get(ROLE) == role] for role in ("sweep", "trial"))
    return sweeps, trials


def number_of(tags: dict[str, str]) -> int | None:
    """Return the number of the trial whose run has these tags."""
    text = tags.get(TRIAL, "")
    return int(text) if text.isdigit() else None


def _explain(fault: Exception, uri: str) -> str:
    """Say in one line why a store cannot be used, and what helps."""
    if "schema" in str(fault) or "revision" in str(fault):
        advice = f"keep a copy and run `mlflow db upgrade {public(uri)}`"
        return f"MLflow store {public(uri)}: written by another version of MLflow; {advice}"
    advice = "move it away or set MLFLOW_TRACKING_URI" if uri.startswith("sqlite") else "is its server running?"
    return f"MLflow store {public(uri)}: cannot be used: {first_line(fault, uri)}; {advice}"


def _be_quiet() -> None:
    """Switch off telemetry and MLflow's messages about its tables, runs and files, before its first import."""
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    os.environ["MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT"] = "true"  # links to runs, with the password in a server's address
    for noisy in ("alembic", "mlflow.store.db.utils", "mlflow.tracking"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
