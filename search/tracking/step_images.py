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
    from PIL import Image

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
        self._damaged: dict[str, bool] = {}
        """Pictures that cannot be read, and whether `news` has named them."""

    def move(self, run: str, folder: Location, seen: Callable[[int, bytes], None] | None = None) -> None:
        """Log what the worker of a trial left in its folder, tell `seen` each step with its PNG, and delete it there.

        A picture that cannot be read stays where it is, for `news`.
        """
        for path, _ in storage.list_files(folder):
            if (step := step_of_picture(path.name)) is None:
                continue
            content = path.read_bytes()
            try:
                picture = _decoded(content)
            except Exception:  # of a decoder of images: there is no list of what it raises
                self._damaged.setdefault(str(path), False)
                continue
            if step not in self._logged_steps(run):
                self._client.log_image(run, picture, key=KEY, step=step)
                self._logged_steps(run).add(step)
            if seen is not None:
                seen(step, content)
            path.unlink(missing_ok=True)

    def news(self) -> list[str]:
        """A line for each picture that cannot be read, once. Any thread may ask."""
        fresh = [path for path, named in list(self._damaged.items()) if not named]
        self._damaged.update(dict.fromkeys(fresh, True))
        return [f"picture {path} is damaged and is left out; the sweep goes on" for path in fresh]

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


def _decoded(content: bytes) -> Image.Image:
    """The picture, read to its end."""
    from PIL import Image

    picture = Image.open(io.BytesIO(content))
    picture.load()
    return picture
