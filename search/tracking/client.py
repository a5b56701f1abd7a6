"""MLflow's store: where it is, whether it answers, and what it knows of a sweep's runs."""

from __future__ import annotations

import logging
import os
import socket
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Final
from urllib.parse import quote, urlsplit

from gbc.errors import BadInput
from search.spec import faults
from search.spec.config import SweepConfig
from search.spec.locations import first_line, public

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

MARK: Final = "loss/total"
"""In every report, so its last step is how far a run has come."""
_PAGE: Final = 500
_SQLITE: Final = "sqlite:///"


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


def default_address() -> str:
    """Of the store where no sweep says otherwise: the environment's, or the database in this folder."""
    return os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{Path('mlflow.db').resolve()}"


def experiments(uri: str) -> dict[str, str]:
    """The ids of the store's experiments by name.

    Raises:
        BadInput: it cannot be read, as when it was written by another version of MLflow.
    """
    reach(uri)
    with usable(uri):
        from mlflow import MlflowClient

        return {one.name: one.experiment_id for one in MlflowClient(uri).search_experiments()}


def missing(uri: str) -> bool:
    """Whether the store is a database in a file that does not exist: MLflow would create it."""
    return uri.startswith(_SQLITE) and not Path(uri.removeprefix(_SQLITE)).exists()


@contextmanager
def usable(uri: str) -> Iterator[None]:
    """What MLflow, its database or its server raise leaves as one line that names the store.

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
    """Why a store cannot be used, and what mends it, in one line."""
    if "schema" in str(fault) or "revision" in str(fault):
        mend = f"keep a copy and run `mlflow db upgrade {public(uri)}`"
        return f"MLflow store {public(uri)}: written by another version of MLflow; {mend}"
    mend = "move it away or set MLFLOW_TRACKING_URI" if uri.startswith("sqlite") else "see --tracking-uri"
    return f"MLflow store {public(uri)}: cannot be used: {first_line(fault, uri)}; {mend}"


def reach(uri: str) -> None:
    """Find out in seconds that nobody answers at a server's address: MLflow would try for minutes.

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


def patient(uri: str) -> str:
    """An sqlite store that waits a minute for whoever has it locked, as the study does; five seconds by default."""
    return f"{uri}?timeout={faults.PATIENCE}" if uri.startswith("sqlite:") and "?" not in uri else uri


def _be_quiet() -> None:
    """No telemetry, and no word from MLflow about its tables and runs: before its first import."""
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ["MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT"] = "true"  # links to runs, with the password in a server's address
    for noisy in ("alembic", "mlflow.store.db.utils", "mlflow.tracking"):
        logging.getLogger(noisy).setLevel(logging.WARNING)


def pages(client: MlflowClient, experiment: str, query: str) -> Iterator[Run]:
    """Every run that `query` finds, newest first, in as few requests as its number allows."""
    token: str | None = None
    while True:
        found = client.search_runs([experiment], query, max_results=_PAGE, page_token=token)
        yield from found
        token = found.token
        if not token:
            return


def known_runs(client: MlflowClient, uri: str, experiment: str, name: str) -> list[Known]:
    """The runs of the trials of sweep `name`, newest first.

    A database in a file is read as what it is: through MLflow's client a thousand runs take seconds, nearly all of it for
    parameters that nobody asked for. `tests/search/tracking/test_client.py` compares the two.
    """
    if uri.startswith(_SQLITE) and "?" not in uri:
        return _in_file(Path(uri.removeprefix(_SQLITE)), experiment, name)
    return [Known.of(run) for run in pages(client, experiment, of_trials(name))]


def of_trials(name: str) -> str:
    """The query for the runs of all trials of a sweep."""
    return f"tags.`sweep.name` = '{name}' and tags.`sweep.role` = 'trial'"


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
