"""Sweeps as calls from Python."""

from __future__ import annotations

import builtins
import io
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

import search
from gbc.errors import BadInput
from search.files.paths import sweep_folder
from search.library import _console, requested
from search.run import main
from search.spec import flags
from search.spec.config import SweepConfig
from tests.conftest import TINY
from tests.support import ROOT, missing

RUN_NOTEBOOK = """
import ast, asyncio, io, json, os, signal, sys, threading

cells, replaced = json.load(open(sys.argv[1])), json.loads(sys.argv[2])

class Captured(io.StringIO):  # without a file descriptor, as a kernel's
    interrupted = False

    def write(self, text):
        if "step 3/" in text and not self.interrupted:
            self.interrupted = True
            os.kill(os.getpid(), signal.SIGINT)
        return super().write(text)

def run(cell, names):
    tree = ast.parse(cell)
    shown = ast.Expression(tree.body.pop().value) if isinstance(tree.body[-1], ast.Expr) else None
    exec(compile(tree, "cell", "exec"), names)
    return shown and eval(compile(shown, "cell", "eval"), names)

async def kernel(names):
    values, faults = [], []
    for cell in cells:
        try:
            values.append(run(cell, names))
        except KeyboardInterrupt as fault:
            faults.append(f"{type(fault).__name__}: {fault}")
            values.append(await asyncio.to_thread(run, cell, names))
        if len(values) == 1:
            names |= replaced
    return values, faults

sys.stdout = captured = Captured()
names = {}
values, faults = asyncio.run(kernel(names))
run(cells[1], names)  # it has ended already
import search
result, frame = names["result"], names["trials"]
sys.stdout = sys.__stdout__
print(json.dumps({
    "faults": faults, "said": captured.getvalue(), "best": result.best._asdict(), "picture": result.picture.size,
    "columns": list(frame.columns), "steps": frame["step"].to_list(), "index": frame.index.to_list(),
    "rates": frame["lr"].to_dict(), "scores": frame["ssim/coverage"].to_dict(), "images": list(names["images"].shape),
    "text": repr(result), "read": search.read_sweep("notebook") == result, "values": len(values),
    "threads": [thread.name for thread in threading.enumerate()],
}))
"""


@pytest.fixture(autouse=True)
def _in_a_new_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)


@pytest.mark.sweep
@pytest.mark.long
def test_the_notebook_runs_and_its_sweep_is_resumed_by_the_same_cell_also_in_a_thread(tmp_path: Path) -> None:
    notebook = json.loads((ROOT / "docs" / "sweep.ipynb").read_text())
    cells = ["".join(cell["source"]) for cell in notebook["cells"] if cell["cell_type"] == "code"]
    assert not any(cell.get("outputs") for cell in notebook["cells"]), "kept small"
    (tmp_path / "cells.json").write_text(json.dumps(cells))
    settings = {key: value for key, value in TINY.items() if key != "batch_size"} | {"steps": 6}
    replaced = {"SETTINGS": settings, "OPTIONS": {"trials": 2, "scheduler": "none", "concurrency": 1, "no_report": True}}
    done = subprocess.run(
        [sys.executable, "-c", RUN_NOTEBOOK, "cells.json", json.dumps(replaced)],
        capture_output=True, text=True, timeout=600, env={**os.environ, "PYTHONPATH": str(ROOT)}, check=False,
    )  # fmt: skip
    assert not done.returncode, done.stderr
    result = json.loads(done.stdout)
    assert len(result["faults"]) == 1 and not missing(["Interrupted", "notebook"], result["faults"][0])
    assert not missing(["trial 0000  continues at step 3", "is finished already"], result["said"])
    assert result["values"] == len(cells) and result["read"] and result["images"] == [3, 1, 28, 28]
    assert not {"mlflow-writer", "ray-start"} & {*result["threads"]}, result["threads"]
    assert (sorted(result["index"]), result["steps"]) == ([0, 1], [6, 6])
    assert {"lr", "batch_size", "tv_weight"} < set(result["columns"])
    best, number = result["best"], str(result["best"]["number"])
    assert best["scores"]["ssim/coverage"] == max(result["scores"].values()) == result["scores"][number]
    assert best["settings"]["lr"] == result["rates"][number]
    assert f"best: trial-{best['number']:04d}" in result["text"] and min(result["picture"]) > 28


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


class ZMQInteractiveShell:
    """A kernel is known by the name of this class."""


@pytest.mark.parametrize("kernel", [False, True])
def test_a_kernel_gets_lines_though_its_output_is_a_terminal(kernel: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("TERM", "COLORTERM", "FORCE_COLOR", "TTY_COMPATIBLE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(sys, "stdout", Terminal())
    if kernel:
        monkeypatch.setattr(builtins, "get_ipython", ZMQInteractiveShell, raising=False)
    assert _console(quiet=False).is_terminal is not kernel


def ask(**options: Any) -> SweepConfig:
    space = options.pop("space", None)
    return requested(flags.from_options(options), {}, space)


def test_options_are_the_flags(capsys: pytest.CaptureFixture[str]) -> None:
    command_line = (
        "--dataset mnist --time-budget 2h --require kkt/active=0.05 --objective kkt/rho,tstr/1nn --keep 7 --dry-run --json"
    )
    assert main(command_line.split()) == 0
    options = {"dataset": "mnist", "time_budget": "2h", "require": {"kkt/active": 0.05}, "objective": ["kkt/rho", "tstr/1nn"]}
    assert json.loads(capsys.readouterr().out) == ask(**options, keep=7).record()
    assert ask(time_budget=90).time_budget == ask(time_budget="90m").time_budget == 90


def test_a_sweep_on_record_is_repeated_when_it_is_asked_for() -> None:
    recorded = ask(dataset="digits", trials=4, scheduler="none")
    path = sweep_folder(recorded.name) / "sweep.yaml"
    path.parent.mkdir(parents=True)
    path.write_text(yaml.safe_dump(recorded.record()))
    again = ask(dataset="digits", trials=4, repeat=2)
    assert (again.finalists, again.seeds, again.keep) == (4, 2, 5)


def test_a_space_replaces_the_presets_and_its_first_trials() -> None:
    config = ask(space={"lr": {"log10": [-4, -2]}})
    assert set(config.space) == {"lr"} and not config.first_trials


@pytest.mark.parametrize(
    ("call", "line"),
    [
        ({"trials": -1}, ["--trials", "-1"]),
        ({"trials": "many"}, ["--trials", "'many'"]),
        ({"trails": 3}, ["trails", "trials"]),
        ({"dataset": 5}, ["--dataset", "5"]),
        ({"dataset": ""}, ["--dataset", "empty"]),
        ({"dataset": "mnits"}, ["--dataset", "mnits", "mnist"]),
        ({"set": {"lr": 1}}, ["set", "settings"]),
        ({"settings": {"lrr": 1}}, ["--set lrr", "lr"]),
        ({"settings": 3}, ["settings"]),
        ({"settings": {"lr": 1e-3}, "space": {"lr": {"log10": [-4, -2]}}}, ["settings", "lr", "space"]),
        ({"space": 3}, ["space", "mapping"]),
        ({"space": {"lr": {"log2": [1, 2]}}}, ["space", "lr.log2", "log"]),
        ({"space": {"lrr": {"log10": [-4, -2]}}}, ["space", "lrr", "lr"]),
        ({"require": "kkt/active=0.05"}, ["--require", "list"]),
        ({"require": {"kkt/active": "much"}}, ["--require", "kkt/active=much"]),
        ({"retry_failed": 1}, ["--retry-failed", "True"]),
        ({"pictures": "sixle"}, ["--pictures", "sixle", "sixel"]),
        ({"pictures": 1}, ["--pictures"]),
        ({"log_to": "tensorboard,mlflow"}, ["--log-to: 'mlflow'", "tensorboard", "wandb"]),
        ({"study_url": "mysql://me:secret@host/db"}, ["--study-url"]),
    ],
    ids=str,
)  # fmt: skip
def test_bad_input_is_an_exception_with_the_commands_line(call: dict[str, Any], line: list[str], tmp_path: Path) -> None:
    with pytest.raises(BadInput) as caught:
        search.sweep(**call)
    text, trace, frames = str(caught.value), caught.tb, 0
    assert not missing(line, text) and "secret" not in text and "\n" not in text
    while trace is not None:
        frames, trace = frames + 1, trace.tb_next
    assert frames == 2 and caught.value.__cause__ is None, "the caller's line and that of the call"
    assert list(tmp_path.iterdir()) == []


def test_numbers_of_numpy_are_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[SweepConfig] = []

    def stop(config: SweepConfig, *_: object, **__: object) -> None:
        asked.append(config)
        raise KeyboardInterrupt

    monkeypatch.setattr("search.driver.sweep.run_sweep", stop)
    with pytest.raises(search.Interrupted):
        search.sweep(settings={"classifier": {"hidden": np.int64(12)}}, space={"lr": {"log10": np.linspace(-4, -2, 2)}})
    assert (asked[0].trial.classifier.hidden, asked[0].space["lr"].log10) == (12, (-4.0, -2.0))


def test_a_result_of_no_sweep() -> None:
    with pytest.raises(BadInput) as caught:
        search.read_sweep("tiny")
    assert "'tiny'" in str(caught.value)
