"""The command for the first machine with a GPU, on one without: parts, limits, record and table. No figure is asserted."""

from __future__ import annotations

import importlib
import json
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import psutil
import pytest
import torch

from gbc.errors import BadInput
from tests.benchmarks import gpu_proof
from tests.benchmarks.gpu_parts import PARTS, marked_tests, memory, out_of_memory, sweeps
from tests.benchmarks.gpu_record import Part, Record
from tests.benchmarks.harness import Options
from tests.support import ROOT, missing

SMALL = Options(quick=True, device="cpu")
LONGEST = 720.0  # seconds: the command ends in under 12 minutes


def part_named(name: str) -> ModuleType:
    return importlib.import_module(f"tests.benchmarks.gpu_parts.{name}")


def test_the_parts_end_in_time() -> None:
    assert sum(part_named(name).LIMIT for name in PARTS) <= LONGEST
    assert set(PARTS) == {path.stem for path in Path(out_of_memory.__file__).parent.glob("*.py")} - {"__init__"}


def test_a_dry_run_lists_parts_limits_and_commands_and_runs_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert gpu_proof.main(["--dry-run"]) == 0
    output = capsys.readouterr().out
    for name in PARTS:
        assert not missing([name, f"{part_named(name).LIMIT:.0f} s", f"--only {name}"], output)
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_one_line_says_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert gpu_proof.main([]) == 2
    captured = capsys.readouterr()
    assert not missing(["GPU", "--device cpu"], captured.err) and len(captured.err.splitlines()) == 1 and not captured.out
    assert not list(tmp_path.iterdir())


CUT_SHORT = """
import subprocess, sys, time
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], start_new_session=True)
with open(sys.argv[1], "w") as out:
    print('{"size": "quick", "child": %d}' % child.pid, file=out)
    print('{"size": "def', end="", file=out, flush=True)
    time.sleep(600)
"""
WHOLE = """
import sys
print('{"size": "quick"}', file=open(sys.argv[1], "w"))
"""
FAILS = """
import sys
print('{"size": "quick"}', file=open(sys.argv[1], "w"))
sys.exit("CUDA error: unspecified launch failure")
"""


@pytest.fixture
def scripts(monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, str]]:
    """Parts by name: scripts, which take no time."""
    script_texts: dict[str, str] = {}

    def command(name: str, device: str, rows: Path) -> list[str]:
        return [sys.executable, "-c", textwrap.dedent(script_texts[name]), str(rows)]

    monkeypatch.setenv("OMP_NUM_THREADS", "1")  # the command sets it
    monkeypatch.setattr(gpu_proof, "_command", command)
    yield script_texts


@pytest.mark.long
def test_what_a_part_measured_before_its_limit_is_kept_and_the_others_run(
    tmp_path: Path, scripts: dict[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "proof.json"
    names = ["graphs", "steps", "sampling"]
    arguments = ["--device", "cpu", "--json", str(file), "--limit", "3", "--only", *names]
    scripts |= {"graphs": CUT_SHORT, "steps": FAILS, "sampling": WHOLE}
    assert gpu_proof.main(arguments) == 1
    record = json.loads(file.read_text())
    assert set(record) == {"version", "device", "machine", "parts"}
    parts = record["parts"]
    assert [parts[name]["state"] for name in names] == ["cut short", "failed", "complete"]
    assert all(set(part) == Part.__required_keys__ for part in parts.values())
    assert [len(parts[name]["rows"]) for name in names] == [1, 1, 1]
    assert "unspecified launch failure" in parts["steps"]["reason"]
    assert not psutil.pid_exists(parts["graphs"]["rows"][0]["child"])
    assert {path.name for path in tmp_path.iterdir()} == {file.name, *(f"proof-{name}.log" for name in names)}

    # What has come to an end is kept; what the command itself broke off, or was never begun, is not.
    record["parts"]["sampling"]["state"] = "interrupted"
    file.write_text(json.dumps(record))
    scripts |= {"graphs": WHOLE, "steps": WHOLE}
    capsys.readouterr()
    assert gpu_proof.main(arguments) == 1
    assert not missing(["graphs: cut short", "steps: failed", "sampling: complete", "--again"], capsys.readouterr().err)
    assert gpu_proof.main([*arguments, "--again"]) == 0
    assert {part["state"] for part in json.loads(file.read_text())["parts"].values()} == {"complete"}


def hand_made(tmp_path: Path, **changes: Any) -> Record:
    record = Record(tmp_path / "proof.json", "cuda", {"gpu": "NVIDIA H100", "torch": "2.15", "driver": None})
    columns = [["size", "size", ""], ["ms", "graph, ms", ".2f"]]
    rows: list[Any] = [{"size": "a|b", "ms": 1.234}, {"size": "default", "ms": None}]
    part: Any = {
        "about": "one step", "columns": columns, "state": "complete", "reason": None, "seconds": 12.3, "limit": 75.0,
        "commit": None, "rows": rows,
    }  # fmt: skip
    record.put("steps", part | changes)
    return record


def test_the_table_names_the_card_and_the_state_of_each_part(tmp_path: Path) -> None:
    record = hand_made(tmp_path)
    first, about, table = record.markdown(PARTS).split("\n\n")
    assert not missing(["NVIDIA H100", "torch 2.15"], first) and "None" not in first
    assert not missing(["steps", "complete", "12 s", "75 s"], about)
    assert table.splitlines() == ["| size | graph, ms |", "| --- | --- |", "| a\\|b | 1.23 |", "| default | – |"]
    cut = hand_made(tmp_path, state="failed", reason="exit code 1: no room", rows=[]).markdown(["steps"])
    assert not missing(["failed", "no room"], cut) and "---" not in cut


@pytest.mark.parametrize("content", ["{}", "[", '{"version": 9, "device": "cuda", "machine": {}, "parts": {}}'])
def test_a_record_of_something_else_is_refused(tmp_path: Path, content: str) -> None:
    path = tmp_path / "proof.json"
    path.write_text(content)
    with pytest.raises(BadInput, match=rf"{path}.*--again"):
        Record(path, "cuda", {"gpu": "NVIDIA H100"})
    assert Record(path, "cuda", {"gpu": "NVIDIA H100"}, anew=True).parts == {}


def test_figures_of_two_cards_are_not_mixed(tmp_path: Path) -> None:
    path = hand_made(tmp_path).path
    assert Record(path, "cuda", {"gpu": "NVIDIA H100"}).missing(["steps", "graphs"]) == ["graphs"]
    with pytest.raises(BadInput, match=r"H100.*A100.*--json"):
        Record(path, "cuda", {"gpu": "NVIDIA A100"})


@pytest.mark.parametrize("name", ["graphs", "steps", "reports", "sampling", "exports", "compiled"])
@pytest.mark.long
def test_a_part_runs_on_a_cpu(name: str) -> None:
    """Those that start sweeps take a minute: `gpu_proof.py --device cpu --only out_of_memory sweeps`."""
    part = part_named(name)
    rows = list(part.rows(SMALL))
    assert rows and json.loads(json.dumps(rows)) == rows
    for row in rows:
        assert row.keys() >= {column.key for column in part.COLUMNS}
        assert all(column.text(row) for column in part.COLUMNS if isinstance(row[column.key], int | float))
        assert not str(row.get("outcome", "")).startswith("fail"), row


@pytest.mark.long
def test_memory_is_measured_in_processes_of_their_own() -> None:
    rows = list(memory.rows(SMALL))
    assert [row["processes"] for row in rows] == [1, 1] and rows[1]["verdict"] == ""
    assert all(isinstance(row["mb"], float) and row["mb"] > 0 for row in rows)


def test_marked_tests_are_all_that_are_marked(tmp_path: Path) -> None:
    files = marked_tests.marked_files(ROOT / "tests")
    assert str(ROOT / "tests" / "gbc" / "training" / "test_cuda_graph.py") in files and __file__ not in files
    (tmp_path / "test_one.py").write_text("import pytest\n\n@pytest.mark.gpu\ndef test_it():\n    pass\n")
    (tmp_path / "test_all.py").write_text("import pytest\n\npytestmark = [pytest.mark.slow, pytest.mark.gpu]\n")
    (tmp_path / "test_none.py").write_text('WORDS = "pytest.mark.gpu"\n')
    assert [Path(file).name for file in marked_tests.marked_files(tmp_path)] == ["test_all.py", "test_one.py"]


def test_outcomes_of_tests_come_with_the_first_line_of_a_failure(tmp_path: Path) -> None:
    file = tmp_path / "test_three.py"
    file.write_text(
        "import pytest\n\ndef test_good():\n    pass\n\ndef test_bad():\n    assert 1 == 2, 'no graph'\n\n"
        "@pytest.mark.skip(reason='no GPU')\ndef test_skipped():\n    pass\n"
    )
    rows = {str(row["test"]).rpartition("::")[2]: row for row in marked_tests.outcomes([str(file)], tmp_path)}
    assert [rows[name]["outcome"] for name in ("test_good", "test_bad", "test_skipped")] == ["passed", "failed", "skipped"]
    assert rows["test_good"]["reason"] is None
    assert not missing(["AssertionError", "no graph"], rows["test_bad"]["reason"])
    assert "no GPU" in str(rows["test_skipped"]["reason"])


def test_a_sweep_that_survives_is_told_from_one_that_does_not() -> None:
    output = "".join(f"trial {number:04d}  CUDA out of memory; goes on with 1 of a GPU\n" for number in range(2))
    assert out_of_memory.outcome(0, output, '{"complete": 2}')["outcome"] == "survived"
    assert str(out_of_memory.outcome(0, "", '{"complete": 2}')["outcome"]).startswith("FAILED")  # nothing was forced
    assert str(out_of_memory.outcome(0, output, '{"complete": 1}')["outcome"]).startswith("FAILED")
    assert "no space" in str(out_of_memory.outcome(1, f"{output}no space\n", "")["outcome"])


def test_trials_are_counted_in_steps_of_a_whole_one() -> None:
    # Ten whole trials of 600 steps in 60 s, 40 s of them between the first start and the last report.
    ours = sweeps.Run(wall=60.0, span=40.0, steps=6000, ended=14, busy=0.5, slots=8)
    row = ours.row("ours", 600, None)
    assert (row["whole_trials_per_hour"], row["running_per_hour"], row["ours_over_this"]) == (600, 900, None)
    theirs = sweeps.Run(wall=120.0, span=100.0, steps=1200, ended=2, busy=None, slots=1)
    assert theirs.row("Ray Tune", 600, ours)["ours_over_this"] == 10


def test_the_busy_share_is_that_of_the_time_between() -> None:
    assert sweeps.mean_between([(1, 0.0), (2, 0.5), (3, 1.0), (4, 0.0)], 2, 3) == 0.75
    assert sweeps.mean_between([(1, 0.0)], 2, 3) is None
    first, second = (sweeps.sample_of(f"2026/01/31 12:00:0{second}.500, 85") for second in (1, 2))
    assert second[0] - first[0] == pytest.approx(1) and first[1] == 0.85
    with pytest.raises(ValueError):
        sweeps.sample_of("2026/01/31 12:00:01.500, [N/A]")
