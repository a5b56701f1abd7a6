"""A sweep that an earlier version of this program began, and that was killed, is continued to its end."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from tests.support.stores import lay_down_earlier_sweep
from tests.support.workplace import Workplace

pytestmark = pytest.mark.sweep

RECORD = "mlruns/sweeps/before/sweep.yaml"


@pytest.mark.long
def test_a_sweep_of_an_earlier_version_is_continued_to_its_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    lay_down_earlier_sweep(tmp_path)
    workplace = Workplace(tmp_path, dataset="digits")
    before = {trial.number: trial.intermediate_values for trial in workplace.study("before")}
    assert {number: len(values) for number, values in before.items()} == {0: 8, 1: 2, 2: 1}
    runs = {run.data.tags["sweep.trial"]: run.info.run_id for run in workplace.trials("before")}

    code, output = workplace.run("--config", RECORD)
    assert code == 0, output
    assert re.search("continues .*2 of 4 ", output) and "Traceback" not in output
    workplace.check_records_agree("before", 4)
    assert workplace.run_here("--check", "before")[0] == 0
    after = {run.data.tags["sweep.trial"]: run.info.run_id for run in workplace.trials("before")}
    assert runs.items() <= after.items() and len(after) == 4

    unbroken = json.loads((tmp_path / "unbroken.json").read_text())
    for trial in workplace.study("before"):
        whole = unbroken[str(trial.number)]
        assert trial.state.name == whole["state"]
        stored = {name: trial.distributions[name].to_internal_repr(value) for name, value in trial.params.items()}
        assert stored == whole["params"]
        # Settings are equal to the last bit. Values come from another machine's arithmetic, which 40 steps of Adam amplify.
        values = {str(step): value for step, value in trial.intermediate_values.items()}
        assert values == pytest.approx(whole["values"], abs=1e-3)
        assert before.get(trial.number, {}).items() <= trial.intermediate_values.items()
