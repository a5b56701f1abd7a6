"""Event files as TensorBoard reads them, before and after a kill."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from tensorboardX.proto.plugin_hparams_pb2 import HParamsPluginData

from search.spec.config import SweepConfig
from search.tracking.sinks import EarlierTrial, Sinks, Written
from search.tracking.tensorboard_sink import TensorBoardSink, event_file, events
from search.worker.messages import Progress
from tests.search.conftest import tiny_sweep
from tests.search.tracking.test_step_images import leave

SETTINGS = {"lr": 0.01, "batch_size": 32, "classifier.hidden": 24}


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> SweepConfig:
    monkeypatch.chdir(tmp_path)
    return SweepConfig.parse(tiny_sweep(log_to=["tensorboard"]), "test")


@pytest.fixture
def picture(tmp_path: Path) -> bytes:
    return leave(tmp_path / "trial", 3, 200).read_bytes()


def report(step: int) -> Progress:
    return Progress(step, {"ssim/coverage": step / 100, "loss/total": 1 / step}, 1000.0 + step)


def play(config: SweepConfig, steps: tuple[int, ...], picture: bytes, outcome: str | None = None) -> TensorBoardSink:
    sink = TensorBoardSink(config)
    sink.begin_trial(0, SETTINGS)
    for step in steps:
        sink.log(0, report(step))
        sink.show(0, step, picture)
    if outcome:
        sink.end_trial(0, outcome, None)
    return sink


def values(path: Path) -> list[tuple[int, str]]:
    return [(event.step, value.tag) for event, _ in events(path) for value in event.summary.value if event.step]


def test_a_continued_file_is_that_of_an_unbroken_run(config: SweepConfig, picture: bytes) -> None:
    path = event_file("tiny", 0)
    play(config, (3, 6, 9), picture)  # and killed: nothing is closed
    whole = path.read_bytes()
    for cut in (0, 1, 20):  # in the last picture, as a full disk does
        path.write_bytes(whole[: len(whole) - cut])
        assert TensorBoardSink(config).written(0) == Written(9, 6 if cut else 9)
    sink = TensorBoardSink(config)
    assert sink.begin_trial(0, SETTINGS) == Written(9, 6)
    sink.show(0, 9, picture)
    sink.log(0, report(12))
    sink.end_trial(0, "complete", None)
    assert sink.written(0) == Written(12, 9, ended=True)
    tags = ("ssim/coverage", "loss/total", "samples")
    assert values(path) == [(step, tag) for step in (3, 6, 9) for tag in tags] + [(12, tag) for tag in tags[:2]]
    assert [file.name for file in path.parent.iterdir()] == [path.name]
    assert sum(event.file_version != "" for event, _ in events(path)) == 1


def test_zeros_that_a_power_cut_left_are_cut_off(config: SweepConfig, picture: bytes) -> None:
    path = event_file("tiny", 0)
    play(config, (3,), picture)
    whole = path.read_bytes()
    path.write_bytes(whole + bytes(64))
    TensorBoardSink(config).begin_trial(0, SETTINGS)
    assert path.read_bytes() == whole


def test_a_file_that_is_damaged_at_its_beginning_is_written_anew(config: SweepConfig, picture: bytes) -> None:
    path = event_file("tiny", 0)
    play(config, (3,), picture)
    path.write_bytes(path.read_bytes()[:60])
    sink = TensorBoardSink(config)
    assert sink.begin_trial(0, SETTINGS) == Written()
    sink.log(0, report(3))
    assert values(path) == [(3, "ssim/coverage"), (3, "loss/total")]


def test_hyper_parameters_are_those_that_are_searched_with_the_objective(config: SweepConfig, picture: bytes) -> None:
    play(config, (3,), picture, "failed")
    data: dict[str, Any] = {}
    for event, _ in events(event_file("tiny", 0)):
        for value in event.summary.value:
            if value.metadata.plugin_data.plugin_name == "hparams":
                plugin_data = HParamsPluginData.FromString(value.metadata.plugin_data.content)
                data[plugin_data.WhichOneof("data")] = getattr(plugin_data, plugin_data.WhichOneof("data"))
    assert set(data["session_start_info"].hparams) == {"lr", "batch_size"}
    assert [info.name.tag for info in data["experiment"].metric_infos] == ["ssim/coverage"]
    assert data["session_end_info"].status == 2  # STATUS_FAILURE


def test_a_trial_of_an_earlier_run_is_completed_from_its_files(config: SweepConfig, picture: bytes) -> None:
    play(config, (3, 6), picture)
    for _ in range(2):
        sinks = Sinks.of(config)
        for number in (0, 1):
            sinks.catch_up(EarlierTrial(number, SETTINGS, 9, "stopped", None, lambda: map(report, (3, 6, 9, 12))))
        sinks.close(20)
        assert sinks.news() == []
        assert [step for step, tag in values(event_file("tiny", 0)) if tag == "loss/total"] == [3, 6, 9]
        assert [step for step, tag in values(event_file("tiny", 1)) if tag == "loss/total"] == [3, 6, 9]


def test_tensorboard_reads_scalars_pictures_and_settings(config: SweepConfig, picture: bytes) -> None:
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    play(config, (3, 6), picture)
    play(config, (9,), picture, "complete")
    event_log = accumulator.EventAccumulator(str(event_file("tiny", 0).parent)).Reload()
    points = [(point.step, round(point.value, 6), point.wall_time) for point in event_log.Scalars("ssim/coverage")]
    assert points == [(3, 0.03, 1003.0), (6, 0.06, 1006.0), (9, 0.09, 1009.0)]
    assert [(image.step, image.width, image.height) for image in event_log.Images("samples")] == [
        (3, 8, 8),
        (6, 8, 8),
        (9, 8, 8),
    ]
    assert event_log.Images("samples")[0].encoded_image_string == picture
    plugins = event_log.summary_metadata
    assert {"_hparams_/experiment", "_hparams_/session_start_info", "_hparams_/session_end_info"} <= plugins.keys()
    (event,) = event_log.Tensors("settings/text_summary")
    assert b"| classifier.hidden | 24 |" in event.tensor_proto.string_val[0]
