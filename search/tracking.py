"""The only writer to MLflow: a parent run for the sweep, one child run for each trial."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from gbc.errors import BadInput
from gbc.settings import flatten
from search import faults
from search.config import SweepConfig

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

_SOURCE: Final = {"mlflow.source.name": "search/run.py", "mlflow.source.type": "LOCAL"}
_MARK: Final = "loss/total"  # in every report, so its last step is how far a run has come


_ENDED: Final = ("FINISHED", "FAILED")
_PAGE: Final = 500


@dataclass
class _Child:
    """What is known of a trial's run. This process is the only writer, so nothing is asked for twice."""

    run: str
    status: str = "RUNNING"
    tags: dict[str, str] = field(default_factory=dict)
    has_params: bool = False
    mark: int = 0
    """The step of the last report."""
    metrics: dict[str, float] = field(default_factory=dict)
    time: int | None = None
    """When the last report was logged, in milliseconds since 1970; None when this process does not know."""


class Tracker:
    """Runs of one sweep. Every call may be repeated: nothing is created or logged twice."""

    def __init__(self, config: SweepConfig, tags: Mapping[str, str]) -> None:
        """Finds the experiment and the parent run, or creates them; `tags` say where the sweep comes from.

        Raises:
            BadInput: the store cannot be opened or is of another MLflow schema.
        """
        _be_quiet()
        from mlflow import MlflowClient
        from mlflow.exceptions import MlflowException
        from sqlalchemy.exc import SQLAlchemyError

        self.config = config
        self.uri = address()
        self._children: dict[int, _Child] | None = None
        try:
            self._client: MlflowClient = MlflowClient(_patient(self.uri))
            self._experiment = self._find_experiment()
            self.parent = self._find_parent(tags)
        except (MlflowException, SQLAlchemyError, OSError) as fault:
            reason = str(fault).splitlines()[0]
            raise BadInput(
                f"MLflow store {self.uri}: cannot be used: {reason}; move it away or set MLFLOW_TRACKING_URI"
            ) from None

    def look(self) -> None:
        """Read all runs of the sweep's trials, a page at a time. Done by itself before the first use of one."""
        self._children = {}
        query = f"tags.`sweep.name` = '{self.config.name}' and tags.`sweep.role` = 'trial'"
        for run in pages(self._client, self._experiment, query):
            number, found = int(run.data.tags.get("sweep.trial", -1)), _child_of(run)
            other = self._children.get(number)
            if other is None or found.mark >= other.mark:  # newest first: among equals the oldest
                self._children[number] = found

    def open_trial(self, number: int, settings: Mapping[str, Any] | None) -> None:
        """Find or create the run of a trial and mark it as running; `settings` become its parameters once."""
        child = self._child(number)
        if child is None:
            tags = {
                "mlflow.parentRunId": self.parent,
                "sweep.name": self.config.name,
                "sweep.role": "trial",
                "sweep.trial": str(number),
                **_SOURCE,
            }
            run = self._client.create_run(self._experiment, run_name=f"trial-{number:04d}", tags=tags).info.run_id
            child = _Child(run, time=0)
            self._known[number] = child
        elif child.status != "RUNNING":
            self._client.update_run(child.run, status="RUNNING")
            child.status = "RUNNING"
        for tag in ("sweep.outcome", "sweep.reason", "sweep.log"):  # of a trial that failed and is tried again
            if child.tags.pop(tag, None) is not None:
                self._client.delete_tag(child.run, tag)
        if settings is not None and not child.has_params:
            self._client.log_batch(child.run, params=_params(flatten(dict(settings))))
            child.has_params = True

    def log(self, number: int, step: int, metrics: Mapping[str, float]) -> None:
        """One batch for one report of an open trial; steps at or below the last are left out."""
        from mlflow.entities import Metric

        child = self._known[number]
        if step <= child.mark:
            return
        # MLflow puts reports in the order of their time, and a clock may be set back.
        if child.time is None:
            child.time = max((one.timestamp for one in self._client.get_metric_history(child.run, _MARK)), default=0)
        now = child.time = max(int(time.time() * 1000), child.time + 1)
        self._client.log_batch(child.run, metrics=[Metric(name, float(value), now, step) for name, value in metrics.items()])
        child.mark = step
        child.metrics |= metrics

    def close_trial(
        self, number: int, outcome: str, reason: str | None, picture: Path, log: Path | None = None, retries: int = 0
    ) -> None:
        """End the run of a trial as complete, stopped or failed, with its picture. Does nothing when that was done.

        A failed one is tagged with the `reason`, the `log` that has the traceback and the number of `retries`.
        """
        from mlflow.entities import RunTag

        child = self._child(number)
        if child is None or (child.tags.get("sweep.outcome") == outcome and child.status in _ENDED):
            return
        tags = {"sweep.outcome": outcome}
        if reason:
            tags["sweep.reason"] = reason[:5000]
        if retries:
            tags["sweep.retries"] = str(retries)
        if outcome == "failed" and log is not None and log.exists():
            tags["sweep.log"] = str(log)
        if picture.exists():
            self._client.log_artifact(child.run, str(picture))
        self._client.log_batch(child.run, tags=[RunTag(key, value) for key, value in tags.items()])
        status = "FAILED" if outcome == "failed" else "FINISHED"
        self._client.set_terminated(child.run, status)
        child.tags |= tags
        child.status = status

    def interrupt_trial(self, number: int) -> None:
        """Mark the run of an open trial as killed; it is opened again when the sweep continues."""
        child = self._child(number)
        if child is not None and child.status == "RUNNING":
            self._client.set_terminated(child.run, "KILLED")
            child.status = "KILLED"

    def behind(self, number: int, step: int, finished: bool) -> bool:
        """Whether the run of a trial lacks reports up to `step`, or its end."""
        child = self._child(number)
        return child is None or child.mark < step or (finished and child.status not in _ENDED)

    def adopt(self, number: int, run: str) -> None:
        """From now on `run` is the run of trial `number`."""
        found = self._client.get_run(run)
        if found.data.tags.get("mlflow.parentRunId") != self.parent:
            self._client.set_tag(run, "mlflow.parentRunId", self.parent)
        self._known[number] = _child_of(found)

    def discard(self, run: str) -> None:
        """Delete a run, as MLflow deletes: it can be restored until `mlflow gc`."""
        self._client.delete_run(run)
        self._children = {number: child for number, child in self._known.items() if child.run != run}

    def attach(self, number: int, picture: Path) -> None:
        """Put the picture of a trial into its run."""
        child = self._child(number)
        if child is not None:
            self._client.log_artifact(child.run, str(picture))

    def fetch(self, run: str, name: str, into: Path) -> None:
        """Copy a file of a run into a folder."""
        self._client.download_artifacts(run, name, str(into))

    def reports(self, run: str) -> list[dict[str, Any]]:
        """Every report of a run, as a checkpoint's history holds them: `step` and the metrics."""
        rows: dict[int, dict[str, Any]] = {}
        for name in self._client.get_run(run).data.metrics:
            for point in self._client.get_metric_history(run, name):
                rows.setdefault(point.step, {"step": point.step})[name] = point.value
        return [row for _, row in sorted(rows.items())]

    def begin(self, files: Mapping[str, str], params: Mapping[str, Any]) -> None:
        """Mark the sweep's run as running, with its configuration as parameters and files."""
        run = self._client.get_run(self.parent)
        self._client.update_run(self.parent, status="RUNNING")
        if not run.data.params:
            self._client.log_batch(self.parent, params=_params(params))
        for name, text in files.items():
            self._client.log_text(self.parent, text, name)

    def end(
        self,
        status: str,
        best: Mapping[str, float] | None,
        best_trial: int | None,
        picture: Path | None,
        front: Sequence[int] = (),
    ) -> None:
        """End the sweep's run: FINISHED or KILLED; the best trial's scores become the sweep's.

        With two objectives the numbers of the trials on the `front` become the tag `sweep.front`.
        """
        from mlflow.entities import Metric, RunTag

        now = int(time.time() * 1000)
        if best and best_trial is not None:
            metrics = [Metric(f"best/{name}", value, now, 0) for name, value in best.items()]
            tags = [RunTag("sweep.best_trial", str(best_trial))]
            if front:
                tags.append(RunTag("sweep.front", front_text(front)))
            self._client.log_batch(self.parent, metrics=metrics, tags=tags)
        if picture and picture.exists():
            self._client.log_artifact(self.parent, str(picture))
        self._client.set_terminated(self.parent, status)

    def metrics(self, number: int) -> dict[str, float]:
        """Last value of every metric of a trial; empty when it has no run."""
        child = self._child(number)
        return dict(child.metrics) if child else {}

    @property
    def status(self) -> str:
        """Of the sweep's run: RUNNING, FINISHED or KILLED."""
        found: str = self._client.get_run(self.parent).info.status
        return found

    def _find_experiment(self) -> str:
        name = f"gbc-{self.config.dataset}"
        found = self._client.get_experiment_by_name(name)
        if found is None:
            place = Path("mlruns").resolve().as_uri() if self.uri.startswith("sqlite") else None
            created: str = self._client.create_experiment(name, artifact_location=place and f"{place}/artifacts/{name}")
            return created
        if found.lifecycle_stage == "deleted":
            mend = f"mlflow experiments restore -x {found.experiment_id}"
            raise BadInput(f"the MLflow experiment {name!r} was deleted; restore it with `{mend}`")
        return str(found.experiment_id)

    def _find_parent(self, tags: Mapping[str, str]) -> str:
        query = f"tags.`sweep.name` = '{self.config.name}' and tags.`sweep.role` = 'sweep'"
        found = self._client.search_runs([self._experiment], query, max_results=1, order_by=["attributes.start_time ASC"])
        if found:
            identity: str = found[0].info.run_id
            return identity
        own = {"sweep.name": self.config.name, "sweep.role": "sweep", **_SOURCE}
        created: str = self._client.create_run(self._experiment, run_name=self.config.name, tags={**tags, **own}).info.run_id
        return created

    @property
    def _known(self) -> dict[int, _Child]:
        if self._children is None:
            self.look()
        assert self._children is not None
        return self._children

    def _child(self, number: int) -> _Child | None:
        return self._known.get(number)


@dataclass(frozen=True)
class Facts:
    """What MLflow holds of one run, for an audit."""

    run: str
    status: str
    tags: dict[str, str]
    params: dict[str, str]
    steps: list[int]
    """Of its reports, in the order of logging."""
    values: dict[int, float]
    """The objective by step."""
    second: dict[int, float]
    """The second objective by step; empty in a sweep of one."""
    files: frozenset[str]

    @property
    def number(self) -> int | None:
        """Of its trial."""
        text = self.tags.get("sweep.trial", "")
        return int(text) if text.isdigit() else None


def read(config: SweepConfig) -> tuple[list[Facts], list[Facts]]:
    """The runs of a sweep and of its trials, oldest first; nothing is created, not even the store.

    Raises:
        BadInput: the store cannot be read.
    """
    uri = address()
    if uri.startswith("sqlite:///") and not Path(uri.removeprefix("sqlite:///")).exists():
        return [], []
    from mlflow import MlflowClient
    from mlflow.exceptions import MlflowException
    from sqlalchemy.exc import SQLAlchemyError

    _be_quiet()
    try:
        client = MlflowClient(uri)
        experiment = client.get_experiment_by_name(f"gbc-{config.dataset}")
        if experiment is None or experiment.lifecycle_stage == "deleted":
            return [], []
        found = [
            _facts(client, run, config)
            for run in pages(client, experiment.experiment_id, f"tags.`sweep.name` = '{config.name}'")
        ][::-1]
    except (MlflowException, SQLAlchemyError, OSError) as fault:
        raise BadInput(f"MLflow store {uri}: cannot be read: {str(fault).splitlines()[0]}") from None
    return [one for one in found if one.tags.get("sweep.role") == "sweep"], [
        one for one in found if one.tags.get("sweep.role") == "trial"
    ]


def front_text(front: Sequence[int]) -> str:
    """The tag `sweep.front`."""
    return " ".join(map(str, front))[:5000]


def address() -> str:
    """Of the MLflow store: where the environment says, or the database in this folder."""
    return os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{Path('mlflow.db').resolve()}"


def _patient(uri: str) -> str:
    """An sqlite store that waits a minute for whoever has it locked, as the study does; five seconds by default."""
    return f"{uri}?timeout={faults.PATIENCE}" if uri.startswith("sqlite:") and "?" not in uri else uri


def _facts(client: MlflowClient, run: Run, config: SweepConfig) -> Facts:
    identity = run.info.run_id
    is_trial = run.data.tags.get("sweep.role") == "trial"

    def values(metric: str) -> dict[int, float]:
        return {point.step: point.value for point in client.get_metric_history(identity, metric)} if is_trial else {}

    return Facts(
        identity,
        run.info.status,
        dict(run.data.tags),
        dict(run.data.params),
        [point.step for point in client.get_metric_history(identity, _MARK)] if is_trial else [],
        values(config.objective.metric),
        values(config.second_objective.metric) if config.second_objective else {},
        frozenset(file.path for file in client.list_artifacts(identity)),
    )


def _child_of(run: Run) -> _Child:
    return _Child(
        run.info.run_id, run.info.status, dict(run.data.tags), bool(run.data.params), mark(run), dict(run.data.metrics)
    )


def _be_quiet() -> None:
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
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


def mark(run: Run) -> int:
    """The step of a run's last report, 0 before the first; without asking the store again."""
    return max((metric.step for metric in run.data.to_proto().metrics if metric.key == _MARK), default=0)


def _params(values: Mapping[str, Any]) -> list[Any]:
    from mlflow.entities import Param

    return [Param(key, str(value)) for key, value in values.items()]
