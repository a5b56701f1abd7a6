"""A real sweep over two classifiers with conditions and a constraint: interrupted, told a setting, continued, repeated."""

from __future__ import annotations

import signal
from typing import Any

import pytest

from search.spec.config import SweepConfig
from tests.conftest import TINY
from tests.search.conftest import tiny_sweep
from tests.support.workplace import Workplace

pytestmark = [pytest.mark.sweep, pytest.mark.long]

CHANGES: dict[str, Any] = {
    "trial": {**TINY, "bn_weight": 0.0},
    "space": {
        "lr": {"log10": [-3.5, -2.0]},
        "classifier.name": {"choice": ["mlp", "mlp_bn"]},
        "bn_weight": {"uniform": [0.1, 1.0], "when": {"classifier.name": "mlp_bn"}},
        "noise_dim": {"int": [4, 12]},
    },
    "constraints": ["noise_dim <= channels or classifier.name == 'mlp'"],
    "first_trials": [{"classifier.name": "mlp"}, {"classifier.name": "mlp_bn", "bn_weight": 0.5}],
    "scheduler": {"name": "none"},
    "trials": 3,
}


def test_trials_with_different_settings_are_one_sweep(workplace: Workplace) -> None:
    file = workplace.file("spaces", **CHANGES)
    arguments = ("--config", file, "--concurrency", "1", "--finalists", "1", "--seeds", "2")
    driver = workplace.start(*arguments)
    workplace.wait_for(driver, "step 3/12")
    assert workplace.run_here("--enqueue", "spaces", "bn_weight=0.3")[0] == 2
    assert workplace.run_here("--enqueue", "spaces", "classifier.name=mlp_bn,noise_dim=12")[0] == 2
    assert workplace.run_here("--enqueue", "spaces", "classifier.name=mlp_bn,bn_weight=0.3,noise_dim=8")[0] == 0
    driver.send_signal(signal.SIGINT)
    assert driver.wait(90) == 130

    code, output = workplace.run(*arguments)
    assert code == 0 and "note:" not in output and "Traceback" not in output, output
    workplace.check_records_agree("spaces", 6)
    space = SweepConfig.parse(tiny_sweep(**CHANGES), "test").search_space
    trials = workplace.study("spaces")
    assert all(space.is_whole(trial.params) and space.broken(trial.params) is None for trial in trials)
    assert {trial.params["classifier.name"] for trial in trials} == {"mlp", "mlp_bn"}
    again = [trial for trial in trials if "repeats" in trial.user_attrs]
    assert len(again) == 2 and all(trial.params == trials[trial.user_attrs["repeats"]].params for trial in again)
    for run in workplace.trials("spaces"):
        trial = trials[int(run.data.tags["sweep.trial"])]
        assert run.data.params["classifier.name"] == trial.params["classifier.name"]
        assert run.data.params["bn_weight"] == str(trial.params.get("bn_weight", 0.0))
        (model,) = workplace.client().get_run(run.info.run_id).inputs.model_inputs
        assert f"-{trial.params['classifier.name']}-" in workplace.client().get_logged_model(model.model_id).name
    assert len(list((workplace.folder / "mlruns" / "classifiers").glob("fashion_mnist-mlp*"))) == 2
    assert workplace.run_here("--check", "spaces")[0] == 0, workplace.run_here("--check", "spaces")[1]
