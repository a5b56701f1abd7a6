"""The runs of a sweep as MLflow has them: read only."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from records.mlflow_store import ROLE, STEP_METRIC, missing, number_of, open_client, runs_of, usable
from search.spec import faults
from search.spec.config import SweepConfig
from search.tracking.client import address

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

WithProgress = Callable[[str, Sequence[Any]], Iterator[Any]]
"""A function of a label and elements that yields the elements, and shows how many were read."""


@dataclass(frozen=True)
class Facts:
    """The content of one MLflow run."""

    run: str
    status: str
    tags: dict[str, str]
    params: dict[str, str]
    steps: list[int]
    """The steps of its reports, in the order of logging."""
    values: dict[int, float]
    """The objective by step."""
    second: dict[int, float]
    """The second objective by step; empty in a sweep of one."""
    files: frozenset[str]

    @property
    def number(self) -> int | None:
        """The number of its trial."""
        return number_of(self.tags)


def read(config: SweepConfig, with_progress: WithProgress) -> tuple[list[Facts], list[Facts]]:
    """The runs of a sweep and of its trials, oldest first; nothing is created, not even the store.

    `with_progress` shows how many runs were read.

    Raises:
        BadInput: the store cannot be read.
    """
    uri = address(config)
    if missing(uri):
        return [], []
    with faults.readable(), usable(uri):
        client = open_client(uri)
        parents, trials = runs_of(client, config.dataset, config.name)
        known = [_facts(client, run, config) for run in parents]
        return known, [_facts(client, run, config) for run in with_progress("MLflow runs", trials)]


def _facts(client: MlflowClient, run: Run, config: SweepConfig) -> Facts:
    from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

    identity = run.info.run_id
    is_trial = run.data.tags.get(ROLE) == "trial"

    def values(metric: str) -> dict[int, float]:
        return {point.step: point.value for point in client.get_metric_history(identity, metric)} if is_trial else {}

    # As `client.list_artifacts`, which asks the store for the whole run again.
    files = get_artifact_repository(str(run.info.artifact_uri), client.tracking_uri).list_artifacts()
    return Facts(
        identity,
        run.info.status,
        dict(run.data.tags),
        dict(run.data.params),
        [point.step for point in client.get_metric_history(identity, STEP_METRIC)] if is_trial else [],
        values(config.objective.metric),
        values(config.second_objective.metric) if config.second_objective else {},
        frozenset(file.path for file in files),
    )
