"""Everything about GPUs that has to be measured on one: `make gpu-proof`, or `python tests/benchmarks/gpu_proof.py`.

Runs parts, each in a process of its own that is killed with its children when its time is over. Every row that a part has
measured by then is in mlruns/gpu-proof.json, and a second run goes on with the parts that are missing. Prints Markdown for
docs/performance.md. With `--device cpu` the same parts run at small sizes: it shows that the command works, and its figures
mean nothing.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

if __package__ in (None, ""):
    sys.path[0] = str(Path(__file__).resolve().parents[2])

import psutil

from gbc.command_line import Parser, guarded
from gbc.errors import BadInput
from tests.benchmarks.gpu_parts import PARTS
from tests.benchmarks.gpu_record import Part, Record
from tests.benchmarks.harness import ROOT, Options, Row

_POLL: Final = 0.5  # seconds
_PATIENCE: Final = 5.0  # seconds that a killed process may take
_REASON: Final = 200  # characters of a reason


def parser() -> Parser:
    """The command line."""
    cli = Parser(prog="python tests/benchmarks/gpu_proof.py", description=(__doc__ or "").partition("\n")[0])
    cli.add_argument("--device", choices=("cuda", "cpu"), default="cuda", help="cpu: every part at small sizes, without a GPU")
    cli.add_argument("--only", nargs="+", choices=PARTS, metavar="PART", help=f"of {', '.join(PARTS)}")
    cli.add_argument("--again", action="store_true", help="redo parts that are on record: those of --only, or all of them")
    cli.add_argument("--dry-run", action="store_true", help="list parts, limits and commands, and run nothing")
    cli.add_argument("--limit", type=float, metavar="SECONDS", help="of each part (default: its own)")
    cli.add_argument(
        "--json", type=Path, default=Path("mlruns/gpu-proof.json"), metavar="FILE", help="the record (default: %(default)s)"
    )
    cli.add_argument("--rows", type=Path, metavar="FILE", help="run the part of --only here, and write a row a line to FILE")
    return cli


def main(argv: Sequence[str] | None = None) -> int:
    """Returns the exit code: 0 all parts are complete, 1 one is not, 2 bad input or no GPU, 130 interrupted."""
    arguments = parser().parse_args(argv)
    return guarded(lambda: _run(arguments))


def _run(arguments: Any) -> int:
    names = arguments.only or list(PARTS)
    if arguments.rows:
        for name in names:
            _measure(name, arguments.device, arguments.rows)
        return 0
    if arguments.dry_run:
        print(_plan(arguments, names))
        return 0
    # Libraries read it when they are imported, and parts inherit it: a trial has one thread.
    os.environ["OMP_NUM_THREADS"] = "1"
    os.environ.pop("MLFLOW_TRACKING_URI", None)
    record = Record(arguments.json, arguments.device, _machine(arguments.device), anew=arguments.again and not arguments.only)
    todo = names if arguments.again else record.missing(names)
    for name in names:
        if name not in todo:
            print(f"{name}: {record.parts[name]['state']}, on record; --again redoes it", file=sys.stderr)
    for name in todo:
        _proceed(name, arguments, record)
    print(record.markdown(names))
    print(f"\nall rows: {record.path}", file=sys.stderr)
    return int(any(record.parts[name]["state"] != "complete" for name in names))


def _measure(name: str, device: str, file: Path) -> None:
    """Run a part in this process."""
    part = importlib.import_module(f"tests.benchmarks.gpu_parts.{name}")
    with file.open("w") as out:
        for row in part.rows(Options(quick=device == "cpu", device=device)):
            print(json.dumps(row, ensure_ascii=False), file=out, flush=True)


def _plan(arguments: Any, names: Sequence[str]) -> str:
    """Two lines for each part that would run: its limit and its command."""
    lines, total = [], 0.0
    for name in names:
        part = importlib.import_module(f"tests.benchmarks.gpu_parts.{name}")
        total += (limit := arguments.limit or part.LIMIT)
        command = _command(name, arguments.device, Path(f"{name}.jsonl"))
        lines += [f"{name:14} at most {limit:4.0f} s  {part.ABOUT}", f"{'':14} {' '.join(command)}"]
    return "\n".join([*lines, f"{len(names)} parts, at most {total:.0f} s in all; record: {arguments.json}"])


def _machine(device: str) -> dict[str, Any]:
    """The machine in words.

    Raises:
        BadInput: there is no GPU, and it is to be measured.
    """
    import torch

    from tests.benchmarks import harness

    if device == "cuda" and not torch.cuda.is_available():
        raise BadInput("--device cuda: torch sees no GPU here; --device cpu runs every part at small sizes instead")
    machine = dict(harness.machine(Options(device=device)))
    if device == "cuda":
        properties = torch.cuda.get_device_properties(0)
        machine |= {"gpu_memory_gb": round(properties.total_memory / 1e9, 1), "gpus": torch.cuda.device_count()}
        machine["cuda"] = torch.version.cuda
    return machine


def _command(name: str, device: str, rows: Path) -> list[str]:
    return [sys.executable, str(Path(__file__).resolve()), "--device", device, "--only", name, "--rows", str(rows)]


def _proceed(name: str, arguments: Any, record: Record) -> None:
    """Run a part in a process of its own, and keep the record at what it has measured so far."""
    module = importlib.import_module(f"tests.benchmarks.gpu_parts.{name}")
    limit = arguments.limit or module.LIMIT
    part = Part(
        about=module.ABOUT, columns=[[column.key, column.title, column.form] for column in module.COLUMNS], state="interrupted",
        reason=None, seconds=0.0, limit=limit, commit=_commit(), rows=[],
    )  # fmt: skip
    record.put(name, part)
    scratch = (record.path.parent / f".{record.path.stem}" / name).resolve()
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir(parents=True)
    rows, log = scratch / "rows.jsonl", record.path.with_suffix("").with_name(f"{record.path.stem}-{name}.log")

    def measured(seconds: float) -> None:
        part["seconds"] = seconds
        if (measured_rows := read_rows(rows)) != part["rows"]:
            part["rows"] = measured_rows
            record.put(name, part)

    try:
        code = run_within(_command(name, arguments.device, rows), limit, log, {"TMPDIR": str(scratch)}, measured)
    finally:
        part["rows"] = read_rows(rows)
        shutil.rmtree(scratch, ignore_errors=True)
        with contextlib.suppress(OSError):
            scratch.parent.rmdir()
    part["state"] = "cut short" if code is None else "failed" if code else "complete"
    if code:
        log_lines = log.read_text(errors="replace").strip().splitlines()
        part["reason"] = f"exit code {code}: {log_lines[-1][:_REASON] if log_lines else 'no output'}"
    record.put(name, part)
    print(f"{name}: {part['state']}, {len(part['rows'])} rows in {part['seconds']:.0f} s; log: {log}", file=sys.stderr)


def run_within(
    command: Sequence[str], limit: float, log: Path, environment: dict[str, str], each_poll: Callable[[float], None]
) -> int | None:
    """Exit code of a command, None if its time was over; what it started is killed. `each_poll` gets the seconds so far."""
    began = time.monotonic()
    family: dict[int, psutil.Process] = {}
    with log.open("wb") as output:
        process = subprocess.Popen(
            command, cwd=ROOT, env={**os.environ, **environment}, stdout=output, stderr=subprocess.STDOUT,
            start_new_session=True,
        )  # fmt: skip
        try:
            while process.poll() is None and (seconds := time.monotonic() - began) < limit:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(min(_POLL, limit - seconds))
                # Again and again: what has lost its parent is found no more.
                _remember(process.pid, family)
                each_poll(time.monotonic() - began)
            return process.poll()
        finally:
            _remember(process.pid, family)
            _kill(process, family)


def _remember(pid: int, family: dict[int, psutil.Process]) -> None:
    with contextlib.suppress(psutil.Error):
        family.update({child.pid: child for child in psutil.Process(pid).children(recursive=True)})


def _kill(process: subprocess.Popen[bytes], family: dict[int, psutil.Process]) -> None:
    if process.poll() is None:
        process.kill()
    process.wait()
    left = list(family.values())
    for process_left in left:  # of a known start time: a process id that is used again is another process
        for member in [*_children(process_left), process_left]:
            with contextlib.suppress(psutil.Error):
                member.kill()
    psutil.wait_procs(left, timeout=_PATIENCE)


def _children(process: psutil.Process) -> list[psutil.Process]:
    try:
        return list(process.children(recursive=True))
    except psutil.Error:
        return []


def read_rows(file: Path) -> list[Row]:
    """The rows in a file with one a line; a last line that was cut short is left out."""
    if not file.exists():
        return []
    whole = file.read_text().rpartition("\n")[0]
    return [json.loads(line) for line in whole.splitlines()]


def _commit() -> str | None:
    completed = subprocess.run(["git", "-C", str(ROOT), "rev-parse", "HEAD"], capture_output=True, text=True, check=False)
    return completed.stdout.strip() or None


if __name__ == "__main__":
    sys.exit(main())
