"""The MLflow runs of a sweep and of its trials, with their curves and files. Nothing is written."""

from __future__ import annotations

import io
import json
import re
import tempfile
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import unquote, urlsplit

from dashboards.errors import ReportError
from dashboards.settings import SweepSettings
from records.addresses import public
from records.mlflow_store import FRONT, STEP_METRIC, missing, number_of, open_client, runs_of, usable

if TYPE_CHECKING:
    from mlflow.entities import Run
    from PIL import Image

_THREADS: Final = 8
"""Requests at a time: a server answers several at once."""
_STEP_IMAGE: Final = re.compile(r"(?:^|/)samples[%+]step[%+](\d+)[%+]timestamp[%+](\d+)[%+][^/]*\.(png|webp)$")
"""MLflow's `log_image(key="samples")`: the separator depends on its version."""
_CURVES: Final = ("kkt/", "margin/", "loss/", "free/confidence", "time/steps_per_s")
"""Beginnings of the metrics whose curve is read; of the others the last value will do."""


@dataclass(frozen=True)
class RecordedRun:
    """The MLflow run of one trial; empty where it has none."""

    id: str = ""
    params: Mapping[str, str] = field(default_factory=dict)
    """Every setting of the trial, flat, as text."""
    last: Mapping[str, float] = field(default_factory=dict)
    """Last value of each metric."""
    curves: Mapping[str, Mapping[int, float]] = field(default_factory=dict)
    """By metric and optimiser step."""
    times: Mapping[int, float] = field(default_factory=dict)
    """By optimiser step, when it was reported, in seconds since 1970."""


class SweepRuns:
    """The runs of one sweep."""

    def __init__(self, settings: SweepSettings) -> None:
        """Finds the runs.

        Raises:
            Unreadable: the store cannot be used, or has an old schema.
            ReportError: it does not exist, or holds no such sweep.
        """
        self.uri = settings.tracking_uri
        self._listed: dict[tuple[str, str], frozenset[str]] = {}
        if missing(self.uri):
            advice = "run this in the folder of the sweep, or set MLFLOW_TRACKING_URI"
            raise ReportError(f"MLflow store {public(self.uri)}: no such file; {advice}")
        with usable(self.uri):
            self._client = open_client(self.uri)
            sweeps, self._trials = runs_of(self._client, settings.dataset, settings.name)
        if not sweeps:
            raise ReportError(f"MLflow store {public(self.uri)}: holds no run of the sweep {settings.name!r}")
        self._sweep: Run = sweeps[0]  # the oldest, as the sweep itself chooses
        # Folders on this machine are read as they are: MLflow would ask the store for the run of each file, and copy the file.
        self._folders = {
            run.info.run_id: Path(unquote(urlsplit(uri).path))
            for run in (self._sweep, *self._trials)
            if (uri := str(run.info.artifact_uri)).startswith("file:///")
        }

    @property
    def tags(self) -> dict[str, str]:
        """Tags of the sweep's run."""
        return dict(self._sweep.data.tags)

    @property
    def status(self) -> str:
        """Status of the sweep's run: RUNNING, FINISHED or KILLED."""
        return str(self._sweep.info.status)

    @property
    def front(self) -> list[int]:
        """Numbers of the trials on the Pareto front of a sweep with two objectives."""
        return [int(number) for number in self.tags.get(FRONT, "").split() if number.isdigit()]

    def trials(self, *extra: str) -> dict[int, RecordedRun]:
        """Runs by trial number, with the curves of the method's metrics and of those in `extra`."""
        runs: dict[int, Run] = {}
        for run in self._trials:  # of two the older one stays
            if (number := number_of(run.data.tags)) is not None:
                runs.setdefault(number, run)
        with usable(self.uri), ThreadPoolExecutor(_THREADS if self.uri.startswith("http") else 1) as pool:
            return dict(zip(runs, pool.map(lambda run: self._read(run, extra), runs.values()), strict=True))

    def document(self, name: str) -> Any:
        """A JSON file of the sweep's run; None where there is none."""
        content = self._content(self._sweep.info.run_id, name)
        try:
            return None if content is None else json.loads(content)
        except ValueError:
            return None

    def picture(self, run: str, path: str = "samples.png") -> Image.Image | None:
        """An image that was logged with a run; None where there is no run, or none that can be read."""
        from PIL import Image

        if not run or (content := self._content(run, path)) is None:
            return None
        try:
            image = Image.open(io.BytesIO(content))
            image.load()
        except (OSError, SyntaxError, ValueError):  # so Pillow says that a file is cut short or damaged
            return None
        return image

    def step_images(self, run: str) -> dict[int, str]:
        """Paths of the pictures of a trial by step, the last one logged at each; the lossless PNG before its WebP twin."""
        paths = self._files(run, "images") if run and "images" in self._files(run, "") else ()
        latest: dict[int, tuple[tuple[int, bool], str]] = {}
        for path in paths:
            if match := _STEP_IMAGE.search(path):
                step, logged, kind = int(match[1]), int(match[2]), match[3]
                key = (logged, kind == "png")
                if step not in latest or key > latest[step][0]:
                    latest[step] = key, path
        return {step: path for step, (_, path) in sorted(latest.items())}

    def _content(self, run: str, path: str) -> bytes | None:
        if path not in self._files(run, path.rpartition("/")[0]):
            return None
        with usable(self.uri):
            if folder := self._folders.get(run):
                return (folder / path).read_bytes()
            with tempfile.TemporaryDirectory() as target:
                return Path(self._client.download_artifacts(run, path, target)).read_bytes()

    def _files(self, run: str, folder: str) -> frozenset[str]:
        """Paths of the files that a run has in a folder; asked for once."""
        if (run, folder) not in self._listed:
            with usable(self.uri):
                self._listed[run, folder] = frozenset(self._list(run, folder))
        return self._listed[run, folder]

    def _list(self, run: str, folder: str) -> Iterable[str]:
        if (root := self._folders.get(run)) is not None:
            return (str(path.relative_to(root)) for path in (root / folder).glob("*"))
        return (file.path for file in self._client.list_artifacts(run, folder or None))

    def _read(self, run: Run, extra: tuple[str, ...]) -> RecordedRun:
        identity, last = run.info.run_id, dict(run.data.metrics)
        curves, times = dict[str, dict[int, float]](), dict[int, float]()
        for name in last:
            if name.startswith(_CURVES) or name in extra:
                history = self._client.get_metric_history(identity, name)
                curves[name] = {point.step: point.value for point in history}
                if name == STEP_METRIC:
                    times = {point.step: point.timestamp / 1000 for point in history}
        return RecordedRun(identity, dict(run.data.params), last, curves, times)
