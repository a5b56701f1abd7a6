"""The only writer to MLflow: a parent run for the sweep, one child run for each trial."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from gbc.errors import BadInput
from gbc.settings import flatten
from search.config import SweepConfig

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

_SOURCE: Final = {"mlflow.source.name": "search/run.py", "mlflow.source.type": "LOCAL"}
_MARK: Final = "loss/total"  # in every report, so its last step is how far a run has come


class Tracker:
    """Runs of one sweep. Every call may be repeated: nothing is created or logged twice."""

    def __init__(self, config: SweepConfig, tags: Mapping[str, str]) -> None:
        """Finds the experiment and the parent run, or creates them; `tags` say where the sweep comes from.

        Raises:
            BadInput: the store cannot be opened or is of another MLflow schema.
        """
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
        for noisy in ("alembic", "mlflow.store.db.utils", "mlflow.tracking"):
            logging.getLogger(noisy).setLevel(logging.WARNING)
        from mlflow import MlflowClient
        from mlflow.exceptions import MlflowException
        from sqlalchemy.exc import SQLAlchemyError

        self.config = config
        self.uri = os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{Path('mlflow.db').resolve()}"
        self._runs: dict[int, str] = {}
        self._marks: dict[int, int] = {}
        try:
            self._client: MlflowClient = MlflowClient(self.uri)
            self._experiment = self._find_experiment()
            self.parent = self._find_parent(tags)
        except (MlflowException, SQLAlchemyError, OSError) as fault:
            reason = str(fault).splitlines()[0]
            raise BadInput(
                f"MLflow store {self.uri}: cannot be used: {reason}; move it away or set MLFLOW_TRACKING_URI"
            ) from None

    def open_trial(self, number: int, settings: Mapping[str, Any] | None) -> None:
        """Find or create the run of a trial and mark it as running; `settings` become its parameters once."""
        run = self._find_trial(number)
        if run is None:
            run = self._client.create_run(
                self._experiment,
                run_name=f"trial-{number:04d}",
                tags={
                    "mlflow.parentRunId": self.parent,
                    "sweep.name": self.config.name,
                    "sweep.role": "trial",
                    "sweep.trial": str(number),
                    **_SOURCE,
                },
            )
        elif run.info.status != "RUNNING":
            self._client.update_run(run.info.run_id, status="RUNNING")
        if settings is not None and not run.data.params:
            self._client.log_batch(run.info.run_id, params=_params(flatten(dict(settings))))
        self._runs[number] = run.info.run_id
        self._marks[number] = self._mark(run.info.run_id)

    def log(self, number: int, step: int, metrics: Mapping[str, float]) -> None:
        """One batch for one report; steps at or below the last are left out."""
        from mlflow.entities import Metric

        if step <= self._marks[number]:
            return
        now = int(time.time() * 1000)
        self._client.log_batch(
            self._runs[number], metrics=[Metric(name, float(value), now, step) for name, value in metrics.items()]
        )
        self._marks[number] = step

    def close_trial(self, number: int, outcome: str, reason: str | None, picture: Path) -> None:
        """End the run of a trial as complete, stopped or failed, with its picture. Does nothing when that was done."""
        from mlflow.entities import RunTag

        run = self._find_trial(number)
        if run is None or (run.data.tags.get("sweep.outcome") == outcome and run.info.status in ("FINISHED", "FAILED")):
            return
        tags = [RunTag("sweep.outcome", outcome)]
        if reason:
            tags.append(RunTag("sweep.reason", reason[:5000]))
        if picture.exists():
            self._client.log_artifact(run.info.run_id, str(picture))
        self._client.log_batch(run.info.run_id, tags=tags)
        self._client.set_terminated(run.info.run_id, "FAILED" if outcome == "failed" else "FINISHED")

    def interrupt_trial(self, number: int) -> None:
        """Mark the run of an open trial as killed; it is opened again when the sweep continues."""
        run = self._find_trial(number)
        if run is not None and run.info.status == "RUNNING":
            self._client.set_terminated(run.info.run_id, "KILLED")

    def behind(self, number: int, step: int, finished: bool) -> bool:
        """Whether the run of a trial lacks reports up to `step`, or its end."""
        run = self._find_trial(number)
        if run is None:
            return True
        return self._mark(run.info.run_id) < step or (finished and run.info.status not in ("FINISHED", "FAILED"))

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
                tags.append(RunTag("sweep.front", " ".join(map(str, front))[:5000]))
            self._client.log_batch(self.parent, metrics=metrics, tags=tags)
        if picture and picture.exists():
            self._client.log_artifact(self.parent, str(picture))
        self._client.set_terminated(self.parent, status)

    def metrics(self, number: int) -> dict[str, float]:
        """Last value of every metric of a trial; empty when it has no run."""
        run = self._find_trial(number)
        return dict(run.data.metrics) if run else {}

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
        found = self._client.search_runs([self._experiment], query, max_results=1)
        if found:
            identity: str = found[0].info.run_id
            return identity
        own = {"sweep.name": self.config.name, "sweep.role": "sweep", **_SOURCE}
        created: str = self._client.create_run(self._experiment, run_name=self.config.name, tags={**tags, **own}).info.run_id
        return created

    def _find_trial(self, number: int) -> Run | None:
        if number in self._runs:
            return self._client.get_run(self._runs[number])
        query = f"tags.`mlflow.parentRunId` = '{self.parent}' and tags.`sweep.trial` = '{number}'"
        found = self._client.search_runs([self._experiment], query, max_results=1)
        return found[0] if found else None

    def _mark(self, run: str) -> int:
        return max((metric.step for metric in self._client.get_metric_history(run, _MARK)), default=0)


def _params(values: Mapping[str, Any]) -> list[Any]:
    from mlflow.entities import Param

    return [Param(key, str(value)) for key, value in values.items()]
