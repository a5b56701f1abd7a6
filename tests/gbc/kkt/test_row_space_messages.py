"""Messages about the row space: why a classifier has none, and what its spectrum says at the start of a run."""

from __future__ import annotations

import io
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from rich.console import Console
from torch import Tensor, nn

from gbc.__main__ import main
from gbc.errors import BadInput
from gbc.kkt.row_space import RowSpaces, linear_layers, row_space_layers
from search.driver.preflight import prepare
from search.driver.resources import Machine
from search.run import main as search
from search.spec.config import SweepConfig
from tests.conftest import TINY


class Own(nn.Module):
    """Weights of its own, of any shape."""

    def __init__(self, *shape: int) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(shape))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.scale


@pytest.mark.parametrize(
    ("layers", "message"),
    [
        ([nn.BatchNorm1d(12), nn.Linear(12, 3)], r"BatchNorm1d \(0\) "),
        ([nn.ReLU(), nn.LayerNorm(12), nn.Linear(12, 3)], r"LayerNorm \(1\) "),
        ([nn.Unflatten(1, (2, 6)), nn.Conv1d(2, 3, 3)], r".* 1 \(Conv1d\)"),
        ([nn.Unflatten(1, (2, 6, 1)), nn.Conv2d(2, 4, 1, groups=2)], r".* 1 \(Conv2d, grouped\)"),
        ([Own(1, 12), nn.Linear(12, 3)], r".* 0 \(Own\)"),
        ([Own(12)], ".* convolutional "),
    ],
)
def test_classifiers_without_a_row_space_say_why(layers: list[nn.Module], message: str) -> None:
    module, example = nn.Sequential(*layers), torch.rand(2, 12)
    with pytest.raises(BadInput, match=f"^{message}") as caught:
        linear_layers(module, example)
    with pytest.raises(BadInput) as named:
        row_space_layers(module, example)
    assert str(named.value).startswith(f"row_space_weight: {caught.value}")
    with pytest.raises(BadInput, match=r"^row_space_weight: "):
        RowSpaces(module, example, 1e-3)


def test_a_network_that_is_one_layer_is_named_without_one() -> None:
    with pytest.raises(BadInput, match=r"whole network \(Own\)"):
        linear_layers(Own(1, 12), torch.rand(2, 12))


def test_what_changes_no_span_may_come_first() -> None:
    module = nn.Sequential(nn.Flatten(), nn.Identity(), Own(12), nn.Dropout(), nn.Linear(12, 3))
    assert list(linear_layers(module.train(), torch.rand(2, 3, 4))) == ["4"]
    assert module.training and not module[4]._forward_pre_hooks


FACTORIES = """
import torch
from torch import nn

def normalised_first():
    return nn.Sequential(nn.Flatten(), nn.BatchNorm1d(784), nn.Linear(784, 10))

def grouped():
    rows = nn.Sequential(nn.Unflatten(2, (4, 7)), nn.Flatten(1, 2))
    return nn.Sequential(rows, nn.Conv2d(4, 8, 3, groups=2), nn.Flatten(), nn.Linear(1040, 10))

class Bare(nn.Module):
    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(10))
    def forward(self, x):
        return nn.functional.adaptive_avg_pool1d(x.flatten(1), 10) * self.scale
"""
CONVERGED = {
    "name": "mlp", "hidden": 64, "optimiser": "converge", "lr": 0.2, "weight_decay": 0.05, "steps": 300, "polish": 0,
}  # fmt: skip
FAULTS = {
    "normalised_first": ": BatchNorm1d (1) ",
    "grouped": " 1 (Conv2d, grouped)",
    "Bare": " convolutional ",
}


@pytest.fixture
def factories(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A module `nets_of_row_space` in the current folder."""
    (tmp_path / "nets_of_row_space.py").write_text(FACTORIES)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "nets_of_row_space", raising=False)
    monkeypatch.chdir(tmp_path)


@pytest.mark.usefixtures("factories")
@pytest.mark.parametrize(
    ("use", "factory"),
    [*(("train", fault) for fault in FAULTS), ("expert", "grouped"), ("sweep", "normalised_first"), ("searched", "Bare")],
)
def test_the_commands_say_it_in_one_line_before_anything_is_trained(
    use: str, factory: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    mine = ["--classifier", f"nets_of_row_space:{factory}"]
    small = ["--set", "dataset.per_class=10"]
    if use == "train":
        code = main(["train", "--out", "out", "--cache", "cache", *mine, *small, "--set", "row_space_weight=1"])
    elif use == "expert":
        trial = {**TINY, "row_space_weight": 1.0, "experts": [{"classifier": {"factory": f"nets_of_row_space:{factory}"}}]}
        (tmp_path / "trial.yaml").write_text(yaml.safe_dump(trial))
        code = main(["train", "--out", "out", "--cache", "cache", "--config", "trial.yaml"])
    elif use == "sweep":
        code = search([*mine, *small, "--set", "row_space_weight=1", "--trials", "1"])
    else:
        sweep = {"name": "s", "trial": TINY, "space": {"row_space_weight": {"uniform": [0.0, 1.0]}}, "trials": 1}
        (tmp_path / "sweep.yaml").write_text(yaml.safe_dump(sweep))
        code = search(["--config", "sweep.yaml", *mine])
    error = capsys.readouterr().err
    assert code == 2
    assert error.startswith("error: row_space_weight: ") and FAULTS[factory] in error and error.count("\n") == 1
    assert not list(tmp_path.rglob("*.safetensors")) and not list(tmp_path.glob("mlruns/**/sweep.yaml"))


SAYS_NOTHING = "says nothing"
WARNING = "warning: the row-space loss has no information there; set row_space_weight=0, or train the classifier"  # golden


def digits(**changes: Any) -> dict[str, Any]:
    """A small trial on digits."""
    classifier = {"name": "mlp", "hidden": 16, "steps": 60, "lr": 0.1}
    return {**TINY, "dataset": {"name": "digits", "per_class": 10}, "bn_weight": 0.0, "classifier": classifier, **changes}


@pytest.mark.parametrize("weight", [0.0, 1.0])
def test_train_says_what_the_spectrum_tells(weight: float, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "trial.yaml").write_text(yaml.safe_dump(digits(row_space_weight=weight)))
    command = ["train", "--config", str(tmp_path / "trial.yaml"), "--out", str(tmp_path / "out")]
    assert main([*command, "--cache", str(tmp_path / "cache")]) == 0
    lines = [line for line in capsys.readouterr().err.splitlines() if "row space" in line or "warning" in line]
    assert len(lines) == (2 if weight else 0)
    if weight:
        assert lines[0].startswith("classifier digits-mlp-") and SAYS_NOTHING in lines[0]
        assert lines[1].startswith(WARNING) and "classifier.decay=all" in lines[1]


@pytest.mark.parametrize("use", ["off", "on", "searched"])
def test_a_sweep_says_at_its_start_what_the_spectrum_tells(use: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    trial = digits(row_space_weight=float(use == "on"), experts=[{"classifier": CONVERGED, "weights": {"row_space": 2.0}}])
    space = {"row_space_weight" if use == "searched" else "lr": {"log10": [-3.0, 0.0]}}
    config = SweepConfig.parse({"name": "s", "trial": trial, "space": space, "trials": 1}, "test")
    shown = io.StringIO()
    prepared = prepare(config, Machine.local(config.resources, cpus=1, gpus=0), Console(file=shown, width=60))
    assert prepared.variants[0].settings == config.trial
    lines = [line for line in shown.getvalue().splitlines() if "row space" in line or "warning" in line]
    assert len(lines) == (0 if use == "off" else 3)
    if lines:
        assert SAYS_NOTHING in lines[0] and lines[1].startswith(WARNING)
        assert "says where" in lines[2]
