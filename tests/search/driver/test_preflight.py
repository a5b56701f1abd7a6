"""What is measured before a sweep."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest
from rich.console import Console

from gbc.training.cuda_graph import STEPS_BEFORE_REPLAY
from search.driver.preflight import largest_trial, prepare, probe_settings
from search.driver.resources import Machine
from search.spec.config import SweepConfig
from tests.conftest import TINY
from tests.support import missing

GELU = "from torch import nn\ndef net(): return nn.Sequential(nn.Flatten(), nn.Linear(64, 8), nn.GELU(), nn.Linear(8, 10))"


def test_the_measured_trial_has_all_that_takes_memory(config: SweepConfig) -> None:
    """Losses that start late begin a new CUDA graph, and no graph is made in the first steps."""
    late = config.model_copy(update={"trial": config.trial.updated({"kkt_from": 0.5}, "test")})
    probe = probe_settings(late)
    assert probe.kkt_from == 0 and probe.steps > STEPS_BEFORE_REPLAY and probe.report_every == probe.steps
    assert probe.batch_size == largest_trial(config).batch_size


def test_the_start_says_what_limits_lambda_and_the_record_holds_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "their_gelu_net.py").write_text(GELU)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.chdir(tmp_path)
    classifier = {"factory": "their_gelu_net:net", "steps": 20, "lr": 0.1}
    trial = {**TINY, "dataset": {"name": "digits", "per_class": 10}, "classifier": classifier}
    space = {"bn_weight": {"uniform": [0.0, 1.0]}}
    config = SweepConfig.parse({"name": "s", "trial": trial, "space": space, "trials": 1}, "test")
    shown = io.StringIO()
    prepared = prepare(config, Machine.local(config.resources, cpus=1, gpus=0), Console(file=shown, width=60))
    assert not missing(["bn_weight", "--set bn_weight=0", "last_layer", "2 limits", "GELU"], shown.getvalue())
    (record,) = json.loads(prepared.regimes()).values()
    assert record["class_names"] == [str(digit) for digit in range(10)]
    assert record["steps"] == 20 and set(record["off"]) == {"bn_weight"}
    assert record["lambda"]["limited_by"] == "2" and record["lambda"]["sentence"] in shown.getvalue()
