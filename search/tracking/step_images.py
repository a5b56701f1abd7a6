"""Moves the pictures of a trial's steps from its folder into its MLflow run."""

from __future__ import annotations

import io
import re
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Final

from search.files import storage
from search.files.paths import step_of_picture
from search.files.storage import Location

if TYPE_CHECKING:
    from mlflow import MlflowClient

KEY: Final = "samples"
"""The name under which MLflow's pages show them, with a slider over steps."""
_FOLDER: Final = "images"
_STEP: Final = re.compile(rf"{_FOLDER}/{KEY}[+%]step[+%](\d+)[+%].*\.png")
_SHOWN: Final = "mlflow.loggedImages"


class Gallery:
    """Moves pictures into runs; every call may be repeated, and none is there twice."""

    def __init__(self, client: MlflowClient) -> None:
        self._client = client
        self._steps: dict[str, set[int]] = {}

    def move(self, run: str, folder: Location, seen: Callable[[int, bytes], None] | None = None) -> None:
        """Log what the worker of a trial left in its folder, tell `seen` each step with its PNG, and delete it there."""
        from PIL import Image

        for path, _ in storage.list_files(folder):
            if (step := step_of_picture(path.name)) is None:
                continue
            content = path.read_bytes()
            if step not in self._logged_steps(run):
                with Image.open(io.BytesIO(content)) as picture:
                    self._client.log_image(run, picture, key=KEY, step=step)
                self._logged_steps(run).add(step)
            if seen is not None:
                seen(step, content)
            path.unlink(missing_ok=True)

    def copy(self, source: str, target: str) -> None:
        """Give a run the pictures of another."""
        if any(file.path == _FOLDER for file in self._client.list_artifacts(source)):
            with tempfile.TemporaryDirectory() as folder:
                self._client.download_artifacts(source, _FOLDER, folder)
                self._client.log_artifacts(target, str(Path(folder) / _FOLDER), _FOLDER)
            self._client.set_tag(target, _SHOWN, True)
            self._steps.pop(target, None)

    def _logged_steps(self, run: str) -> set[int]:
        if run not in self._steps:
            matches = (_STEP.fullmatch(file.path) for file in self._client.list_artifacts(run, _FOLDER))
            self._steps[run] = {int(match.group(1)) for match in matches if match}
        return self._steps[run]
