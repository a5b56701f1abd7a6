from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

from gbc import checkpoint
from gbc.errors import BadInput, CorruptFile

STATE = {"step": 3, "weights": torch.arange(6.0).view(2, 3), "history": [{"step": 3, "loss/total": 0.5}], "note": "α"}


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    path = tmp_path / "deep" / "last.ckpt"
    checkpoint.save(path, STATE)
    return path


def test_what_was_saved_is_loaded(saved: Path) -> None:
    state = checkpoint.load(saved)
    assert torch.equal(state.pop("weights"), STATE["weights"])  # type: ignore[arg-type]
    assert state == {key: value for key, value in STATE.items() if key != "weights"}
    assert [path.name for path in saved.parent.iterdir()] == ["last.ckpt"]


@pytest.mark.parametrize("at", [0.02, 0.3, 0.7, 0.999])
def test_a_flipped_bit_anywhere_is_noticed(saved: Path, at: float) -> None:
    content = bytearray(saved.read_bytes())
    content[int(len(content) * at)] ^= 4
    saved.write_bytes(content)
    with pytest.raises(CorruptFile, match="damaged"):
        checkpoint.load(saved)


@pytest.mark.parametrize("share", [0.0, 0.01, 0.5, 0.99])
def test_a_file_cut_short_is_noticed(saved: Path, share: float) -> None:
    content = saved.read_bytes()
    saved.write_bytes(content[: int(len(content) * share)])
    with pytest.raises(CorruptFile):
        checkpoint.load(saved)


def test_another_version_is_refused_by_number(saved: Path) -> None:
    saved.write_bytes(saved.read_bytes().replace(b"gbc-checkpoint 1", b"gbc-checkpoint 9", 1))
    with pytest.raises(BadInput, match=r"version 9.* 1$"):
        checkpoint.load(saved)


def test_code_in_a_checkpoint_is_never_run(tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return (open, (str(tmp_path / "owned"), "w"))  # type: ignore[return-value]

    path = tmp_path / "evil.ckpt"
    checkpoint.save(path, {"evil": Evil()})
    with pytest.raises(CorruptFile, match="unpacked"):
        checkpoint.load(path)
    assert not (tmp_path / "owned").exists()


def test_a_missing_file_and_a_folder_that_cannot_be_written_are_named(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"none\.ckpt: .*No such file"):
        checkpoint.load(tmp_path / "none.ckpt")
    (tmp_path / "file").write_text("")
    with pytest.raises(BadInput, match="file: "):
        checkpoint.save(tmp_path / "file" / "last.ckpt", STATE)


def test_an_interrupted_write_leaves_the_old_file(saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full_disk(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full_disk)
    with pytest.raises(BadInput, match="No space left"):
        checkpoint.save(saved, {"step": 4})
    assert checkpoint.load(saved)["step"] == 3
    assert [path.name for path in saved.parent.iterdir()] == ["last.ckpt"]


def test_the_one_before_is_kept_and_is_no_link_to_the_new_one(saved: Path) -> None:
    previous = saved.with_name("previous.ckpt")
    for step in (4, 5):
        checkpoint.save(saved, {"step": step}, previous)
    assert (checkpoint.load(saved)["step"], checkpoint.load(previous)["step"]) == (5, 4)
    assert saved.stat().st_ino != previous.stat().st_ino
    for _ in range(2):  # twice: renaming a file to a link of itself does nothing
        checkpoint.preserve(saved, previous)
    assert checkpoint.load(previous)["step"] == 5
    assert sorted(path.name for path in saved.parent.iterdir()) == ["last.ckpt", "previous.ckpt"]


def test_the_first_has_none_before_it(tmp_path: Path) -> None:
    checkpoint.save(tmp_path / "last.ckpt", STATE, tmp_path / "previous.ckpt")
    assert [path.name for path in tmp_path.iterdir()] == ["last.ckpt"]


def test_where_files_cannot_have_two_names_the_one_before_is_a_copy(saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_links(*_: object) -> None:
        raise OSError(1, "Operation not permitted")

    monkeypatch.setattr("os.link", no_links)
    checkpoint.save(saved, {"step": 4}, saved.with_name("previous.ckpt"))
    assert checkpoint.load(saved.with_name("previous.ckpt"))["step"] == 3
    assert sorted(path.name for path in saved.parent.iterdir()) == ["last.ckpt", "previous.ckpt"]


def test_a_temporary_file_says_who_writes_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []

    def list_writers(*_: object) -> None:
        seen.extend(checkpoint.writer_pid(path) for path in tmp_path.iterdir())

    monkeypatch.setattr("os.fsync", list_writers)
    checkpoint.save(tmp_path / "last.ckpt", STATE)
    assert seen == [os.getpid()]
    assert checkpoint.writer_pid(tmp_path / "last.ckpt") is None and checkpoint.writer_pid(tmp_path / ".lock") is None
