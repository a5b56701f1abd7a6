"""The work of a worker, in process."""

from __future__ import annotations

import gc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from gbc import checkpoint
from gbc.config import TrialConfig
from gbc.errors import DIVERGED
from gbc.training.trainer import Trainer
from search.files.paths import CHECKPOINT, LOG, PICTURE, PREVIOUS, step_picture
from search.worker.messages import Assignment, Failed, Message, OutOfMemory, Progress
from search.worker.trial import train


def assign(settings: TrialConfig, classifier_cache: Path, tmp_path: Path) -> Assignment:
    return Assignment(
        number=7,
        acknowledged=0,
        settings=settings.model_dump(mode="json"),
        folder=str(tmp_path / "trials" / "0007"),
        cache=str(classifier_cache),
        storage=None,
        threads=1,
        hang_limit=60.0,
        hang_report=str(tmp_path / "hang"),
    )


@pytest.fixture
def assignment(settings: TrialConfig, classifier_cache: Path, tmp_path: Path) -> Assignment:
    return assign(settings, classifier_cache, tmp_path)


def plain(messages: list[Message]) -> list[tuple[int, dict[str, float]]]:
    """Steps and metrics without those of the machine."""
    reports = [message for message in messages if isinstance(message, Progress)]
    return [
        (report.step, {name: value for name, value in report.metrics.items() if not name.startswith(("time/", "system/"))})
        for report in reports
    ]


def take(assignment: Assignment, count: int, **changes: Any) -> list[Message]:
    messages = []
    for message in train(Assignment(**{**assignment, **changes})):  # type: ignore[typeddict-item]
        messages.append(message)
        if len(messages) == count:
            break
    return messages


@pytest.fixture(scope="module")
def unbroken(settings: TrialConfig, classifier_cache: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Message]:
    return take(assign(settings, classifier_cache, tmp_path_factory.mktemp("reference")), 99)


def test_a_trial_reports_and_leaves_a_checkpoint_and_a_picture(assignment: Assignment, unbroken: list[Message]) -> None:
    messages = take(assignment, 99)
    reports = [message for message in messages if isinstance(message, Progress)]
    assert [report.step for report in reports] == [3, 6, 9, 12] and len(messages) == 4
    assert plain(messages) == plain(unbroken)
    assert sorted(path.name for path in Path(assignment["folder"]).iterdir()) == [
        CHECKPOINT,
        PREVIOUS,
        *(step_picture(step) for step in (3, 6, 9, 12)),
        PICTURE,
    ]
    assert all(report.metrics["system/system_memory_usage_megabytes"] > 100 for report in reports)


@pytest.mark.parametrize("killed_after", [1, 2, 3])
def test_saved_reports_that_nobody_saw_come_first(assignment: Assignment, unbroken: list[Message], killed_after: int) -> None:
    """Killed between saving and reporting: the ledger has one report less than the checkpoint."""
    take(assignment, killed_after)
    acknowledged = 3 * (killed_after - 1)
    messages = take(assignment, 99, acknowledged=acknowledged)
    assert plain(messages) == plain(unbroken)[killed_after - 1 :]


def test_reports_that_were_seen_are_not_repeated(assignment: Assignment, unbroken: list[Message]) -> None:
    take(assignment, 2)
    assert plain(take(assignment, 99, acknowledged=6)) == plain(unbroken)[2:]


def cut_short(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def flip_a_bit(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


@pytest.fixture
def steps_taken(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Each optimiser step that is taken, by number."""
    taken: list[int] = []
    step = Trainer.step

    def counted(trainer: Trainer) -> None:
        taken.append(trainer.step_count)
        step(trainer)

    monkeypatch.setattr(Trainer, "step", counted)
    return taken


@pytest.mark.parametrize("damage", [cut_short, flip_a_bit])
def test_a_damaged_checkpoint_costs_one_report_but_no_number(
    assignment: Assignment, unbroken: list[Message], damage: Callable[[Path], None], steps_taken: list[int]
) -> None:
    """Equal bit for bit; the file that was damaged is not the one that the next run goes on from either."""
    take(assignment, 3)
    folder = Path(assignment["folder"])
    damage(folder / CHECKPOINT)
    steps_taken.clear()
    assert plain(take(assignment, 99, acknowledged=9)) == plain(unbroken)[3:]
    assert steps_taken == list(range(6, 12))
    assert checkpoint.load(folder / CHECKPOINT)["trainer"]["step"] == 12
    assert checkpoint.load(folder / PREVIOUS)["trainer"]["step"] == 9


def test_two_damaged_checkpoints_cost_time_but_no_number(assignment: Assignment, unbroken: list[Message]) -> None:
    take(assignment, 2)
    for name in (CHECKPOINT, PREVIOUS):
        cut_short(Path(assignment["folder"]) / name)
    assert plain(take(assignment, 99, acknowledged=6)) == plain(unbroken)[2:]


def test_a_trial_killed_before_its_checkpoint_was_moved_into_place_goes_on(
    assignment: Assignment, unbroken: list[Message], monkeypatch: pytest.MonkeyPatch
) -> None:
    """At that moment the last checkpoint and the one before are one file with two names."""
    take(assignment, 2)

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "write_atomic", killed)
        with pytest.raises(KeyboardInterrupt):
            checkpoint.save(Path(assignment["folder"]) / CHECKPOINT, {}, Path(assignment["folder"]) / PREVIOUS)
    assert plain(take(assignment, 99, acknowledged=6)) == plain(unbroken)[2:]


def test_an_error_leaves_a_traceback(assignment: Assignment, monkeypatch: pytest.MonkeyPatch) -> None:
    log = Path(assignment["folder"]) / LOG

    def broken(*_: object) -> None:
        raise ZeroDivisionError("on purpose")

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "step", broken)
        with pytest.raises(ZeroDivisionError):  # Ray's to handle: another worker may do better
            take(assignment, 1)
    assert log.read_text().startswith("Traceback") and log.read_text().endswith("ZeroDivisionError: on purpose\n")


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        (torch.OutOfMemoryError, "CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 1 GiB."),
        (RuntimeError, "CUDA error: out of memory\nCUDA kernel errors might be reported asynchronously."),
        (RuntimeError, "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
        (RuntimeError, "CUDA error: CUBLAS_STATUS_NOT_INITIALIZED when calling `cublasCreate(handle)`"),
        (RuntimeError, "cuDNN error: CUDNN_STATUS_NOT_INITIALIZED"),
    ],
)
def test_a_gpu_without_memory_is_told_by_whoever_finds_it(
    assignment: Assignment, monkeypatch: pytest.MonkeyPatch, kind: type[RuntimeError], message: str
) -> None:
    """torch's allocator, the driver, or a library that allocates for itself."""

    def without_room(*_: object) -> None:
        raise kind(message)

    monkeypatch.setattr(Trainer, "step", without_room)
    assert take(assignment, 99) == [OutOfMemory(message.splitlines()[0].partition(". ")[0])]


@pytest.mark.parametrize(
    "message", ["CUDA error: an illegal memory access was encountered", "mat1 and mat2 cannot be multiplied"]
)
def test_another_fault_of_a_gpu_is_no_lack_of_memory(
    assignment: Assignment, monkeypatch: pytest.MonkeyPatch, message: str
) -> None:
    def broken(*_: object) -> None:
        raise RuntimeError(message)

    monkeypatch.setattr(Trainer, "step", broken)
    with pytest.raises(RuntimeError, match=message):
        take(assignment, 1)


def test_a_trial_that_ended_leaves_no_memory_to_the_next_one(assignment: Assignment) -> None:
    """Ray gives the same process another trial."""
    gc.collect()
    gc.disable()
    try:
        take(assignment, 99)
        take(assignment, 1, folder=f"{assignment['folder']}-stopped")
        assert not [trainer for trainer in gc.get_objects() if isinstance(trainer, Trainer)]
    finally:
        gc.enable()


def test_a_trial_that_diverges_says_so_in_a_last_message(assignment: Assignment) -> None:
    settings = {**assignment["settings"], "lr": 1.0, "beta": 1e6, "tv_weight": 1e6}
    *_, last = take(assignment, 99, settings={**settings, "alpha_init": -50.0, "delta": 1e-3})
    assert isinstance(last, Failed) and last.reason.startswith(DIVERGED)
    assert f"gbc.errors.Diverged: {last.reason}" in (Path(assignment["folder"]) / LOG).read_text()


def test_a_checkpoint_of_other_settings_is_not_overwritten(assignment: Assignment) -> None:
    take(assignment, 1)
    before = (Path(assignment["folder"]) / CHECKPOINT).read_bytes()
    (message,) = take(assignment, 99, settings={**assignment["settings"], "lr": 0.5})
    assert isinstance(message, Failed) and "settings" in message.reason
    assert (Path(assignment["folder"]) / CHECKPOINT).read_bytes() == before
