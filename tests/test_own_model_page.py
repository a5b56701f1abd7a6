"""docs/own_model.md from its first line to its last: its files and its five commands, with fewer steps."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image

from gbc.__main__ import main
from tests.support import ROOT, missing

PAGE = (ROOT / "docs" / "own_model.md").read_text()
FEWER = {
    "range(1000)": "range(4)", "steps: 300": "steps: 2", "report_every: 150": "report_every: 2",
    "batch_size: 128": "batch_size: 16",
}  # fmt: skip


@pytest.mark.long
def test_a_stranger_gets_from_a_checkpoint_to_a_generator(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    files = dict(re.findall(r"```(?:python|yaml)\n# (\S+)\n(.*?)```", PAGE, flags=re.DOTALL))
    assert set(files) == {"pictures.py", "net.py", "train.py", "faces.yaml", "trial.yaml"}
    for long, short in FEWER.items():
        assert any(long in content for content in files.values())
        files = {name: content.replace(long, short) for name, content in files.items()}
    for name, content in files.items():
        (tmp_path / name).write_text(content)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "net", raising=False)
    (block,) = [
        block_text for block_text in re.findall(r"```sh\n(.*?)```", PAGE, flags=re.DOTALL) if "pictures.py" in block_text
    ]
    commands = [shlex.split(line) for line in block.splitlines()]
    assert len(commands) == 5
    for script in commands[:2]:
        theirs = subprocess.run([sys.executable, *script[1:]], check=True, capture_output=True, text=True)
    accuracy = float(re.search(r"accuracy ([\d.]+)", theirs.stdout)[1])  # type: ignore[index]
    for command in commands[2:]:
        assert command[:3] == ["python", "-m", "gbc"]
        assert main(command[3:]) == 0, command
    shown = capsys.readouterr().out
    loaded = float(re.search(r"accuracy ([\d.]+)", shown)[1])  # type: ignore[index]
    assert loaded == pytest.approx(accuracy, abs=6e-4)  # printed with three digits there, with four here
    assert not missing(["last_layer", "module.head.weight"], shown)
    with Image.open(tmp_path / "grid.png") as picture:
        assert picture.mode == "RGB" and picture.width % 34 == 0
    assert torch.load(tmp_path / "faces.pt", weights_only=True)["epoch"] == 1000
