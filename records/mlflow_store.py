"""The MLflow store of sweeps: where it is, whether it answers, and the runs in it. Nothing is written."""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

from records.addresses import first_line, public
from records.errors import Unreadable

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

MARK: Final = "loss/total"
"""A metric of every report: its history says which reports a run has, and when they were made."""

# Tags of runs.
NAME: Final = "sweep.name"
ROLE: Final = "sweep.role"
"""`sweep`, or `trial`."""
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
_SQLITE: Final = "sqlite:///"


def default_address() -> str:
    """The store where no sweep names another: the environment's, or the database in this folder."""
    return os.environ.get("MLFLOW_TRACKING_URI") or f"{_SQLITE}{Path('mlflow.db').resolve()}"


def experiment_name(dataset: str) -> str:
    """Name of the experiment that holds the sweeps of a data set."""
    return f"gbc-{dataset}"


def file_of(uri: str) -> Path | None:
    """The file that the database at this address is; None where it is none."""
    return Path(uri.partition("?")[0].removeprefix(_SQLITE)) if uri.startswith(_SQLITE) else None


def missing(uri: str) -> bool:
    """Whether the store is a database in a file that does not exist: MLflow would create it."""
    file = file_of(uri)
    return file is not None and not file.exists()


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
    """Find out in seconds that nobody answers at a server's address: MLflow would try for minutes.

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


def pages(client: MlflowClient, experiment: str, query: str) -> Iterator[Run]:
    """Every run that `query` finds, newest first, in as few requests as its number allows."""
    token: str | None = None
    while True:
        page = client.search_runs([experiment], query, max_results=_PAGE, page_token=token)
        yield from page
        token = page.token
        if not token:
            return


def query_of(name: str, role: str | None = None) -> str:
    """The query for the runs of a sweep, or for those of one role in it."""
    return f"tags.`{NAME}` = '{name}'" + (f" and tags.`{ROLE}` = '{role}'" if role else "")


def runs_of(client: MlflowClient, dataset: str, name: str) -> tuple[list[Run], list[Run]]:
    """The runs of a sweep and those of its trials, oldest first."""
    experiment = client.get_experiment_by_name(experiment_name(dataset))
    if experiment is None or experiment.lifecycle_stage == "deleted":
        return [], []
    runs = list(pages(client, experiment.experiment_id, query_of(name)))[::-1]
    sweeps, trials = ([run for run in runs if run.data.tags.get(ROLE) == role] for role in ("sweep", "trial"))
    return sweeps, trials


def number_of(tags: dict[str, str]) -> int | None:
    """The number of the trial whose run has these tags."""
    text = tags.get(TRIAL, "")
    return int(text) if text.isdigit() else None


def _explain(fault: Exception, uri: str) -> str:
    """Why a store cannot be used, and what mends it, in one line."""
    if "schema" in str(fault) or "revision" in str(fault):
        mend = f"keep a copy and run `mlflow db upgrade {public(uri)}`"
        return f"MLflow store {public(uri)}: written by another version of MLflow; {mend}"
    mend = "move it away or set MLFLOW_TRACKING_URI" if uri.startswith("sqlite") else "is its server running?"
    return f"MLflow store {public(uri)}: cannot be used: {first_line(fault, uri)}; {mend}"


def _be_quiet() -> None:
    """No telemetry, and no word from MLflow about its tables, runs and files: before its first import."""
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    os.environ["MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT"] = "true"  # links to runs, with the password in a server's address
    for noisy in ("alembic", "mlflow.store.db.utils", "mlflow.tracking"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
