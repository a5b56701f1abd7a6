from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from gbc import checkpoint
from records.format import size
from records.trial import TrialRecord
from search.driver.retention import CheckpointRetention, bytes_on_disk, read_history, stale_files
from search.files import storage
from search.files.paths import CHECKPOINT, HISTORY, PREVIOUS, trial_folder
from search.spec.config import SweepConfig
from tests.search.conftest import tiny_sweep


def trial_record(number: int, state: str, value: float = 0.0, reason: str | None = None) -> TrialRecord:
    return TrialRecord(number, {}, state, {3: value, 6: value}, None, reason)


def sweep_of(**changes: object) -> SweepConfig:
    return SweepConfig.parse(tiny_sweep(**changes), "test")


def fill(sweep: Path, numbers: range) -> None:
    for number in numbers:
        folder = trial_folder(sweep, number)
        for step in (3, 6):
            history = [{"step": row, "loss/total": row / 7} for row in range(3, step + 1, 3)]
            state = {"settings": {"seed": number}, "history": history, "trainer": {"weights": torch.zeros(100)}}
            checkpoint.save(folder / CHECKPOINT, state, folder / PREVIOUS)


def left(sweep: Path, number: int) -> list[str]:
    return sorted(path.name for path in trial_folder(sweep, number).iterdir())


def test_what_may_be_needed_stays_and_everything_else_leaves_its_history(tmp_path: Path) -> None:
    entries = [
        trial_record(0, "complete", 0.1), trial_record(1, "complete", 0.3), trial_record(2, "complete", 0.2),
        trial_record(3, "stopped", 0.9), trial_record(4, "running"),
        trial_record(5, "failed", reason="diverged: loss/tv was not finite at step 9"),
        trial_record(6, "failed", reason="MemoryError"),
    ]  # fmt: skip
    fill(tmp_path, range(7))
    for _ in range(2):
        CheckpointRetention(tmp_path, sweep_of(keep=2)).delete_unneeded(entries)
    assert left(tmp_path, 0) == left(tmp_path, 3) == left(tmp_path, 5) == [HISTORY]
    assert left(tmp_path, 1) == left(tmp_path, 2) == left(tmp_path, 6) == [CHECKPOINT]
    assert left(tmp_path, 4) == [CHECKPOINT, PREVIOUS]
    record, damaged = read_history(trial_folder(tmp_path, 3))
    assert record is not None and record.settings == {"seed": 3} and not damaged
    assert record.history == [{"step": 3, "loss/total": 3 / 7}, {"step": 6, "loss/total": 6 / 7}]  # the same numbers

    # Trial 0 would be the best; what is gone is gone.
    CheckpointRetention(tmp_path, sweep_of(keep=1, objective={"metric": "kkt/rho", "direction": "min"})).delete_unneeded(
        entries
    )
    assert left(tmp_path, 1) == left(tmp_path, 2) == [HISTORY]


@pytest.mark.parametrize(("keep", "kept"), [(1, {1, 2, 3}), (4, {1, 2, 3, 4}), (5, {0, 1, 2, 3, 4})])
def test_a_front_is_kept_whole_and_then_the_best_by_the_first_objective(keep: int, kept: set[int], tmp_path: Path) -> None:
    two = {"second_objective": {"metric": "kkt/rho", "direction": "min"}, "scheduler": {"name": "none"}}
    #         beaten      on it       on it       on it       beaten, and better than 0 by the first
    points = [(0.1, 0.9), (0.2, 0.1), (0.6, 0.8), (0.4, 0.5), (0.3, 0.6)]
    entries = [replace(trial_record(number, "complete", first), second=rho) for number, (first, rho) in enumerate(points)]
    fill(tmp_path, range(5))
    CheckpointRetention(tmp_path, sweep_of(keep=keep, **two)).delete_unneeded(entries)
    assert {number for number in range(5) if left(tmp_path, number) == [CHECKPOINT]} == kept


def test_the_one_before_stays_when_the_last_checkpoint_of_the_best_is_damaged(tmp_path: Path) -> None:
    fill(tmp_path, range(1))
    path = trial_folder(tmp_path, 0) / CHECKPOINT
    path.write_bytes(path.read_bytes()[:-9])
    CheckpointRetention(tmp_path, sweep_of(keep=1)).delete_unneeded([trial_record(0, "complete")])
    assert left(tmp_path, 0) == [CHECKPOINT, PREVIOUS]
    record, damaged = read_history(path.parent)
    assert damaged == [path] and record is not None and len(record.history) == 1


def test_a_damaged_history_is_named(tmp_path: Path) -> None:
    assert read_history(tmp_path) == (None, [])
    for text in ("{", json.dumps({"settings": {}}), "[]"):
        (tmp_path / HISTORY).write_text(text)
        assert read_history(tmp_path) == (None, [tmp_path / HISTORY])


def test_a_file_with_two_names_takes_its_room_once(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"x" * 1000)
    os.link(tmp_path / "a", tmp_path / "b")
    (tmp_path / ".ray").mkdir()
    (tmp_path / ".ray" / "c").write_bytes(b"x" * 1000)
    assert bytes_on_disk(tmp_path) == 1000


def test_only_files_of_dead_processes_are_left_over(tmp_path: Path) -> None:
    child = subprocess.Popen([sys.executable, "-c", ""])
    child.wait()
    folder = trial_folder(tmp_path, 0)
    folder.mkdir(parents=True)
    dead, alive = folder / f".last.ckpt.{child.pid}-x1", folder / f".last.ckpt.{os.getpid()}-x1"
    for path in (dead, alive, tmp_path / ".lock", tmp_path / ".gitignore", folder / CHECKPOINT):
        path.write_text("")
    (tmp_path / ".ray" / "run").mkdir(parents=True)
    assert stale_files(tmp_path) == [tmp_path / ".ray", dead]
    for path in stale_files(tmp_path):
        storage.delete(path)
    assert (
        stale_files(tmp_path) == [] and alive.exists() and (tmp_path / ".lock").exists() and (tmp_path / ".gitignore").exists()
    )


@pytest.mark.parametrize(("count", "text"), [(12, "12 B"), (34_500, "34 kB"), (5_600_000, "6 MB"), (7.25e9, "7.2 GB")])
def test_sizes_are_written_for_people(count: float, text: str) -> None:
    assert size(count) == text
