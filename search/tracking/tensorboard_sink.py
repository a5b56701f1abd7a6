"""TensorBoard: one event file for each trial, which a continued sweep goes on with.

A report is one record of the file, written at once: it is there with all its metrics or not at all. What a kill or a full disk
cut off is dropped when the trial goes on. Only the records' format is `tensorboardX`'s, which Ray Tune brings along: its writer
cannot go on with a file.
"""

from __future__ import annotations

import io
import struct
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO, Final

from google.protobuf.message import DecodeError
from PIL import Image
from tensorboardX.proto.api_pb2 import Status
from tensorboardX.proto.event_pb2 import Event
from tensorboardX.proto.plugin_hparams_pb2 import HParamsPluginData, SessionEndInfo
from tensorboardX.proto.summary_pb2 import Summary, SummaryMetadata
from tensorboardX.record_writer import masked_crc32c
from tensorboardX.summary import hparams, text

from search.files.paths import sweep_folder
from search.spec.config import SweepConfig
from search.tracking.sinks import Written
from search.worker.messages import Progress

PICTURE_TAG: Final = "samples"
_START: Final = "_hparams_/session_start_info"
_END: Final = "_hparams_/session_end_info"
_FRAME: Final = 16  # bytes of a record beside its content: length, its checksum, and that of the content


def event_file(name: str, number: int) -> Path:
    """The event file of a trial, in a folder of its own: TensorBoard shows each folder as a run."""
    return sweep_folder(name) / "tensorboard" / f"trial-{number:04d}" / "events.out.tfevents"


class TensorBoardSink:
    """Writes event files (`search.tracking.sinks.Sink`)."""

    def __init__(self, config: SweepConfig) -> None:
        self._name, self._searched = config.name, frozenset(config.space)
        self._objectives = {objective.metric: 0.0 for objective in config.objectives}
        self._files: dict[int, BinaryIO] = {}

    def written(self, number: int) -> Written:
        """Read the trial's event file."""
        return _scan(event_file(self._name, number))[0]

    def begin_trial(self, number: int, settings: Mapping[str, Any]) -> Written:
        """Open the event file behind its last whole record; a new one begins with the settings."""
        path = event_file(self._name, number)
        path.parent.mkdir(parents=True, exist_ok=True)
        written, size = _scan(path)
        self._files[number] = file = path.open("ab", buffering=0)
        file.truncate(size)
        if size == 0:
            file.write(_record(Event(wall_time=time.time(), file_version="brain.Event:2")))
            searched = {key: value for key, value in settings.items() if key in self._searched}
            experiment, start, _ = hparams(searched, self._objectives)
            rows = "\n".join(f"| {key} | {value} |" for key, value in settings.items())
            table = text("settings", f"| setting | value |\n|---|---|\n{rows}")
            self._write(number, 0, time.time(), *experiment.value, *start.value, *table.value)
        return written

    def log(self, number: int, report: Progress) -> None:
        """Write one record with all metrics."""
        values = (Summary.Value(tag=name, simple_value=float(value)) for name, value in report.metrics.items())
        self._write(number, report.step, report.time, *values)

    def show(self, number: int, step: int, picture: bytes) -> None:
        """Write the picture as it is."""
        with Image.open(io.BytesIO(picture)) as opened:
            width, height = opened.size
            channels = len(opened.getbands())
        image = Summary.Image(height=height, width=width, colorspace=channels, encoded_image_string=picture)
        self._write(number, step, time.time(), Summary.Value(tag=PICTURE_TAG, image=image))

    def end_trial(self, number: int, outcome: str, reason: str | None) -> None:
        """Write how the trial ended, and close its file."""
        status = Status.Value("STATUS_FAILURE" if outcome == "failed" else "STATUS_SUCCESS")
        content = HParamsPluginData(session_end_info=SessionEndInfo(status=status, end_time_secs=time.time()), version=0)
        plugin = SummaryMetadata.PluginData(plugin_name="hparams", content=content.SerializeToString())
        end = Summary.Value(tag=_END, metadata=SummaryMetadata(plugin_data=plugin))
        shown = text("outcome", f"{outcome}: {reason}" if reason else outcome)
        self._write(number, 0, time.time(), end, *shown.value)
        self._files.pop(number).close()

    def close(self) -> None:
        """Close the files of trials that are open."""
        while self._files:
            self._files.popitem()[1].close()

    def _write(self, number: int, step: int, moment: float, *values: Any) -> None:
        self._files[number].write(_record(Event(wall_time=moment, step=step, summary=Summary(value=values))))


def _record(event: Any) -> bytes:
    """One event in the framing of TFRecord files."""
    content: bytes = event.SerializeToString()
    length = struct.pack("<Q", len(content))
    return b"".join((length, struct.pack("<I", masked_crc32c(length)), content, struct.pack("<I", masked_crc32c(content))))


def events(path: Path) -> Iterator[tuple[Any, int]]:
    """Yield each whole event of a file, with the position behind it."""
    data, at = path.read_bytes(), 0
    while at + _FRAME <= len(data):
        length, checksum = struct.unpack_from("<QI", data, at)
        end = at + _FRAME + length
        if checksum != masked_crc32c(data[at : at + 8]) or end > len(data):
            return  # a power cut may leave zeros
        event = Event()
        try:
            event.ParseFromString(data[at + 12 : end - 4])
        except DecodeError:
            return
        yield event, end
        at = end


def _scan(path: Path) -> tuple[Written, int]:
    """The part of a trial that a file has, and its length up to the last whole record; 0 if it does not begin as it should."""
    written, size, begun = Written(), 0, False
    for event, size in events(path) if path.exists() else ():  # noqa: B007
        tags = {value.tag for value in event.summary.value}
        begun |= _START in tags
        if _END in tags:
            written.ended = True
        elif PICTURE_TAG in tags:
            written.picture = max(written.picture, event.step)
        elif event.step:
            written.step, written.ended = max(written.step, event.step), False
    return (written, size) if begun else (Written(), 0)
