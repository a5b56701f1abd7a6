"""More than one machine: a real Ray cluster, one node of which dies in mid-sweep while another joins."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml

from gbc.errors import BadInput
from records.trial import TrialRecord
from search.driver.resources import Machine
from search.driver.tune_adapter import failure_reason
from search.spec.config import Resources, SweepConfig
from search.worker.trial import assignment_of
from tests.conftest import TINY
from tests.search.conftest import tiny_sweep
from tests.search.driver.test_tune_adapter import callback_beside
from tests.support import ROOT
from tests.support.nodes import Nodes, cluster
from tests.support.stores import lay_down_store
from tests.support.workplace import Workplace


@pytest.fixture(scope="module")
def nodes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nodes]:
    """They ask for a token, as docs/cluster.md has it; drivers of this module find it in their environment."""
    token = tmp_path_factory.mktemp("secret") / "token"
    token.write_text("0123456789abcdef" * 4)
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("RAY_AUTH_MODE", "token")
        environment.setenv("RAY_AUTH_TOKEN_PATH", str(token))
        with cluster() as nodes_of_cluster:
            yield nodes_of_cluster


@pytest.mark.sweep
@pytest.mark.long
def test_a_ray_that_does_not_start_stops_the_sweep_in_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setenv("RAY_TMPDIR", "/proc/nowhere")
    workplace = Workplace(tmp_path)
    code, output = workplace.run("--config", workplace.file("unstarted"))
    assert code == 130 and "Traceback" not in output, output
    assert re.match("stopped: Ray .*continues$", output.splitlines()[-1]), output
    assert workplace.study("unstarted") == []


INTERRUPTED = """
import sys, ray
from pathlib import Path
from search.driver.engine import RayStart, run_ray
from search.driver.resources import Machine
from search.spec.config import SweepConfig
from search.spec.faults import HaltMonitor
from tests.search.conftest import tiny_sweep

config, folder = SweepConfig.parse(tiny_sweep(), "test"), Path("sweep")
machine = Machine(cpus=1, gpus=0, concurrency=1, cpus_per_trial=1.0, gpus_per_trial=0.0)
folder.mkdir()
sys.modules["search.driver.tune_adapter"] = None
try:
    with RayStart(config, machine, folder) as start:
        run_ray(config, machine, None, None, None, folder, HaltMonitor(folder), start=start)
except ImportError:
    print("left" if not ray.is_initialized() else "still there", *folder.iterdir())
"""


@pytest.mark.sweep
@pytest.mark.long
def test_what_breaks_off_while_tune_is_imported_leaves_no_ray(tmp_path: Path) -> None:
    """In a notebook the process lives on after Ctrl-C, and the same call would be refused."""
    program = [sys.executable, "-c", INTERRUPTED]
    done = subprocess.run(program, capture_output=True, text=True, cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(ROOT)})
    assert done.stdout == "left\n", done.stderr


PROGRAM = """
import sys, ray
from search.driver import ray_runtime

address, = sys.argv[1:]
nodes = ray_runtime.join(address)
assert len(nodes) == 2 and ray_runtime.join(address) == nodes  # joined once

@ray.remote(num_cpus=1)
class Worker:
    def node(self):
        import gbc, search.worker.trial  # what the driver brought
        return ray.get_runtime_context().get_node_id()
    def wait(self):
        import time
        time.sleep(600)

workers = [Worker.remote(), Worker.remote()]
mine = ray.get_runtime_context().get_node_id()
(far,) = [worker for worker in workers if ray.get(worker.node.remote()) != mine]
waiting = far.wait.remote()
print("waiting", flush=True)
try:
    ray.get(waiting)
except ray.exceptions.RayActorError as fault:
    print(str(fault))
ray_runtime.leave()
"""


@pytest.mark.sweep
@pytest.mark.long
def test_a_driver_without_the_clusters_token_is_told_how_to_give_it(
    nodes: Nodes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("RAY_AUTH_MODE")
    workplace = Workplace(tmp_path)
    code, output = workplace.run("--config", workplace.file("refused", trials={"per_slot": 1}), "--address", nodes.address)
    assert code == 2 and "RAY_AUTH_MODE=token" in output, output
    assert "error: " in output.splitlines()[-1] and "Traceback" not in output, output


@pytest.mark.sweep
@pytest.mark.long
def test_the_death_of_a_node_takes_no_retry(nodes: Nodes, tmp_path: Path) -> None:
    """Ray counts it as a failure of the trial. What tells it apart is what Ray says, which a real death shows."""
    command = [sys.executable, "-c", PROGRAM, nodes.address]
    with subprocess.Popen(command, text=True, stdout=subprocess.PIPE, env={**os.environ, "PYTHONPATH": str(ROOT)}) as driver:
        assert driver.stdout is not None and driver.stdout.readline() == "waiting\n"
        assert nodes.ask("kill") == "done"
        printed = driver.stdout.read()
    assert driver.returncode == 0 and "raylet" not in printed.lower()
    assert nodes.ask("add") == "done"

    log = tmp_path / "error.txt"
    trial: Any = SimpleNamespace(error_file=str(log), max_failures=1, config={"number": 0})
    callback = callback_beside(nodes_may_die=True)
    log.write_text(f"Failure # 1 (occurred at noon)\n{printed}\n")
    callback.on_trial_recover(0, [], trial)
    assert trial.max_failures == 2
    assert "node died" in failure_reason(log.read_text())
    with log.open("a") as more:
        more.write("Failure # 2 (occurred at one)\nThe actor died unexpectedly before finishing this task.\n")
    callback.on_trial_recover(0, [], trial)
    assert trial.max_failures == 2


@pytest.mark.sweep
@pytest.mark.long
def test_nodes_that_die_and_nodes_that_join(nodes: Nodes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    lay_down_store(tmp_path)
    workplace = Workplace(tmp_path)
    file = workplace.file("spread", trials=3, trial={**TINY, "steps": 600, "report_every": 15}, scheduler={"name": "none"})
    command = ["--config", file, "--address", nodes.address, "--storage", "shared", "--retries", "1"]
    process = workplace.start(*command)
    output = ""
    for command_to_nodes in ("kill", "add"):
        output += wait_for_two(workplace, process)
        assert nodes.ask(command_to_nodes) == "done"
    more, _ = process.communicate(timeout=240)
    output += more
    assert process.returncode == 0, output
    # A node that an earlier test killed may not be missed yet.
    assert re.search(r"\b[23] CPUs of [23] nodes", output) and "Traceback" not in output, output
    assert "raylet" not in output.lower()

    workplace.check_records_agree("spread", 3)
    assert {run.data.tags["sweep.outcome"] for run in workplace.trials("spread")} == {"complete"}
    assert sum(int(run.data.tags.get("sweep.retries", 0)) for run in workplace.trials("spread")) >= 1
    assert workplace.run("--check", "spread")[0] == 0

    # Trials' files are in the storage alone, and so is the classifier, which the nodes did not train.
    folder = tmp_path / "mlruns" / "sweeps" / "spread"
    assert not (folder / "trials").exists()
    shared = tmp_path / "shared"
    assert sorted(path.name for path in (shared / "spread" / "trials").iterdir()) == ["0000", "0001", "0002"]
    assert len(list((shared / ".classifiers").glob("*/complete"))) == 1
    record = yaml.safe_load((folder / "sweep.yaml").read_text())
    assert record["places"] == {"address": nodes.address, "storage": str(shared)}

    # The cluster was not ours to end. It is not needed to go on either, and not joined unless it is named.
    assert nodes.ask("add") == "done"
    monkeypatch.setenv("RAY_ADDRESS", nodes.address)
    code, output = workplace.run("--config", file, "--trials", "4", "--json")
    assert code == 0 and "CPUs of" not in output, output
    summary = json.loads(output[output.index("{\n") :])
    assert summary["complete"] == 4 and summary["picture"].startswith(str(shared))
    assert workplace.status("spread")["storage"] == str(shared / "spread")
    workplace.check_records_agree("spread", 4)


def wait_for_two(workplace: Workplace, process: Any) -> str:
    """Until two trials have reported since now: then both nodes are at work."""
    seen, output = set[str](), ""
    assert process.stdout is not None
    for line in process.stdout:
        output += line
        if "  step " in line:
            seen.add(line.split()[1])
        if len(seen) == 2:
            time.sleep(0.5)
            return output
    raise AssertionError(f"the sweep ended:\n{output}")


@pytest.mark.parametrize(
    ("resources", "nodes", "fits"),
    [
        ({}, [(2, 0), (4, 0)], 6),
        ({"cpus_per_trial": 3.0}, [(2, 0), (4, 0), (7, 0)], 3),
        ({}, [(0, 0), (8, 1), (8, 1)], 8),
        ({"gpus_per_trial": 1.0}, [(8, 2), (1, 2)], 3),
    ],
)
def test_a_trial_fits_into_a_node_or_not(resources: dict[str, float], nodes: list[tuple[float, float]], fits: int) -> None:
    machine = Machine.of_cluster(Resources.parse(resources, "test"), nodes)
    assert (machine.concurrency, machine.nodes, machine.bounded) == (fits, len(nodes), False)
    bound = Machine.of_cluster(Resources.parse({**resources, "concurrency": 2}, "test"), nodes)
    assert (bound.concurrency, bound.bounded) == (2, True)


def test_a_trial_that_fits_nowhere_is_refused() -> None:
    with pytest.raises(BadInput, match=r"2 nodes .*9 CPU"):
        Machine.of_cluster(Resources.parse({"cpus_per_trial": 9.0}, "test"), [(8, 0), (8, 0)])


def test_workers_know_neither_the_study_nor_mlflow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only the driver writes to them. A password of the storage is not in what Ray writes down either."""
    monkeypatch.chdir(tmp_path)
    addresses = {
        "address": "10.1.2.3:6379",
        "storage": "fsspec+memory://key:s3cr3t@bucket/x",
        "study_url": "postgresql://me:s3cr3t@database/studies",
        "tracking_uri": "http://me:s3cr3t@tracking:5000",
    }
    config = SweepConfig.parse(tiny_sweep(places=addresses), "test")
    monkeypatch.setattr("search.files.storage._file_system", lambda url: (None, "x"))
    params = {"lr": 0.001, "batch_size": 16, "tv_weight": 0.5}
    trial = TrialRecord(3, params, "running", {3: 0.5}, None, None)
    assignment_text = json.dumps(assignment_of(config, trial, Path("cache"), 1))
    for secret in ("s3cr3t", "postgresql", "database", "tracking", "10.1.2.3"):
        assert secret not in assignment_text
    assert json.loads(assignment_text)["storage"] == "fsspec+memory://bucket/x"
    assert json.loads(assignment_text)["folder"] == "tiny/trials/0003"
