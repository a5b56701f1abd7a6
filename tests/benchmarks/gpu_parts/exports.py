"""A generator that was trained on the device: cut short and continued, exported, loaded where there is no GPU, scored again."""

from __future__ import annotations

import contextlib
import io
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

import torch
import yaml

from tests.benchmarks.harness import Column, Options, Row, pick
from tests.conftest import TINY

ABOUT: Final = "a generator trained on the device: continued from a checkpoint, exported, loaded without a GPU, scored again"
LIMIT: Final = 45.0
COLUMNS: Final = (Column("check", "check"), Column("outcome", "outcome"), Column("value", "value", ".3g"))

_WITHOUT_A_GPU: Final = """
import sys, torch
from gbc import export
assert not torch.cuda.is_available()
torch.save(export.load(sys.argv[1]).judged(), sys.argv[2])
"""


def rows(options: Options) -> Iterator[Row]:
    """A row for each check. One that fails says so, and what needs its result is left out."""
    with tempfile.TemporaryDirectory() as scratch:
        folder, file = Path(scratch, "export"), Path(scratch, "trial.yaml")
        settings = {**TINY, "device": pick(options).type}
        if not options.quick:
            settings |= {"width": 256, "channels": 32, "batch_size": 128, "steps": 60, "report_every": 15}
        file.write_text(yaml.safe_dump(settings))
        yield from _until_one_fails(
            ("a broken-off run goes on from its checkpoint", lambda: _continued(file, folder)),
            ("the export draws on the CPU what it drew on the device: largest difference", lambda: _drawn(folder, options)),
            ("the export loads where no GPU is seen, and draws the same: largest difference", lambda: _loaded(folder)),
            ("`python -m gbc evaluate` scores it: tstr/1nn", lambda: _evaluated(folder)),
        )


def _until_one_fails(*checks: tuple[str, Callable[[], float]]) -> Iterator[Row]:
    for check, measure in checks:
        try:
            yield {"check": check, "outcome": "passed", "value": measure()}
        except Exception as fault:
            reason = next(iter(str(fault).splitlines()), "")
            yield {"check": check, "outcome": f"failed: {type(fault).__name__}: {reason}", "value": None}
            return


def _continued(file: Path, folder: Path) -> float:
    """Break off a training run after its first report, and run the command again; returns the steps of the second run."""
    from gbc import checkpoint

    save = checkpoint.save

    def save_and_break_off(path: Path, *given: Any) -> None:
        save(path, *given)
        if path.suffix == ".ckpt":  # not a classifier's
            raise KeyboardInterrupt

    checkpoint.save = save_and_break_off  # type: ignore[assignment]
    try:
        code, output = _command("train", "--config", str(file), "--out", str(folder), "--cache", str(folder.parent / "cache"))
    finally:
        checkpoint.save = save
    if code != 130 or folder.exists():
        raise AssertionError(f"the run was not broken off: exit code {code}: {output.splitlines()[-1:]}")
    code, output = _command("train", "--config", str(file), "--out", str(folder), "--cache", str(folder.parent / "cache"))
    if code or "continues at step" not in output:
        raise AssertionError(f"exit code {code}: {output.splitlines()[-1:]}")
    settings = yaml.safe_load(file.read_text())
    return float(settings["steps"] - settings["report_every"])


def _drawn(folder: Path, options: Options) -> float:
    from gbc import export

    generator = export.load(folder)
    return _largest_difference(generator.judged(pick(options)).cpu(), generator.judged())


def _loaded(folder: Path) -> float:
    from gbc import export

    image_file = folder.parent / "images.pt"
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(
        [sys.executable, "-c", _WITHOUT_A_GPU, str(folder), str(image_file)], env=environment, capture_output=True, text=True
    )
    if done.returncode:
        raise AssertionError(done.stderr.strip().splitlines()[-1])
    return _largest_difference(torch.load(image_file, weights_only=True), export.load(folder).judged())


def _evaluated(folder: Path) -> float:
    code, output = _command("evaluate", "--model", str(folder), "--cache", str(folder.parent / "cache"), "--json")
    if code:
        raise AssertionError(f"exit code {code}: {output.splitlines()[-1:]}")
    return float(json.loads(output[output.index("{") :])["scores"][folder.name]["tstr/1nn"])


def _largest_difference(first: torch.Tensor, second: torch.Tensor) -> float:
    difference = float((first - second).abs().max())
    if not difference < 1e-2:  # TF32 convolutions have ten bits
        raise AssertionError(f"pixels differ by {difference:.3g}")
    return difference


def _command(*arguments: str) -> tuple[int, str]:
    """Exit code and output of `python -m gbc`."""
    from gbc.__main__ import main

    output = io.StringIO()
    with contextlib.redirect_stdout(output), contextlib.redirect_stderr(output):
        try:
            code = main(list(arguments))
        except SystemExit as end:
            code = int(end.code or 0)
    return code, output.getvalue()
