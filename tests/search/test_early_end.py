"""Real sweeps that end by a budget, and trials that a rule stops."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from typing import Any

import pytest

from records.trial import SECOND_AT
from search.policy.early_stopping import stopping_rule
from search.spec.config import SweepConfig
from tests.conftest import TINY
from tests.search.conftest import tiny_sweep
from tests.support.workplace import EXPORT, Workplace

pytestmark = pytest.mark.sweep


@pytest.mark.long
def test_a_time_budget_ends_a_sweep_for_good(workplace: Workplace) -> None:
    file = workplace.file("short", trials=50, trial={**TINY, "steps": 3000}, scheduler={"name": "none"})
    code, output = workplace.run("--config", file, "--time-budget", "6s", "--concurrency", "1")
    assert code == 0, output
    runs = workplace.trials("short")
    assert 0 < len(runs) < 50
    assert {run.data.tags["sweep.outcome"] for run in runs} <= {"stopped", "complete"}
    code, output = workplace.run("--config", file)
    assert code == 0 and "finished already" in output


def test_budgets_of_steps_and_patience_end_a_sweep_and_can_be_extended(workplace: Workplace) -> None:
    file = workplace.file("budgets", trials=50, sampler="cmaes", scheduler={"name": "median", "grace": 3})
    code, output = workplace.run("--config", file, "--max-steps", "60", "--concurrency", "1")
    assert code == 0, output
    assert "60 steps" in output and re.search("ended: .*steps", output), output
    assert workplace.status("budgets")["ended_by"] == "steps"
    taken = sum(max(trial.intermediate_values, default=0) for trial in workplace.study("budgets"))
    assert 60 <= taken <= 60 + 3  # a report
    first = len(workplace.trials("budgets"))
    workplace.check_records_agree("budgets", first)
    assert workplace.parents("budgets")[0].info.status == "FINISHED"
    code, output = workplace.run("--config", file)
    assert code == 0 and re.search("finished already; .*--max-steps", output), output

    code, output = workplace.run("--config", file, "--max-steps", "90000", "--patience", "2", "--concurrency", "1")
    assert code == 0, output
    summary = json.loads((workplace.folder / "mlruns" / "sweeps" / "budgets" / "summary.json").read_text())
    assert summary["finished"] and summary["ended_by"] == "patience" and first < summary["trials"] < 50
    workplace.check_records_agree("budgets", summary["trials"])
    code, output = workplace.run("--config", file)
    assert code == 0 and re.search("finished already; .*--patience", output), output


@pytest.mark.long
@pytest.mark.parametrize(
    "changes",
    [
        {"scheduler": {"name": "hyperband", "reduction_factor": 2, "grace": 3}, "sampler": "bohb"},
        {
            "scheduler": {"name": "asha", "reduction_factor": 2, "grace": 3},
            "second_objective": {"metric": "kkt/rho", "direction": "min"},
        },
    ],
    ids=["hyperband and bohb", "two objectives"],
)
def test_trials_are_stopped_as_in_a_sweep_that_nothing_interrupts(workplace: Workplace, changes: dict[str, Any]) -> None:
    name = changes["scheduler"]["name"]
    command = ("--config", workplace.file(name, trials=6, **changes), "--concurrency", "1")
    process = workplace.start(*command)
    workplace.wait_for(process, "trial 0002  step ")
    workplace.kill_everything(process)
    code, output = workplace.run(*command)
    assert code == 0 and "Traceback" not in output, output
    rule = stopping_rule(SweepConfig.parse(tiny_sweep(name=name, trials=6, **changes), "test"), [])
    for trial in workplace.study(name):
        steps = sorted(trial.intermediate_values)
        seconds = trial.user_attrs.get(SECOND_AT, {})
        decisions = [rule.decide(trial.number, step, trial.intermediate_values[step], seconds.get(str(step))) for step in steps]
        assert [decision.value for decision in decisions] == ["keep"] * (len(steps) - 1) + ["stop"], (trial.number, steps)
    assert workplace.run_here("--check", name)[0] == 0


@pytest.mark.long
def test_two_objectives_over_a_grid(workplace: Workplace) -> None:
    space = {"lr": {"log10": [-3.0, -2.0], "points": 2}, "batch_size": {"choice": [16, 32]}}
    file = workplace.file("front", trials={"per_slot": 1}, space=space)
    command = ("--config", file, "--sampler", "grid", "--objective", "ssim/coverage,kkt/rho", "--concurrency", "1")
    process = workplace.start(*command)
    workplace.wait_for(process, "  step ")
    workplace.kill_everything(process)
    code, output = workplace.run(*command)
    assert code == 0, output
    assert re.search("ended: .*grid", output) and "front: " in output, output
    study = workplace.study("front")
    assert len({(t.params["lr"], t.params["batch_size"]) for t in study}) == 4
    values = {t.number: t.values for t in study}
    best = {
        number for number, (ssim, rho) in values.items()
        if not any(other != [ssim, rho] and other[0] >= ssim and other[1] <= rho for other in values.values())
    }  # fmt: skip
    summary = json.loads((workplace.folder / "mlruns" / "sweeps" / "front" / "summary.json").read_text())
    assert {point["trial"] for point in summary["front"]} == best and summary["ended_by"] == "grid"
    first = max(values, key=lambda number: (values[number][0], -values[number][1]))
    assert summary["best_trial"] == summary["front"][0]["trial"] == first
    tags = workplace.parents("front")[0].data.tags
    assert {int(number) for number in tags["sweep.front"].split()} == best and tags["sweep.best_trial"] == str(first)
    for run in workplace.trials("front"):
        rho = workplace.client().get_metric_history(run.info.run_id, "kkt/rho")[-1].value
        assert rho == values[int(run.data.tags["sweep.trial"])][1]
    command = [sys.executable, EXPORT, "--sweep", "front", "--out", "front-exported", "--json"]
    exported = subprocess.run(command, cwd=workplace.folder, check=True, capture_output=True, text=True)
    assert json.loads(exported.stdout)["trial"] == first
