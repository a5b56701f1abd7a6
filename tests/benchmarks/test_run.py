"""The harness of the benchmarks; no figure is asserted."""

from __future__ import annotations

import importlib
import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

from gbc.config import TrialConfig
from tests.benchmarks import harness, peers_objective, run
from tests.benchmarks.harness import Column, Options
from tests.benchmarks.peers_sweep import Sweep

HERE = Path(run.__file__).parent


@pytest.mark.parametrize("name", run.GROUPS)
def test_a_group_says_what_it_is(name: str) -> None:
    group = importlib.import_module(f"tests.benchmarks.{name}")
    assert name == group.NAME
    assert group.ABOUT and "\n" not in group.ABOUT
    assert group.COLUMNS and callable(group.rows)


def test_every_command_is_in_the_readme_and_in_the_help() -> None:
    readme, help_text = (HERE / "README.md").read_text(), run.parser().format_help()
    for name in run.GROUPS:
        assert f"`{name}`" in readme and name in help_text
    shared = {
        "__init__",
        "run",
        "harness",
        "plain",
        "step_differences",
        "peer_task",
        "peer_optuna",
        "peer_ray",
        "test_run",
        "gpu_record",
        "test_gpu_proof",
        "test_fidelity",
        *run.GROUPS,
    }
    for path in HERE.glob("*.py"):
        if path.stem not in shared:
            assert f"`{path.name}`" in readme and path.name in help_text


def test_what_is_compared_takes_turns_and_each_begins_a_round() -> None:
    turns: list[str] = []

    def contender(name: str) -> Callable[[], float]:
        return lambda: turns.append(name) or float(len(turns))  # type: ignore[func-returns-value]

    times = harness.interleaved({name: contender(name) for name in "abc"}, 3)
    assert "".join(turns) == "abcbcacab"
    assert times == {"a": [1, 6, 8], "b": [2, 4, 9], "c": [3, 5, 7]}


def test_a_ratio_is_the_median_of_the_rounds_and_not_a_ratio_of_medians() -> None:
    # A slow round slows both.
    assert harness.ratio([2, 40, 3], [1, 20, 1]) == 2
    assert harness.milliseconds([0.001, 0.5, 0.002]) == 2


def test_a_turn_counts_its_steps() -> None:
    steps: list[None] = []
    measure = harness.turn(lambda: steps.append(None), Options(quick=True, device="cpu"), steps=7)
    assert len(steps) == 2  # before
    assert measure() > 0 and len(steps) == 9


def test_a_table_writes_a_dash_for_what_was_not_measured() -> None:
    columns = (Column("name", "name"), Column("value", "ms", ".1f"))
    rows: list[harness.Row] = [{"name": "a", "value": 12.34, "more": 1}, {"name": "longer", "value": None}]
    assert harness.table(columns, rows) == "name      ms\na       12.3\nlonger     –"


@pytest.mark.parametrize("size", harness.PRESETS)
def test_a_size_is_its_preset(size: str) -> None:
    settings = harness.settings_of(size, Options(device="cpu"), batch_size=128)
    (classifier,) = harness.untrained(settings)
    assert isinstance(settings, TrialConfig) and settings.device == "cpu" and settings.batch_size == 128
    assert (classifier.shape, settings.classifier.hidden, settings.width, settings.bn_weight > 0) == {
        "quick": ((1, 8, 8), 1000, 256, True),
        "default": ((1, 28, 28), 1000, 256, True),
        "paper": ((1, 28, 28), 1000, 512, False),
    }[size]


def test_the_machine_is_described_without_its_name() -> None:
    import platform

    machine = harness.machine(Options(device="cpu"))
    assert machine["gpu"] is None and machine["torch"] == torch.__version__
    assert platform.node() not in json.dumps(machine).split('"')


def test_figures_of_a_sweep() -> None:
    # Four trials of 5 s by two at a time: 10 s of work, 12 s from the first start to the last end, 16 s in all.
    figures = Sweep(wall=16.0, span=12.0, training=[5.0, 5.0, 4.0, 6.0]).figures(slots=2)
    assert figures == {
        "trials_per_hour": 900, "overhead_s": 3, "running_s": 1, "training_s": 5, "outside_s": 4, "wall_s": 16,
    }  # fmt: skip


def test_the_objective_of_the_literature_is_a_gradient_for_each_image() -> None:
    rng = torch.Generator().manual_seed(0)
    phi = nn.Sequential(nn.Flatten(), nn.Linear(16, 12), nn.ReLU(), nn.Linear(12, 10))
    for parameter in phi.parameters():
        nn.init.normal_(parameter, generator=rng)
    theirs = peers_objective.PixelsOfTheLiterature(phi, (1, 4, 4), 7, slope=20.0)
    with torch.no_grad():
        theirs.images.normal_(generator=rng)
        theirs.multipliers.normal_(generator=rng)
    zeta = torch.cat([parameter.detach().flatten() for parameter in theirs.phi.parameters()])
    for image, label, multiplier in zip(theirs.images, theirs.labels, theirs.multipliers, strict=True):
        logits = theirs.phi(image[None])[0]
        margin = logits[label] - max(logit for c, logit in enumerate(logits) if c != label)
        gradients = torch.autograd.grad(margin, list(theirs.phi.parameters()))
        zeta = zeta - multiplier.detach() * torch.cat([gradient.flatten() for gradient in gradients])
    parts = theirs.parts()
    assert parts["stationarity"].item() == pytest.approx((zeta @ zeta).item(), rel=1e-5)  # float32
    short = [max(0.0, 0.05 - multiplier) ** 2 for multiplier in theirs.multipliers.tolist()]
    assert parts["multipliers"].item() == pytest.approx(sum(short), rel=1e-5)
    before = theirs.images.detach().clone()
    theirs.step()
    assert not torch.equal(before, theirs.images)


@pytest.mark.long
def test_the_command_measures_a_group_and_writes_its_rows(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The smallest group that has everything: guards, turns, memory in a fresh process, table, JSON."""
    path = tmp_path / "rows.json"
    monkeypatch.setenv("OMP_NUM_THREADS", "1")  # the command sets it
    assert run.main(["--only", "step", "--quick", "--device", "cpu", "--json", str(path)]) == 0
    record = json.loads(path.read_text())
    assert set(record) == {"machine", "quick", "groups"} and record["quick"]
    rows = record["groups"]["step"]["rows"]
    group = importlib.import_module("tests.benchmarks.step")
    for row in rows:
        assert row.keys() == rows[0].keys() >= {column.key for column in group.COLUMNS}
        assert all(value is None or isinstance(value, str | int | float) for value in row.values())
        assert row["ours_ms"] > 0 and row["ours_mb"] > 0
    assert "plain/ours" in capsys.readouterr().out
