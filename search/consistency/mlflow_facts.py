"""What MLflow holds of a sweep: read only."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from search.spec.config import SweepConfig
from search.tracking.client import STEP_METRIC, address, all_runs, missing, reach, usable

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run


@dataclass(frozen=True)
class Facts:
    """What MLflow holds of one run."""

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
    uri = address(config)
    if missing(uri):
        return [], []
    reach(uri)
    with usable(uri):
        from mlflow import MlflowClient

        client = MlflowClient(uri)
        experiment = client.get_experiment_by_name(f"gbc-{config.dataset}")
        if experiment is None or experiment.lifecycle_stage == "deleted":
            return [], []
        found = [
            _facts(client, run, config)
            for run in all_runs(client, experiment.experiment_id, f"tags.`sweep.name` = '{config.name}'")
        ][::-1]
    return [one for one in found if one.tags.get("sweep.role") == "sweep"], [
        one for one in found if one.tags.get("sweep.role") == "trial"
    ]


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
        [point.step for point in client.get_metric_history(identity, STEP_METRIC)] if is_trial else [],
        values(config.objective.metric),
        values(config.second_objective.metric) if config.second_objective else {},
        frozenset(file.path for file in client.list_artifacts(identity)),
    )
