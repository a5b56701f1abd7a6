"""Weights & Biases without a network: what is in its files after a kill and a restart, and what is not."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from gbc.errors import BadInput
from search.spec.config import SweepConfig
from search.tracking.sinks import EarlierTrial, Sinks, Written
from search.worker.messages import Progress
from tests.search.conftest import tiny_sweep
from tests.search.tracking.test_step_images import leave
from tests.support import missing

wandb = pytest.importorskip("wandb")

FOLDER = Path("mlruns/sweeps/tiny/wandb")
SETTINGS = {"lr": 0.01, "classifier.hidden": 24}


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[SweepConfig]:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("WANDB_MODE", "offline")
    for name in ("WANDB_API_KEY", "WANDB_PROJECT", "NETRC"):
        monkeypatch.delenv(name, raising=False)
    wandb.teardown()  # it reads the environment once
    yield SweepConfig.parse(tiny_sweep(log_to=["wandb"]), "test")
    wandb.teardown()


def report(step: int) -> Progress:
    return Progress(step, {"ssim/coverage": step / 100, "loss/total": 1 / step})


def run_ids() -> set[str]:
    return {path.stem for path in FOLDER.glob("offline-run-*/*.wandb")}


def rows(key: str, number: int = 0) -> list[int]:
    """Values of a whole number in the rows of a trial, in the order in which `wandb sync` sends them."""
    from search.tracking.wandb_sink import records

    files = sorted(FOLDER.glob(f"offline-run-*/run-*-{number:04d}.wandb"), key=lambda path: path.parent.name)
    items = (item for path in files for record in records(path) for item in record.history.item)
    return [int(item.value_json) for item in items if list(item.nested_key) == [key] or item.key == key]


def test_a_continued_trial_is_one_run_with_no_step_twice(config: SweepConfig, tmp_path: Path) -> None:
    picture = leave(tmp_path / "trial", 3, 200).read_bytes()
    for steps in ((1, 2, 3), (2, 3, 4, 5)):
        sinks = Sinks.of(config)
        sinks.begin_trial(0, SETTINGS)
        sinks.begin_trial(1, SETTINGS)
        sinks.log(0, map(report, steps))
        sinks.log(1, [report(steps[-1])])
        sinks.show(0, 3, picture)
        sinks.close(60)
        assert sinks.news() == []
    sinks = Sinks.of(config)
    for number in (0, 2):
        sinks.catch_up(EarlierTrial(number, SETTINGS, 6, "failed", "diverged", lambda: map(report, range(1, 9))))
    sinks.close(60)
    assert sinks.news() == []
    assert len(run_ids()) == 3
    assert rows("step") == [1, 2, 3, 4, 5, 6] == rows("step", 2) and rows("samples_step") == [3]
    assert rows("step", 1) == [3, 5]
    assert len(list(FOLDER.rglob("*.png"))) == 1
    before = sorted(FOLDER.iterdir())
    sinks = Sinks.of(config)
    sinks.catch_up(EarlierTrial(0, SETTINGS, 6, "failed", "diverged", lambda: map(report, range(1, 9))))
    sinks.close(60)
    assert sorted(FOLDER.iterdir()) == before


def test_what_a_kill_kept_from_the_disk_is_logged_again(config: SweepConfig) -> None:
    from search.tracking.wandb_sink import WandbSink

    sink = WandbSink(config)
    sink.begin_trial(0, SETTINGS)
    for step in range(1, 301):
        sink.log(0, Progress(step, {f"loss/{name}": 1 / step for name in range(10)}))
    sink.close()
    (path,) = FOLDER.glob("offline-run-*/*.wandb")
    data = path.read_bytes()
    assert len(data) > 3 * 32768  # so that records lie across its blocks
    assert sink.written(0) == Written(300)
    for size in (0, 7, 32768, 32768 + 5):  # W&B's process writes in blocks, and dies with the driver
        path.write_bytes(data[:size])
        kept = sink.written(0).step
        assert rows("step") == list(range(1, kept + 1)) and (kept > 20) == (size > 7)
    sinks = Sinks.of(config)
    sinks.catch_up(EarlierTrial(0, SETTINGS, 310, "complete", None, lambda: map(report, range(1, 311))))
    sinks.close(60)
    assert sinks.news() == []
    assert rows("step") == list(range(1, 311))
    assert sink.written(0) == Written(310, 0, ended=True)
    assert len(run_ids()) == 1


def test_nothing_secret_is_in_the_files(config: SweepConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["search/run.py", "--study-url", "postgresql://me:pa55word@db/x"])
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "pa55word2")
    sinks = Sinks.of(config)
    sinks.begin_trial(0, {"lr": 0.1, "card": "https://me:pa55word@host/card.yaml"})
    sinks.log(0, [report(1)])
    sinks.end_trial(0, "failed", "no answer from https://me:pa55word@host, key pa55word2")
    sinks.close(60)
    texts = {path: path.read_bytes() for path in FOLDER.rglob("*") if path.is_file()}
    assert any(b"https://me@host/card.yaml" in text for text in texts.values())
    assert [path for path, text in texts.items() if b"pa55word" in text] == []


def test_online_without_a_key_is_refused_before_anything_starts(config: SweepConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    from search.tracking.sinks import check

    check(config)
    monkeypatch.setenv("WANDB_MODE", "online")
    wandb.teardown()
    with pytest.raises(BadInput) as fault:
        check(config)
    assert not missing(["--log-to wandb", "WANDB_API_KEY", "WANDB_MODE=offline"], fault.value)
    Path(".netrc").write_text("machine api.wandb.ai login user password abc\n")
    check(config)
