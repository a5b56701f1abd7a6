"""Weights & Biases: a run for each trial in the group of its sweep; without network where `WANDB_MODE=offline`.

A run is continued under its id, each time in a new folder. Of what was logged before a kill only the part that reached the disk
counts, so that is read, and the rest is logged again: W&B's own process writes in blocks, and dies with the driver.
"""

from __future__ import annotations

import io
import json
import netrc
import os
import secrets
import struct
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

import wandb
from google.protobuf.message import DecodeError
from PIL import Image
from wandb.proto.wandb_internal_pb2 import Record

from gbc.checkpoint import write_atomic
from gbc.errors import BadInput
from records.mlflow_store import experiment_name
from search.files.paths import sweep_folder
from search.spec.config import SweepConfig
from search.tracking.sinks import Written
from search.worker.messages import Progress

STEP: Final = "step"
PICTURE: Final = "samples"
PICTURE_STEP: Final = "samples_step"
_OUTCOME: Final = "outcome"
_BLOCK: Final = 32768
_HEADER: Final = 7  # bytes, of a file and of each piece of a record
_WHOLE, _LAST = 1, 4


class WandbSink:
    """Writes runs (`search.tracking.sinks.Sink`)."""

    def __init__(self, config: SweepConfig) -> None:
        self._folder, self._group = sweep_folder(config.name).resolve(), config.name
        self._project = os.environ.get("WANDB_PROJECT") or experiment_name(config.dataset)
        self._identity = _identity(self._folder / "wandb" / "sweep-id")
        self._runs: dict[int, Any] = {}
        # Nothing of the machine, the command line and the code leaves: they may hold secrets, and MLflow has their digests.
        self._settings = wandb.Settings(
            console="off", silent=True, save_code=False, disable_code=True, disable_git=True, disable_job_creation=True,
            x_disable_meta=True, x_disable_stats=True, x_disable_machine_info=True, x_save_requirements=False,
        )  # fmt: skip

    def written(self, number: int) -> Written:
        """Read the files that earlier runs of the sweep left."""
        return written(self._folder / "wandb", self._id(number))

    def begin_trial(self, number: int, settings: Mapping[str, Any]) -> Written:
        """Open the run of the trial under the id that it always has."""
        on_disk = self.written(number)
        self._runs[number] = run = wandb.init(
            project=self._project, group=self._group, name=f"trial-{number:04d}", id=self._id(number), job_type="trial",
            dir=str(self._folder), config=dict(settings), resume="allow", reinit="create_new", settings=self._settings,
        )  # fmt: skip
        # Without `step_sync`, or a picture's row would repeat the last report's step.
        run.define_metric("*", step_metric=STEP, step_sync=False)
        run.define_metric(PICTURE, step_metric=PICTURE_STEP, step_sync=False)
        if run.resumed:  # online: the server may have more than the disk
            on_disk.step = max(on_disk.step, int(run.summary.get(STEP) or 0))
            on_disk.picture = max(on_disk.picture, int(run.summary.get(PICTURE_STEP) or 0))
        return on_disk

    def log(self, number: int, report: Progress) -> None:
        """Log one row with all metrics."""
        self._runs[number].log({**report.metrics, STEP: report.step})

    def show(self, number: int, step: int, picture: bytes) -> None:
        """Log a row of its own: W&B's rows cannot be added to once there is a later one."""
        with Image.open(io.BytesIO(picture)) as opened:
            self._runs[number].log({PICTURE: wandb.Image(opened, caption=f"step {step}"), PICTURE_STEP: step})

    def end_trial(self, number: int, outcome: str, reason: str | None) -> None:
        """Put the outcome into the run's summary, and finish the run."""
        run = self._runs.pop(number)
        run.summary.update({_OUTCOME: outcome, **({"reason": reason} if reason else {})})
        run.finish(exit_code=1 if outcome == "failed" else 0)

    def close(self) -> None:
        """Finish the runs of open trials, which are continued by their id, and end W&B's process: it may still be writing."""
        while self._runs:
            self._runs.popitem()[1].finish()
        wandb.teardown()

    def _id(self, number: int) -> str:
        return f"{self._identity}-{number:04d}"


def check_login() -> None:
    """Refuse W&B online without a key: it would ask for one in the middle of the sweep. No server is asked.

    Raises:
        BadInput: there is none.
    """
    settings = wandb.setup().settings
    if settings.mode != "online" or settings.api_key or os.environ.get("WANDB_IDENTITY_TOKEN_FILE"):
        return
    try:
        logins = netrc.netrc(Path(os.environ.get("NETRC", "~/.netrc")).expanduser())
    except (OSError, netrc.NetrcParseError):
        logins = None
    hosts = (urlsplit(settings.base_url).netloc, "api.wandb.ai")  # `wandb login` of earlier versions wrote the latter
    if logins is None or not any(logins.authenticators(host) for host in hosts):
        raise BadInput("--log-to wandb has no key; run `wandb login`, set WANDB_API_KEY, or set WANDB_MODE=offline")


def written(folder: Path, identity: str) -> Written:
    """The part of a run that is on disk in W&B's `folder`, in the files of all processes that continued it."""
    on_disk = Written()
    files = (path for kind in ("run", "offline-run") for path in folder.glob(f"{kind}-*/run-{identity}.wandb"))
    for path in sorted(files, key=lambda path: path.parent.name.removeprefix("offline-")):
        for record in records(path):
            row = _values(record.history.item)
            if STEP in row:
                on_disk.step, on_disk.ended = max(on_disk.step, int(row[STEP])), False
            on_disk.picture = max(on_disk.picture, int(row.get(PICTURE_STEP, 0)))
            on_disk.ended |= _OUTCOME in _values(record.summary.update)
    return on_disk


def records(path: Path) -> Iterator[Any]:
    """Yield each whole record of a `.wandb` file, which has the format of LevelDB's log."""
    data, at, content = path.read_bytes(), _HEADER, b""
    while at + _HEADER <= len(data):
        left = _BLOCK - at % _BLOCK
        _, length, kind = struct.unpack_from("<IHB", data, at)
        if left < _HEADER or kind == 0:  # no piece begins so near the end of a block
            at += left
            continue
        start, at = at + _HEADER, at + _HEADER + length
        if at > len(data):
            return
        content += data[start:at]
        if kind in (_WHOLE, _LAST):
            record, encoded, content = Record(), content, b""
            try:
                record.ParseFromString(encoded)
            except DecodeError:
                return
            yield record


def _values(items: Any) -> dict[str, Any]:
    """Values of a row or a summary by name, without those that have parts."""
    names = ((item.key or (item.nested_key[0] if len(item.nested_key) == 1 else ""), item.value_json) for item in items)
    return {name: json.loads(value) for name, value in names if name in (STEP, PICTURE_STEP, _OUTCOME)}


def _identity(path: Path) -> str:
    """The part that ids of the sweep's runs share. W&B takes an id once, so another sweep of this name needs another."""
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(path, secrets.token_hex(4).encode())
    return path.read_text()
