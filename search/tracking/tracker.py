"""The only writer to MLflow: a parent run for the sweep, one child run for each trial."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from gbc.errors import BadInput
from gbc.settings import flatten
from records import mlflow_store
from records.creation_lock import creation_lock
from records.mlflow_store import STEP_METRIC, all_runs, experiment_name, missing, number_of, reach, runs_query, usable
from search.files import storage
from search.files.storage import Location
from search.spec import faults
from search.spec.config import SweepConfig
from search.tracking import ui_view
from search.tracking.client import TrialRun, address, artifact_root, create_store, with_timeout
from search.tracking.lineage import Inputs
from search.tracking.step_images import Gallery
from search.worker import resource_usage
from search.worker.messages import Progress

if TYPE_CHECKING:
    from mlflow import MlflowClient

_SOURCE: Final = {"mlflow.source.name": "search/run.py", "mlflow.source.type": "LOCAL"}
_ENDED: Final = ("FINISHED", "FAILED")
_LARGEST_BATCH: Final = 1000  # metrics; MLflow's own limit


class Tracker:
    """Runs of one sweep. Every call may be repeated: nothing is created or logged twice."""

    def __init__(self, config: SweepConfig, tags: Mapping[str, str], inputs: Inputs | None = None) -> None:
        """Finds the experiment and the parent run, or creates them; `tags` and `inputs` say where the sweep comes from.

        Raises:
            BadInput: the store cannot be opened or is of another MLflow schema.
        """
        self.config, self._inputs = config, inputs
        self.uri = address(config)
        self._loaded_runs: dict[int, TrialRun] | None = None
        with faults.readable(), usable(self.uri):
            reach(self.uri)
            from mlflow import MlflowClient

            with creation_lock(self.uri):
                if missing(self.uri):
                    create_store(self.uri)
                self._client: MlflowClient = MlflowClient(with_timeout(self.uri))
                self.experiment = self._find_experiment()
            self._gallery = Gallery(self._client)
            self.parent = self._find_parent(tags)

    def load_runs(self) -> None:
        """Read all runs of the sweep's trials; done at the first use of one if it was not done before."""
        runs: dict[int, TrialRun] = {}
        for run in map(TrialRun.of, all_runs(self._client, self.experiment, runs_query(self.config.name, "trial"))):
            if (number := number_of(run.tags)) is None:
                continue
            other = runs.get(number)
            if other is None or run.last_step >= other.last_step:  # newest first: among equals the oldest
                runs[number] = run
        self._loaded_runs = runs  # at once: a half-filled table would have another thread create runs that exist

    def open_trial(self, number: int, settings: Mapping[str, Any] | None, repeats: int | None = None) -> None:
        """Find or create the run of a trial and mark it as running; `settings` become its parameters once.

        A repetition is tagged with the number of the trial that it `repeats`.
        """
        trial_run = self._run_of(number)
        if trial_run is None:
            tags = {
                "mlflow.parentRunId": self.parent,
                mlflow_store.NAME: self.config.name,
                mlflow_store.ROLE: "trial",
                mlflow_store.TRIAL: str(number),
                **({} if repeats is None else {mlflow_store.REPEATS: str(repeats)}),
                **_SOURCE,
            }
            run = self._client.create_run(self.experiment, run_name=f"trial-{number:04d}", tags=tags).info.run_id
            trial_run = TrialRun(run, time=0)
            self._trial_runs[number] = trial_run
        elif trial_run.status != "RUNNING":
            self._client.update_run(trial_run.run, status="RUNNING")
            trial_run.status = "RUNNING"
        for tag in (mlflow_store.OUTCOME, mlflow_store.REASON, mlflow_store.LOG):  # of a trial that failed and is tried again
            if trial_run.tags.pop(tag, None) is not None:
                self._client.delete_tag(trial_run.run, tag)
        if settings is not None and not trial_run.has_params:
            self._log_inputs(trial_run.run, settings.get("classifier"))  # first: who finds parameters looks no further
            self._client.log_batch(trial_run.run, params=_params(flatten(dict(settings))))
            trial_run.has_params = True

    def log(self, number: int, reports: Sequence[Progress]) -> None:
        """Log reports of an open trial, in order, in as few batches as MLflow takes; those that were logged are left out."""
        from mlflow.entities import Metric

        trial_run = self._trial_runs[number]
        new, last = list[Progress](), trial_run.last_step
        for report in reports:  # a worker that took over says again what the one before it said
            if report.step > last:
                new.append(report)
                last = report.step
        # MLflow puts reports in the order of their time, and a clock may be set back.
        if new and trial_run.time is None:
            trial_run.time = max(
                (logged.timestamp for logged in self._client.get_metric_history(trial_run.run, STEP_METRIC)), default=0
            )
        while new:
            count, metrics, now = 0, list[Metric](), trial_run.time or 0
            while count < len(new) and (not count or len(metrics) + len(new[count].metrics) <= _LARGEST_BATCH):
                report = new[count]
                now = max(int(report.time * 1000), now + 1)
                metrics += [Metric(name, float(value), now, report.step) for name, value in report.metrics.items()]
                count += 1
            self._client.log_batch(trial_run.run, metrics=metrics)
            trial_run.time = now
            for report in new[:count]:
                trial_run.last_step = report.step
                trial_run.metrics |= report.metrics
            new = new[count:]

    def show(self, number: int, folder: Location, seen: Callable[[int, bytes], None] | None = None) -> None:
        """Move the pictures that the worker of a trial left in its folder into its run, by step, and tell `seen` of each."""
        if (trial_run := self._run_of(number)) is not None:
            self._gallery.move(trial_run.run, folder, seen)

    def news(self) -> list[str]:
        """A line for each picture that cannot be read, once. Any thread may ask."""
        return self._gallery.news()

    def close_trial(
        self, number: int, outcome: str, reason: str | None, picture: Location, log: Location | None = None, retries: int = 0
    ) -> None:
        """End the run of a trial as complete, stopped or failed, with its picture. Does nothing when that was done.

        A failed one is tagged with the `reason`, the `log` that has the traceback and the number of `retries`.
        """
        from mlflow.entities import RunTag

        trial_run = self._run_of(number)
        if trial_run is None or (trial_run.tags.get(mlflow_store.OUTCOME) == outcome and trial_run.status in _ENDED):
            return
        tags = {mlflow_store.OUTCOME: outcome}
        if reason:
            tags[mlflow_store.REASON] = reason[:5000]
        if retries:
            tags[mlflow_store.RETRIES] = str(retries)
        if outcome == "failed" and log is not None and log.exists():
            tags[mlflow_store.LOG] = str(log)
        if picture.exists():
            self._attach(trial_run.run, picture)
        self._client.log_batch(trial_run.run, tags=[RunTag(key, value) for key, value in tags.items()])
        status = "FAILED" if outcome == "failed" else "FINISHED"
        self._client.set_terminated(trial_run.run, status)
        trial_run.tags |= tags
        trial_run.status = status

    def interrupt_trial(self, number: int) -> None:
        """Mark the run of an open trial as killed; it is opened again when the sweep continues."""
        trial_run = self._run_of(number)
        if trial_run is not None and trial_run.status == "RUNNING":
            self._client.set_terminated(trial_run.run, "KILLED")
            trial_run.status = "KILLED"

    def numbers(self) -> set[int]:
        """Return the numbers of the trials that have a run."""
        return set(self._trial_runs)

    def last_step(self, number: int) -> int:
        """Return the step of the last logged report of a trial, 0 before the first."""
        trial_run = self._run_of(number)
        return trial_run.last_step if trial_run else 0

    def lacks(self, number: int, step: int, finished: bool) -> bool:
        """True if the run of a trial lacks reports up to `step`, or its end."""
        trial_run = self._run_of(number)
        return trial_run is None or trial_run.last_step < step or (finished and trial_run.status not in _ENDED)

    def run(self, number: int) -> str | None:
        """The id of a trial's run; None when it has none."""
        trial_run = self._run_of(number)
        return trial_run.run if trial_run else None

    def copy_pictures(self, run: str, number: int) -> None:
        """Give the run of a trial the pictures of another run."""
        self._gallery.copy(run, self._trial_runs[number].run)

    def adopt(self, number: int, run: str) -> None:
        """Make `run` the run of trial `number` from now on."""
        recorded = self._client.get_run(run)
        if recorded.data.tags.get("mlflow.parentRunId") != self.parent:
            self._client.set_tag(run, "mlflow.parentRunId", self.parent)
        self._trial_runs[number] = TrialRun.of(recorded)

    def discard(self, run: str) -> None:
        """Delete a run, as MLflow deletes: it can be restored until `mlflow gc`."""
        self._client.delete_run(run)
        self._loaded_runs = {number: trial_run for number, trial_run in self._trial_runs.items() if trial_run.run != run}

    def attach(self, number: int, picture: Location) -> None:
        """Put the picture of a trial into its run."""
        trial_run = self._run_of(number)
        if trial_run is not None:
            self._attach(trial_run.run, picture)

    def fetch(self, run: str, name: str, into: Path) -> None:
        """Copy a file of a run into a folder."""
        self._client.download_artifacts(run, name, str(into))

    def reports(self, run: str) -> list[dict[str, Any]]:
        """Every report of a run, as a checkpoint's history holds them: `step` and the metrics."""
        rows: dict[int, dict[str, Any]] = {}
        for name in resource_usage.without_resource_usage(self._client.get_run(run).data.metrics):
            for point in self._client.get_metric_history(run, name):
                rows.setdefault(point.step, {"step": point.step})[name] = point.value
        return [row for _, row in sorted(rows.items())]

    def begin(self, files: Mapping[str, str], params: Mapping[str, Any]) -> None:
        """Mark the sweep's run as running, with its configuration as parameters and files."""
        run = self._client.get_run(self.parent)
        self._client.update_run(self.parent, status="RUNNING")
        if not run.data.params:
            self._log_inputs(self.parent)
            self._client.log_batch(self.parent, params=_params(params))
        self.add_files(files)
        # An experiment's kind says which of MLflow's pages it opens with.
        self._client.set_experiment_tag(self.experiment, "mlflow.experimentKind", "custom_model_development")
        self._client.set_experiment_tag(
            self.experiment, ui_view.TAG + ui_view.key_of(self.config), ui_view.state(self.config, self.parent)
        )

    def add_files(self, files: Mapping[str, str]) -> None:
        """Put text files into the sweep's run, in place of those of the same names."""
        for name, text in files.items():
            self._client.log_text(self.parent, text, name)

    def describe(self, text: str) -> None:
        """Set the description that MLflow's pages show on the sweep's run, in Markdown."""
        self._client.set_tag(self.parent, "mlflow.note.content", text)

    def end(
        self,
        status: str,
        best: Mapping[str, float] | None,
        best_trial: int | None,
        picture: Location | None,
        front: Sequence[int] = (),
    ) -> None:
        """End the sweep's run: FINISHED or KILLED; the best trial's scores become the sweep's.

        With two objectives the numbers of the trials on the `front` become the tag `sweep.front`.
        """
        from mlflow.entities import Metric, RunTag

        now = int(time.time() * 1000)
        if best and best_trial is not None:
            metrics = [Metric(f"best/{name}", value, now, 0) for name, value in best.items()]
            tags = [RunTag(mlflow_store.BEST_TRIAL, str(best_trial))]
            if front:
                tags.append(RunTag(mlflow_store.FRONT, front_text(front)))
            self._client.log_batch(self.parent, metrics=metrics, tags=tags)
        if picture and picture.exists():
            self._attach(self.parent, picture)
        self._client.set_terminated(self.parent, status)

    def metrics(self, number: int) -> dict[str, float]:
        """Last value of every metric of a trial; empty when it has no run."""
        trial_run = self._run_of(number)
        return resource_usage.without_resource_usage(trial_run.metrics) if trial_run else {}

    def _log_inputs(self, run: str, classifier: Mapping[str, Any] | None = None) -> None:
        if self._inputs is not None:
            self._inputs.log(self._client, self.experiment, run, classifier)

    def _attach(self, run: str, picture: Location) -> None:
        with storage.local_copy(picture) as path:
            self._client.log_artifact(run, str(path))

    def _find_experiment(self) -> str:
        name = experiment_name(self.config.dataset)
        experiment = self._client.get_experiment_by_name(name)
        if experiment is None:
            self._create_experiment(name)
            experiment = self._client.get_experiment_by_name(name)
        if experiment.lifecycle_stage == "deleted":
            command = f"mlflow experiments restore -x {experiment.experiment_id}"
            raise BadInput(f"the MLflow experiment {name!r} was deleted; restore it with `{command}`")
        return str(experiment.experiment_id)

    def _create_experiment(self, name: str) -> None:
        from mlflow.exceptions import MlflowException

        # A server keeps artifacts where it was told to; beside a bare database it is for us to say.
        location = None if self.uri.startswith("http") else f"{artifact_root()}/{name}"
        try:
            self._client.create_experiment(name, artifact_location=location)
        except MlflowException as fault:
            if fault.error_code != "RESOURCE_ALREADY_EXISTS":  # which another driver has created meanwhile
                raise

    def _find_parent(self, tags: Mapping[str, str]) -> str:
        query = runs_query(self.config.name, "sweep")
        parents = self._client.search_runs([self.experiment], query, max_results=1, order_by=["attributes.start_time ASC"])
        if parents:
            identity: str = parents[0].info.run_id
            return identity
        own = {mlflow_store.NAME: self.config.name, mlflow_store.ROLE: "sweep", **_SOURCE}
        created: str = self._client.create_run(self.experiment, run_name=self.config.name, tags={**tags, **own}).info.run_id
        return created

    @property
    def _trial_runs(self) -> dict[int, TrialRun]:
        if self._loaded_runs is None:
            self.load_runs()
        assert self._loaded_runs is not None
        return self._loaded_runs

    def _run_of(self, number: int) -> TrialRun | None:
        return self._trial_runs.get(number)


def front_text(front: Sequence[int]) -> str:
    """Return the value of the tag `sweep.front`."""
    return " ".join(map(str, front))[:5000]


def _params(values: Mapping[str, Any]) -> list[Any]:
    from mlflow.entities import Param

    return [Param(key, str(value)) for key, value in values.items()]
