"""The script for Slurm, with programs in the places of Slurm, Ray and Python that note how they are called."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from pathlib import Path

import pytest

from tests.support import ROOT, missing

SCRIPT = ROOT / "search" / "slurm.sh"
PROGRAMS = {
    "python": 'trap "exit 130" TERM; note python "$@"; [[ ! -e wait ]] || while :; do sleep 0.05; done; exit "$(cat code)"',
    "scontrol": 'note scontrol "$@"; printf "n1\\nn2\\nn3\\n"',
    "srun": 'while [[ $1 == --* ]]; do note srun "$1"; shift; done; exec "$@"',
    "ray": 'note ray "$@" "$(stat -c %a "$RAY_AUTH_TOKEN_PATH") $(wc -c <"$RAY_AUTH_TOKEN_PATH")"; '
    '[[ $1 == start ]] || exit "$(cat down)"; echo $$ >>rays; exec sleep 60',
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "bin").mkdir()
    for name, body in PROGRAMS.items():
        program = tmp_path / "bin" / name
        program.write_text(f'#!/bin/bash\nnote() {{ echo "$*" >>calls; }}\n{body}\n')
        program.chmod(0o755)
    (tmp_path / "code").write_text("0")
    (tmp_path / "down").write_text("0")
    return tmp_path


def start(folder: Path, *arguments: str, **more: str) -> subprocess.Popen[str]:
    environment = {"PATH": f"{folder / 'bin'}:{os.environ['PATH']}", "SLURM_SUBMIT_DIR": str(folder), **more}
    return subprocess.Popen(["bash", str(SCRIPT), *arguments], env=environment, cwd="/", stderr=subprocess.PIPE, text=True)


def calls(folder: Path) -> list[str]:
    path = folder / "calls"
    return path.read_text().splitlines() if path.exists() else []


def wait_for(folder: Path, start_of_line: str) -> None:
    end = time.monotonic() + 60
    while not any(line.startswith(start_of_line) for line in calls(folder)):
        assert time.monotonic() < end, calls(folder)
        time.sleep(0.05)


@pytest.mark.parametrize("code", [0, 2])
def test_on_one_node_the_job_is_the_driver(folder: Path, code: int) -> None:
    (folder / "code").write_text(str(code))
    assert start(folder, "--name", "two words").wait(60) == code
    assert calls(folder) == ["python search/run.py --name two words"]


def test_the_drivers_end_in_good_order_is_waited_for_when_the_time_of_the_job_is_up(folder: Path) -> None:
    (folder / "wait").touch()
    job = start(folder)
    wait_for(folder, "python")
    job.send_signal(signal.SIGTERM)
    assert job.wait(60) == 130


def test_on_several_nodes_the_driver_joins_a_cluster_of_the_job_that_asks_for_a_token(folder: Path) -> None:
    (folder / "wait").touch()
    several = {"SLURM_JOB_NUM_NODES": "3", "SLURM_JOB_NODELIST": "n[1-3]", "SLURM_JOB_ID": "7", "SLURM_CPUS_PER_TASK": "4"}
    job = start(folder, "--name", "wide", **several)
    wait_for(folder, "python")
    wait_for(folder, "ray start --block --address")
    call_lines = "\n".join(calls(folder))
    token = "600 64"
    wanted = [
        "scontrol show hostnames n[1-3]", "srun --nodelist=n1", "srun --nodes=2", "srun --exclude=n1",
        f"ray start --block --head --port=20007 --num-cpus 4 {token}",
        f"ray start --block --address=n1:20007 --num-cpus 4 {token}",
        f"python search/run.py --address n1:20007 --storage {folder}/mlruns/storage --name wide",
    ]  # fmt: skip
    assert missing(wanted, call_lines) == [], call_lines
    rays = [int(line) for line in (folder / "rays").read_text().split()]
    job.send_signal(signal.SIGTERM)
    assert job.wait(60) == 130 and not list(folder.glob(".slurm-*"))
    end = time.monotonic() + 10
    while any(Path(f"/proc/{pid}/cmdline").exists() for pid in rays) and time.monotonic() < end:
        time.sleep(0.05)
    assert not any(Path(f"/proc/{pid}/cmdline").exists() for pid in rays)


def test_a_storage_of_the_users_stays_and_a_ray_that_does_not_start_is_named(folder: Path) -> None:
    several = {"SLURM_JOB_NUM_NODES": "2", "SLURM_JOB_NODELIST": "n[1-2]", "RAY_START_SECONDS": "0", "RAY_PORT": "5"}
    assert start(folder, "--storage=s3://bucket", **several).wait(60) == 0
    assert "python search/run.py --address n1:5 --storage=s3://bucket" in calls(folder)
    (folder / "down").write_text("1")
    job = start(folder, **several)
    assert job.wait(60) == 1 and job.stderr is not None
    assert missing(["n1", "port 5", "RAY_PORT"], job.stderr.read()) == []
