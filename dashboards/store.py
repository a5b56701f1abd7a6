"""What MLflow holds of a sweep: its run, the runs of its trials, their curves and their files. Nothing is written."""

from __future__ import annotations

import io
import json
import logging
import os
import re
import socket
import tempfile
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

from dashboards.errors import BadInput, public, reason
from dashboards.place import Record

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run
    from PIL import Image

_PAGE: Final = 500
_THREADS: Final = 8
"""Requests at a time: a server answers several at once."""
_STEP_IMAGE: Final = re.compile(r"(?:^|/)samples[%+]step[%+](\d+)[%+]timestamp[%+](\d+)[%+][^/]*\.(png|webp)$")
"""MLflow's `log_image(key="samples")`: the separator depends on its version."""
_CLOCK: Final = "loss/total"  # in every report, so its history says when reports were made
_CURVES: Final = ("kkt/", "margin/", "loss/", "free/confidence", "time/steps_per_s")
"""Beginnings of the metrics whose course is read; of the others the last value will do."""


@dataclass(frozen=True)
class StepImage:
    """A picture that a trial logged at one step."""

    step: int
    path: str
    """Of the artifact."""


@dataclass(frozen=True)
class Logged:
    """The MLflow run of one trial."""

    run: str
    tags: Mapping[str, str]
    settings: Mapping[str, str]
    """Every setting of the trial, flat, as text."""
    last: Mapping[str, float]
    """Last value of each metric."""
    curves: Mapping[str, Mapping[int, float]] = field(default_factory=dict)
    """By metric and optimiser step."""
    times: Mapping[int, float] = field(default_factory=dict)
    """By optimiser step, when it was reported, in seconds since 1970."""


class Store:
    """The runs of one sweep."""

    def __init__(self, record: Record) -> None:
        """Finds the sweep's run.

        Raises:
            BadInput: the store does not exist, cannot be read, has an old schema, or holds no such sweep.
        """
        self._record, self.uri = record, record.tracking_uri
        self._listed: dict[tuple[str, str], frozenset[str]] = {}
        _reach(self.uri)
        _be_quiet()
        with self._told():
            from mlflow import MlflowClient

            self._client: MlflowClient = MlflowClient(self.uri)
            experiment = self._client.get_experiment_by_name(f"gbc-{record.dataset}")
            found = list(self._runs(experiment.experiment_id, "sweep")) if experiment else []
        if not found:
            raise BadInput(f"MLflow store {public(self.uri)}: holds no run of the sweep {record.name!r}")
        self._experiment: str = found[-1].info.experiment_id
        self._parent: Run = found[-1]  # the oldest, as the sweep itself chooses

    @property
    def tags(self) -> dict[str, str]:
        """Of the sweep's run."""
        return dict(self._parent.data.tags)

    @property
    def status(self) -> str:
        """Of the sweep's run: RUNNING, FINISHED or KILLED."""
        return str(self._parent.info.status)

    def trials(self, *extra: str) -> dict[int, Logged]:
        """Runs by trial number, with the curves of the method's metrics and of those in `extra`."""
        with self._told():
            runs: dict[int, Run] = {}
            for run in self._runs(self._experiment, "trial"):  # newest first: of two the older one stays
                number = run.data.tags.get("sweep.trial", "")
                if number.isdigit():
                    runs[int(number)] = run
            with ThreadPoolExecutor(_THREADS if self.uri.startswith("http") else 1) as pool:
                return dict(zip(runs, pool.map(lambda run: self._logged(run, extra), runs.values()), strict=True))

    def document(self, name: str) -> Any:
        """A JSON file of the sweep's run; None where there is none."""
        content = self._content(self._parent.info.run_id, name)
        try:
            return None if content is None else json.loads(content)
        except ValueError:
            return None

    def picture(self, run: str, path: str = "samples.png") -> Image.Image | None:
        """An image that was logged with a run; None where there is none that can be read."""
        from PIL import Image, UnidentifiedImageError

        content = self._content(run, path)
        try:
            return None if content is None else Image.open(io.BytesIO(content))
        except UnidentifiedImageError:
            return None

    def step_images(self, run: str) -> list[StepImage]:
        """Pictures of a trial by step, the last one logged at each; the lossless PNG before its WebP twin."""
        paths = self._files(run, "images") if "images" in self._files(run, "") else ()
        found: dict[int, tuple[tuple[int, bool], str]] = {}
        for path in paths:
            if match := _STEP_IMAGE.search(path):
                step, when, kind = int(match[1]), int(match[2]), match[3]
                key = (when, kind == "png")
                if step not in found or key > found[step][0]:
                    found[step] = key, path
        return [StepImage(step, path) for step, (_, path) in sorted(found.items())]

    def _content(self, run: str, path: str) -> bytes | None:
        if path not in self._files(run, path.rpartition("/")[0]):
            return None
        with self._told(), tempfile.TemporaryDirectory() as target:
            return Path(self._client.download_artifacts(run, path, target)).read_bytes()

    def _files(self, run: str, folder: str) -> frozenset[str]:
        """Paths of what a run holds in a folder; asked for once."""
        if (run, folder) not in self._listed:
            with self._told():
                found = frozenset(file.path for file in self._client.list_artifacts(run, folder or None))
            self._listed[run, folder] = found
        return self._listed[run, folder]

    def _logged(self, run: Run, extra: tuple[str, ...]) -> Logged:
        identity, last = run.info.run_id, dict(run.data.metrics)
        curves, times = dict[str, dict[int, float]](), dict[int, float]()
        for name in last:
            if name.startswith(_CURVES) or name in extra:
                history = self._client.get_metric_history(identity, name)
                curves[name] = {point.step: point.value for point in history}
                if name == _CLOCK:
                    times = {point.step: point.timestamp / 1000 for point in history}
        return Logged(identity, dict(run.data.tags), dict(run.data.params), last, curves, times)

    def _runs(self, experiment: str, role: str) -> Iterator[Run]:
        query = f"tags.`sweep.name` = '{self._record.name}' and tags.`sweep.role` = '{role}'"
        token: str | None = None
        while True:
            page = self._client.search_runs([experiment], query, max_results=_PAGE, page_token=token)
            yield from page
            token = page.token
            if not token:
                return

    @contextmanager
    def _told(self) -> Iterator[None]:
        """What goes wrong with the store is one line; an old schema comes with its mend."""
        from mlflow.exceptions import MlflowException
        from sqlalchemy.exc import SQLAlchemyError

        try:
            yield
        except (MlflowException, SQLAlchemyError, OSError) as fault:
            shown = public(self.uri)
            if "out-of-date database schema" in str(fault):
                mend = f"back it up, then: mlflow db upgrade {shown}"
                raise BadInput(f"MLflow store {shown}: written by an older MLflow; {mend}") from None
            raise BadInput(f"MLflow store {shown}: cannot be read: {reason(fault)}") from None


def _reach(uri: str) -> None:
    """Refuse at once what MLflow would create (a missing database) or wait minutes for (a server that is not there)."""
    if uri.startswith("sqlite:"):
        path = Path(uri.partition("?")[0].removeprefix("sqlite:///"))
        if not path.exists():
            raise BadInput(
                f"MLflow store {path}: no such file; run this in the folder of the sweep, or set MLFLOW_TRACKING_URI"
            )
    elif uri.startswith("http"):
        try:
            parts = urlsplit(uri)
            port = parts.port or (443 if parts.scheme == "https" else 80)
            socket.create_connection((parts.hostname or "localhost", port), timeout=10).close()
        except (OSError, ValueError) as fault:
            raise BadInput(f"MLflow store {public(uri)}: cannot be reached: {reason(fault)}") from None


def _be_quiet() -> None:
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    for noisy in ("alembic", "mlflow.store.db.utils", "mlflow.tracking"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
