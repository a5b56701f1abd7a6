"""Architectures that people bring, all in one real sweep: none is refused, and what is off is said and on record."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.conftest import TINY
from tests.support.own_networks import LOSSES, NETWORKS, OFF
from tests.support.workplace import Workplace

pytestmark = [pytest.mark.sweep, pytest.mark.long]


def test_every_architecture_is_tried_in_a_sweep(workplace: Workplace) -> None:
    (workplace.folder / "people.py").write_text(NETWORKS)
    names = [f"people:{name}" for name in OFF]
    run_length = {"steps": 4, "report_every": 4, "batch_size": 20, "eval_per_class": 2}
    trial = {**TINY, **LOSSES, **run_length, "classifier": {"steps": 5, "lr": 0.01}}
    file = workplace.file(
        "people", trial=trial, space={"classifier.name": {"choice": names}}, scheduler={"name": "none"},
        first_trials=[{"classifier.name": name} for name in names], trials=len(names),
    )  # fmt: skip
    code, output = workplace.run("--config", file)
    assert code == 0 and "Traceback" not in output, output

    runs = workplace.trials("people")
    assert {run.data.params["classifier.factory"].removeprefix("people:") for run in runs} == {*OFF}
    for run in runs:
        name = run.data.params["classifier.factory"].removeprefix("people:")
        assert run.data.tags["sweep.outcome"] == "complete", name
        losses = {key.removeprefix("loss/") for key in run.data.metrics if key.startswith("loss/")}
        with_statistics = set() if OFF[name] else {"bn"}
        assert losses == {"total", "stationarity", "duality", "ce", "tv", "diversity", "row_space"} | with_statistics, name
        assert run.data.metrics["kkt/rho"] > 0
        reason = [line for line in output.splitlines() if line.startswith(f"{name}: off: ")]
        assert len(reason) == len(OFF[name]) and all("bn_weight, because " in line for line in reason), output
    (sweep,) = workplace.parents("people")
    regimes = workplace.client().download_artifacts(sweep.info.run_id, "classifier.json")
    on_record = {
        folder.split("-")[1]: {*regime.get("off", {})} for folder, regime in json.loads(Path(regimes).read_text()).items()
    }
    assert on_record == OFF
    assert workplace.run_here("--check", "people")[0] == 0, workplace.run_here("--check", "people")[1]
