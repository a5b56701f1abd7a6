from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
import yaml
from torch import nn

from gbc import losses
from gbc.__main__ import main
from gbc.audit import Audit, Condition, audit, best_multipliers, probes
from gbc.config import TrialConfig
from gbc.datasets import ImageDataset
from gbc.tasks import obtain
from tests.conftest import TINY


def test_the_two_point_svm_needs_a_multiplier_of_a_quarter_each() -> None:
    """As in test_losses: W = Σ μ_i (∇Φ_y − ∇Φ_c) with μ = ¼; on the wrong points no μ ≥ 0 explains anything."""
    phi = nn.Linear(2, 2, bias=False)
    with torch.no_grad():
        phi.weight.copy_(torch.tensor([[0.5, 0.0], [-0.5, 0.0]]))
    target = phi.weight.detach().flatten() / 2
    points, labels = torch.tensor([[1.0, 0.0], [-1.0, 0.0]]), torch.tensor([0, 1])
    multipliers, pulled = best_multipliers(phi, points, labels, target, "eval")
    torch.testing.assert_close(pulled, target, rtol=0, atol=1e-4)  # FISTA stops after a fixed number of steps
    torch.testing.assert_close(multipliers.sum(1), torch.tensor([0.25, 0.25]), rtol=0, atol=1e-3)
    _, wrong = best_multipliers(phi, -points, labels, target, "eval")
    assert wrong.norm() < 1e-6


@pytest.mark.parametrize("mode", ["train", "eval"])
def test_the_transpose_belongs_to_the_pull(images: ImageDataset, tmp_path: Path, mode: str) -> None:
    """No other multipliers do better: moving any by a little in an allowed direction only raises the residual."""
    config = TrialConfig.parse(TINY, "test")
    module = obtain(config, tmp_path).classifier.module
    x, labels = (tensor[::5] for tensor in images.train())
    parameters = list(module.parameters())
    target = torch.cat([p.detach().flatten() for p in parameters])
    found, pulled = best_multipliers(module, x, labels, target, mode, iterations=400)
    best = (target - pulled).norm()
    rng = torch.Generator().manual_seed(0)
    from gbc.classifiers import normalising_by

    for size in (1e-3, 1e-2):
        other = (found + size * found.max() * torch.randn(found.shape, generator=rng)).clamp_min(0)
        with normalising_by(module, mode):
            assert (target - losses.pull(module(x), labels, other, parameters).detach()).norm() > best * (1 - 1e-4)


def test_probes_are_sets_of_the_size_of_the_training_set(images: ImageDataset) -> None:
    sets = probes(images)
    assert list(sets) == ["training set", "other real images", "class means", "rows shuffled", "uniform noise"]
    for pictures, labels in sets.values():
        assert pictures.shape == (100, 1, 28, 28) and torch.bincount(labels).tolist() == [10] * 10
    shuffled, original = sets["rows shuffled"][0], sets["training set"][0]
    assert not torch.equal(shuffled, original)
    torch.testing.assert_close(shuffled.sum((1, 2, 3)), original.sum((1, 2, 3)))


def test_a_converged_classifier_knows_its_training_set(images: ImageDataset, tmp_path: Path) -> None:
    """The training images satisfy the closed form better than any probe; the verdict says so."""
    classifier = {"name": "mlp", "hidden": 16, "weight_decay": 0.02, "lr": 0.1, "steps": 3000}
    config = TrialConfig.parse({**TINY, "classifier": classifier}, "test")
    world = obtain(config, tmp_path)
    found = audit(world.classifier.module, images, 0.02, world.regimes[0])
    closed = [condition for condition in found.conditions if condition.name.startswith("closed form")]
    assert [condition.name for condition in closed] == [
        "closed form, 1.weight",
        "closed form, 3.weight",
        "closed form, 5.weight",
    ]
    for condition in closed:
        assert min(condition.values, key=condition.values.__getitem__) == "training set"
    assert "A KKT loss can work" in found.verdict()


def test_the_verdict_follows_the_numbers() -> None:
    def condition(train: float, other: float, cosine: float) -> Condition:
        sets = ("training set", "other real images")
        return Condition("c", dict(zip(sets, (train, other), strict=True)), dict(zip(sets, (cosine, 0.1), strict=True)))

    assert Audit([condition(0.3, 0.9, 0.9)], {}).verdict().startswith("A KKT loss can work")
    assert Audit([condition(5.0, 90.0, 0.9)], {}).verdict().startswith("A KKT loss can work")
    assert Audit([condition(0.95, 0.99, 0.2)], {}).verdict().startswith("No condition tells")


def test_the_command_writes_json_and_markdown(
    classifier_cache: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = tmp_path / "trial.yaml"
    config.write_text(yaml.safe_dump(TINY))
    command = ["audit", "--config", str(config), "--cache", str(classifier_cache), "--out", str(tmp_path / "out")]
    assert main(command) == 0
    shown = capsys.readouterr().out
    assert (tmp_path / "out" / "audit.md").read_text().strip() == shown.strip()
    found = json.loads((tmp_path / "out" / "audit.json").read_text())
    names = [condition["name"] for condition in found["conditions"]]
    assert names[:2] == ["max margin, last_layer, BatchNorm train", "max margin, last_layer, BatchNorm eval"]
    assert found["verdict"] in shown
