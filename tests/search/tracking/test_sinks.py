"""Sinks beside MLflow: what they get, what of it they have after a kill, and that none of them can harm a sweep."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from gbc.errors import BadInput
from search.spec.config import SweepConfig
from search.spec.flags import sink_names
from search.tracking import sinks as module
from search.tracking.async_writer import AsyncWriter
from search.tracking.sinks import EarlierTrial, Sink, Sinks, SinkThread, Written, check, shown_settings
from search.tracking.tracker import Tracker
from search.worker.messages import Progress
from tests.search.conftest import tiny_sweep
from tests.search.tracking.test_step_images import leave
from tests.support import missing
from tests.support.stores import lay_down_store


class Lines:
    """A sink that writes lines into a list, which outlives it as a file would."""

    def __init__(self, lines: list[str], fails_at: str = "", gate: threading.Event | None = None) -> None:
        self.lines, self.fails_at, self.gate = lines, fails_at, gate

    def write(self, line: str) -> None:
        if self.gate is not None:
            self.gate.wait()
        if self.fails_at and self.fails_at in line:
            raise OSError(f"cannot write {line} to http://me:pa55word@host/x")
        self.lines.append(line)

    def written(self, number: int) -> Written:
        own_lines = [line.split() for line in self.lines if line.startswith(f"{number} ")]
        steps = [int(fields[2]) for fields in own_lines if fields[1] == "step"]
        return Written(max(steps, default=0), 0, any(fields[1] == "end" for fields in own_lines))

    def begin_trial(self, number: int, settings: Mapping[str, Any]) -> Written:
        self.write(f"{number} begin {' '.join(f'{key}={value}' for key, value in settings.items())}".strip())
        return self.written(number)

    def log(self, number: int, report: Progress) -> None:
        self.write(f"{number} step {report.step}")

    def show(self, number: int, step: int, picture: bytes) -> None:
        self.write(f"{number} picture {step} {picture[1:4].decode()}")

    def end_trial(self, number: int, outcome: str, reason: str | None) -> None:
        self.write(f"{number} end {outcome} {reason}")

    def close(self) -> None:
        self.write("close")


def report(step: int) -> Progress:
    return Progress(step, {"loss/total": 1 / step}, float(step))


def written_to(make: Callable[[], Sink]) -> tuple[Sinks, SinkThread]:
    thread = SinkThread("lines", make)
    return Sinks([thread]), thread


@pytest.fixture
def tracker(config: SweepConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Tracker:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    lay_down_store(tmp_path)
    tracker = Tracker(config, {})
    tracker.load_runs()
    return tracker


def test_a_sink_gets_what_mlflow_has_in_its_order_and_no_step_twice(tracker: Tracker, tmp_path: Path) -> None:
    lines: list[str] = []
    sinks, _ = written_to(partial(Lines, lines))
    writer, folder = AsyncWriter(tracker, sinks), tmp_path / "trial"
    leave(folder, 2, 100)
    writer.open_trial(0, {"lr": 0.1, "classifier": {"weights": "https://me:pa55word@host/w"}}, 7)
    for step in (1, 2, 1, 2, 3):  # a worker that took over says again what the one before it said
        writer.log(0, report(step))
    writer.show(0, folder)
    writer.close_trial(0, "failed", "no answer from https://me:pa55word@host/w", folder / "none", folder / "none", 0)
    writer.drain(20)
    sinks.close(20)
    begin, *others = lines
    assert begin == "0 begin lr=0.1 classifier.weights=https://me@host/w repeats=7"
    assert others == [
        "0 step 1", "0 step 2", "0 step 3", "0 picture 2 PNG", "0 end failed no answer from https://me@host/w", "close",
    ]  # fmt: skip
    assert sinks.news() == [] and not list(folder.iterdir())


def test_a_sink_that_fails_is_off_and_mlflow_has_everything(tracker: Tracker, tmp_path: Path) -> None:
    broken, whole = list[str](), list[str]()
    sinks = Sinks([
        SinkThread("first", partial(Lines, broken, "step 2")),
        SinkThread("second", partial(Lines, whole)),
        SinkThread("third", partial(int, "no number")),  # type: ignore[arg-type]
    ])  # fmt: skip
    writer = AsyncWriter(tracker, sinks)
    writer.open_trial(0, {"lr": 0.1})
    for step in range(1, 6):
        writer.log(0, report(step))
    writer.close_trial(0, "complete", None, tmp_path / "none", tmp_path / "none", 0)
    writer.drain(20)
    sinks.close(20)
    assert not tracker.lacks(0, 5, finished=True)
    assert broken == ["0 begin lr=0.1", "0 step 1"] and whole[-3:] == ["0 step 5", "0 end complete None", "close"]
    first, third = sinks.news()
    assert not missing(["first", "OSError", "0 step 2", "http://me@host/x"], first) and "pa55word" not in first
    assert not missing(["third", "ValueError"], third)
    assert sinks.news() == []


def test_a_sink_that_hangs_holds_up_nobody(tracker: Tracker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_MOST_WAITING", 50)
    gate, lines = threading.Event(), list[str]()
    sinks, thread = written_to(partial(Lines, lines, "", gate))
    writer, began = AsyncWriter(tracker, sinks), time.perf_counter()
    writer.open_trial(0, {"lr": 0.1})
    for step in range(1, 101):
        writer.log(0, report(step))
    writer.drain(20)
    (line,) = sinks.news()
    assert not missing(["lines", "50"], line)
    sinks.close(0.1)
    assert tracker.last_step(0) == 100 and thread._jobs.qsize() <= 2
    gate.set()
    assert time.perf_counter() - began < 15  # a sink that is waited for would never return
    slow, _ = written_to(partial(Lines, [], "", threading.Event()))
    slow.begin_trial(0, {})
    slow.close(0.1)
    assert len(slow.news()) == 1


def test_a_sink_catches_up_with_what_it_lacks_and_reads_files_for_that_alone() -> None:
    lines = ["0 begin", "0 step 1", "1 begin", "1 step 3", "1 end complete None", "2 begin", "2 step 2"]
    asked = []

    def reports(number: int) -> list[Progress]:
        asked.append(number)
        return [report(step) for step in (1, 2, 3, 4)]

    def earlier(number: int, last_step: int, outcome: str | None) -> EarlierTrial:
        return EarlierTrial(number, {}, last_step, outcome, None, partial(reports, number))

    for _ in range(2):  # the second time there is nothing left to do
        sinks, _ = written_to(partial(Lines, lines))
        for trial in (earlier(0, 3, "stopped"), earlier(1, 3, "complete"), earlier(2, 2, None), earlier(3, 2, None)):
            sinks.catch_up(trial)
        sinks.close(20)
    assert asked == [0, 3] and lines.count("close") == 2
    assert [line for line in lines if line.startswith("0")] == [
        "0 begin", "0 step 1", "0 begin", "0 step 2", "0 step 3", "0 end stopped None",
    ]  # fmt: skip
    assert [line for line in lines if line.startswith("3")] == ["3 begin", "3 step 1", "3 step 2"]
    assert [line for line in lines if line[0] in "12"] == [
        "1 begin", "1 step 3", "1 end complete None", "2 begin", "2 step 2",
    ]  # fmt: skip


def test_settings_are_shown_without_secrets() -> None:
    shown = shown_settings({"lr": 0.1, "dataset": {"path": "s3://key:sec12ret@bucket/a"}, "card": None})
    assert shown == {"lr": 0.1, "dataset.path": "s3://bucket/a", "card": None}


def test_log_to_may_change_and_is_on_record_only_when_there_is_a_sink() -> None:
    plain, logged = (SweepConfig.parse(tiny_sweep(log_to=names), "test") for names in ([], ["tensorboard"]))
    assert logged.differences(plain) == {} and "log_to" not in plain.record()
    assert logged.record()["log_to"] == ["tensorboard"]
    assert sink_names("wandb, tensorboard,wandb") == ["wandb", "tensorboard"] and sink_names("none") == []
    with pytest.raises(BadInput) as fault:
        SweepConfig.parse(tiny_sweep(log_to=["mlflow"]), "test")
    assert not missing(["log_to", "tensorboard", "wandb"], fault.value)


@pytest.mark.parametrize("name", ["tensorboard", "wandb"])
def test_a_package_that_is_not_installed_is_named_with_its_extra(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "find_spec", lambda _: None)
    with pytest.raises(BadInput) as fault:
        check(SweepConfig.parse(tiny_sweep(log_to=[name]), "test"))
    assert not missing([f"--log-to {name}", f"pip install '.[{name}]'"], fault.value)
