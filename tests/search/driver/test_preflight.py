"""Measurements before a sweep."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest
from rich.console import Console

from gbc.errors import BadInput
from gbc.training.cuda_graph import STEPS_BEFORE_REPLAY
from search.driver.preflight import check, largest_trial, prepare, probe_settings, variants
from search.driver.resources import Machine
from search.spec.config import SweepConfig
from tests.conftest import TINY
from tests.support import missing

GELU = "from torch import nn\ndef net(): return nn.Sequential(nn.Flatten(), nn.Linear(64, 8), nn.GELU(), nn.Linear(8, 10))"


def test_the_measured_trial_has_all_that_takes_memory(config: SweepConfig) -> None:
    """Losses that start late begin a new CUDA graph, and no graph is made in the first steps."""
    late = config.model_copy(update={"trial": config.trial.updated({"kkt_from": 0.5}, "test")})
    (variant,) = variants(late)
    probe = probe_settings(late, variant)
    assert probe.kkt_from == 0 and probe.steps > STEPS_BEFORE_REPLAY and probe.report_every == probe.steps
    assert probe.batch_size == largest_trial(config, variant).batch_size


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


CHOICES = {
    "classifier.name": {"choice": ["mlp", "mlp_bn", "conv"]},
    "classifier.hidden": {"choice": [8, 16], "when": {"classifier.name": "mlp_bn"}},
    "bn_weight": {"uniform": [0.1, 1.0], "when": {"classifier.name": "mlp_bn"}},
    "row_space_weight": {"uniform": [0.1, 1.0], "when": {"classifier.name": "mlp"}},
    "batch_size": {"choice": [16, 32]},
    "width": {"int": [16, 64], "when": {"classifier.name": "conv"}},
}


def with_choices(**changes: object) -> SweepConfig:
    trial = {
        **TINY,
        "bn_weight": 0.0,
        "dataset": {"name": "digits", "per_class": 10},
        "classifier": {"hidden": 8, "steps": 20, "lr": 0.1},
    }
    return SweepConfig.parse({"name": "s", "trial": trial, "space": CHOICES, "trials": 1, **changes}, "test")


def test_each_classifier_of_a_space_is_a_variant_with_what_it_may_search() -> None:
    config = with_choices()
    variants_by_network = {
        (variant.settings.classifier.name, variant.settings.classifier.hidden): variant for variant in variants(config)
    }
    assert set(variants_by_network) == {("mlp", 8), ("mlp_bn", 8), ("mlp_bn", 16), ("conv", 8)}
    assert variants_by_network["mlp_bn", 16].searched == {"classifier.name", "classifier.hidden", "bn_weight", "batch_size"}
    assert [variants_by_network[key].row_space.row_space_weight for key in (("mlp", 8), ("conv", 8))] == [1.0, 0.0]
    assert (
        largest_trial(config, variants_by_network["conv", 8]).width == 64
        and largest_trial(config, variants_by_network["mlp", 8]).width == TINY["width"]
    )
    assert all(largest_trial(config, variant).batch_size == 32 for variant in variants_by_network.values())


def test_a_dry_run_checks_every_classifier_that_is_a_choice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert [line for line in check(with_choices()) if "bn_weight" in line] == []
    always = {**CHOICES, "bn_weight": {"uniform": [0.1, 1.0]}}
    lines = [line for line in check(with_choices(space=always)) if "bn_weight" in line]
    assert [line.partition(":")[0] for line in lines] == ["mlp", "conv"]  # without BatchNorm
    for choices, named in ((["mlp", "lenet"], "lenet5"), (["mlp", "nowhere:net"], "nowhere")):
        with pytest.raises(BadInput, match=named):
            check(with_choices(space={"classifier.name": {"choice": choices}}))
    with pytest.raises(BadInput, match="loss/bn"):  # which a trial with the mlp would not report
        check(with_choices(space=always, objective={"metric": "loss/bn", "direction": "min"}))
    assert list(tmp_path.iterdir()) == []


def test_each_classifier_is_trained_once_and_on_record(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    config = with_choices(space={"classifier.name": {"choice": ["mlp", "mlp_bn"]}})
    console, machine = Console(file=io.StringIO()), Machine.local(config.resources, cpus=1, gpus=0)
    prepared = prepare(config, machine, console)
    record = json.loads(prepared.regimes())
    folders = {
        folder.name for folder in (tmp_path / "mlruns" / "classifiers").iterdir() if folder.is_dir() and folder.name in record
    }
    assert len(record) == 2 == len(folders) and len(prepared.origin()["classifier.digest"].split()) == 2
    assert prepared.steps_per_second() > 0
    trained = {path: path.stat().st_mtime_ns for path in (tmp_path / "mlruns" / "classifiers").rglob("*") if path.is_file()}
    prepare(config, machine, console)
    assert trained == {path: path.stat().st_mtime_ns for path in trained}
