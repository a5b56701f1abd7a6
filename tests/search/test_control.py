"""A real sweep that gets orders from another terminal, is stopped by one, and repeats its best settings at the end."""

from __future__ import annotations

import json

import pytest

from tests.support import missing
from tests.support.workplace import Workplace

pytestmark = [pytest.mark.sweep, pytest.mark.long]


def test_a_sweep_is_stopped_gets_a_setting_and_ends_with_finalists(workplace: Workplace) -> None:
    file = workplace.file("told", trials=2, scheduler={"name": "none"}, time_budget=20.0)
    arguments = ("--config", file, "--concurrency", "1", "--finalists", "1", "--seeds", "2")
    driver = workplace.start(*arguments)
    seen = workplace.wait_for(driver, "step 3/12")
    assert missing(["best 1 settings", "2 fresh seeds", "of the time budget"], seen) == []
    assert workplace.run_here("--enqueue", "told", "lr=5e-3,batch_size=16")[0] == 0
    code, output = workplace.run_here("--stop", "told")
    assert code == 0 and "has stopped" in output, output
    assert driver.wait(60) == 130
    assert workplace.status("told")["state"] == "interrupted"

    code, output = workplace.run(*arguments)
    assert code == 0 and "on a fresh seed" in output, output
    workplace.check_records_agree("told", 5)
    given = [trial for trial in workplace.study("told") if trial.user_attrs.get("warm_start") == "enqueue"]
    assert [(trial.params["lr"], trial.params["batch_size"]) for trial in given] == [(5e-3, 16)]
    again = [trial.user_attrs["repeats"] for trial in workplace.study("told") if "repeats" in trial.user_attrs]
    summary = json.loads((workplace.folder / "mlruns/sweeps/told/summary.json").read_text())
    assert again == [summary["best_trial"]] * 2 and summary["finished"] and summary["finalists"][0]["trial"] == again[0]
    assert missing(["±", f"trial {again[0]}"], output) == []
    assert workplace.run_here("--check", "told")[0] == 0, workplace.run_here("--check", "told")[1]
    assert workplace.run_here("--enqueue", "told", "lr=5")[0] == 2
