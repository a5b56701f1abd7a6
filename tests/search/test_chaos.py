"""A real sweep under seeded faults at random moments. What is on record at its end is what an undisturbed one leaves."""

from __future__ import annotations

import math
import os
import random
import sqlite3
import subprocess
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from gbc.config import TrialConfig
from gbc.errors import DIVERGED, Diverged
from gbc.metrics.scores import ReferenceSet
from gbc.training import tasks
from gbc.training.trainer import Trainer
from search.driver.processes import sweep_processes
from search.driver.retention import read_history, stale_files
from search.files.lock import current_driver
from search.files.paths import CLASSIFIERS, recorded_config
from search.policy.early_stopping import ASHA, Decision
from tests.conftest import TINY
from tests.support.chaos import Chaos
from tests.support.machine import processes_about, ray_sessions, small_disk
from tests.support.stores import lay_down_store
from tests.support.workplace import Workplace

pytestmark = [pytest.mark.sweep, pytest.mark.chaos]

SEED = int(os.environ.get("GBC_CHAOS_SEED", "7"))
EACH_ONCE = (
    "sigint", "sigterm", "kill driver", "kill raylet", "kill gcs", "full disk", "cut checkpoint", "flip checkpoint",
    "kill worker", "exit", "raise", "hang", "lock study", "lock mlflow", "clock forward", "clock back", "stop and continue",
    "two drivers", "truncate study", "lose settings", "lose mlflow", "move folder", "earlier version",
)  # fmt: skip
SLOW = ("full disk", "hang", "clock back", "stop and continue", "earlier version")
FEW = 4
FAULTS = int(os.environ.get("GBC_CHAOS_FAULTS", FEW))
"""`make test` does a few faults that the seed chooses, `make chaos` each once and the cheap ones again."""
TRIALS, STEPS = (8, 36) if FAULTS <= FEW else (14, 54)
ONLY = [fault for fault in os.environ.get("GBC_CHAOS_ONLY", "").split(",") if fault]
"""Faults to do instead, by name."""
CHEAP = ("kill worker", "exit", "raise", "lock mlflow", "lock study", "clock forward")
SPACE = {
    "lr": {"log10": [-3.5, -2.0]},
    "batch_size": {"choice": [16, 32]},
    "alpha_init": {"choice": [0.0, 0.1, 50.0]},  # the last diverges
}


@pytest.fixture
def workplace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Workplace]:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    mounted = small_disk(tmp_path, 96)
    folder = tmp_path / "project"
    folder.mkdir()
    monkeypatch.chdir(folder)  # which follows it when it is moved
    lay_down_store(folder)
    yield Workplace(folder)
    monkeypatch.undo()
    if mounted:
        subprocess.run(["umount", "--lazy", str(tmp_path)], check=True)


def test_nothing_is_lost_or_doubled_whatever_happens(workplace: Workplace, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = random.Random(SEED)
    few = rng.sample([fault for fault in EACH_ONCE if fault not in SLOW], FEW)
    others = [fault for fault in EACH_ONCE if fault not in few]
    plan = ONLY or [*few, *others, *CHEAP * FAULTS][:FAULTS]
    rng.shuffle(plan)
    trial = {**TINY, "steps": STEPS, "classifier": {"factory": "chaotic:net", "steps": 60, "lr": 0.1}}
    scheduler = {"name": "asha", "reduction_factor": 2, "grace": 6}
    file = workplace.file("chaos", trials=TRIALS, trial=trial, space=SPACE, scheduler=scheduler, sampler="random")
    chaos = Chaos(workplace, "chaos", ["--config", file, "--retries", "100", "--hang-limit", "15s"], rng)
    if not os.path.ismount(workplace.folder.parent):
        print("left out: a full disk (it takes root to mount a small one)")
        plan = [fault for fault in plan if fault != "full disk"]
    print(f"GBC_CHAOS_SEED={SEED} GBC_CHAOS_FAULTS={FAULTS}: {', '.join(plan)}")

    done: Counter[str] = Counter()
    start = time.monotonic()
    trials = TRIALS
    chaos.start()
    for fault in plan:
        # A moment in the middle of the work; where the work is over first, there is more of it.
        while not chaos.run.more_reports(rng.randrange(1, 7)):
            code = chaos.run.end()
            if code == 0:
                trials += 4
            else:
                assert code in (130, -9), chaos.run.output
            chaos.start("--trials", str(trials))
        began = time.monotonic()
        chaos.do(fault)
        print(f"{fault}: {time.monotonic() - began:.1f} s at {began - start:.0f} s, {trials} trials")
        done[fault] += 1
    while chaos.run.end() != 0:
        assert chaos.run.process.returncode in (130, -9), chaos.run.output
        chaos.start()
    assert sum(done.values()) == len(plan)

    for run in chaos.runs:
        assert "Traceback" not in run.output, run.output
    monkeypatch.syspath_prepend(workplace.folder)
    records_agree(workplace, trials)
    values_are_those_of_undisturbed_runs(workplace)
    asha_decided_as_it_does_undisturbed(chaos.sweep)
    nothing_is_left(chaos)


def records_agree(workplace: Workplace, trials: int) -> None:
    """One MLflow run and one Optuna trial each, in agreement; failures are only those of the settings."""
    workplace.check_records_agree("chaos", trials)
    code, output = workplace.run_here("--check", "chaos")
    assert code == 0, output
    for run, trial in zip(workplace.trials("chaos"), workplace.study("chaos"), strict=True):
        diverges = trial.params["alpha_init"] == 50.0
        assert (trial.state.name == "FAIL") == diverges
        assert run.data.tags.get("sweep.reason", DIVERGED if diverges else "").startswith(DIVERGED if diverges else "")
    states = Counter(trial.state.name for trial in workplace.study("chaos"))
    assert {"COMPLETE", "PRUNED", "FAIL"} <= set(states), states


def values_are_those_of_undisturbed_runs(workplace: Workplace) -> None:
    """Bit for bit: every metric of every report but the speed."""
    for trial in workplace.study("chaos"):
        record, _ = read_history(workplace.folder / "mlruns" / "sweeps" / "chaos" / "trials" / f"{trial.number:04d}")
        steps = sorted(trial.intermediate_values)
        if record is None:
            assert not steps
            continue
        settings = TrialConfig.parse(record.settings, "its record")
        inputs = tasks.obtain(settings, CLASSIFIERS)
        undisturbed: list[dict[str, Any]] = []
        try:
            for report in Trainer(settings, inputs.classifiers, ReferenceSet.of(inputs.images, "cpu")).run():
                undisturbed.append({"step": report.step, **report.metrics})
                if len(undisturbed) == len(steps) and trial.state.name != "FAIL":
                    break
        except Diverged:
            assert trial.state.name == "FAIL"
        assert [row["step"] for row in undisturbed] == steps
        assert {row["step"]: row["ssim/coverage"] for row in undisturbed} == trial.intermediate_values
        assert _plain(record.history)[: len(steps)] == _plain(undisturbed), f"trial {trial.number}"


def _plain(history: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """NaN is equal to NaN here: some scores have no value on some reports."""
    return [
        {name: "nan" if math.isnan(value) else value for name, value in row.items() if not name.startswith("time/")}
        for row in history
    ]


def asha_decided_as_it_does_undisturbed(sweep: Path) -> None:
    """Its rules, from nothing, on the values in the order in which the study got them."""
    with sqlite3.connect(f"file:{sweep / 'study.db'}?mode=ro&immutable=1", uri=True) as study:
        arrivals = study.execute(
            "SELECT number, step, intermediate_value, state FROM trial_intermediate_values JOIN trials USING (trial_id) "
            "ORDER BY trial_intermediate_value_id"
        ).fetchall()
    study.close()
    config = recorded_config(sweep)
    fresh, last = ASHA(config, []), {number: step for number, step, _, _ in sorted(arrivals)}
    for number, step, value, state in arrivals:
        stops = step == last[number] and state in ("PRUNED", "COMPLETE")
        assert fresh.decide(number, step, value) == (Decision.STOP if stops else Decision.KEEP), (number, step, state)
    assert any(state == "PRUNED" for *_, state in arrivals)


def nothing_is_left(chaos: Chaos) -> None:
    """No process, lock or temporary file."""
    sweep, folder = chaos.sweep, chaos.workplace.folder
    assert sweep_processes(sweep) == []
    own = {os.getpid(), *(parent.pid for parent in psutil.Process().parents())}
    assert processes_about(folder.parent, own) == []
    assert current_driver(sweep) is None and stale_files(sweep) == []
    assert {path.name for path in sweep.iterdir()} == {".lock", "study.db", "summary.json", "sweep.yaml", "trials"}
    kept = {"last.ckpt", "previous.ckpt", "history.json", "samples.png", "error.log"}
    assert {path.name for path in sweep.glob("trials/*/*")} <= kept
    drivers = {str(run.process.pid) for run in chaos.runs}
    # Somebody else's may have lain there before, and process numbers come again.
    sessions = [path for path in ray_sessions() - chaos.sessions if path.name.rpartition("_")[2] in drivers]
    assert sessions == []
