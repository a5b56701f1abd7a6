from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import torch
import yaml
from torch import nn

from gbc.__main__ import main
from gbc.classifier_config import ClassifierConfig
from gbc.classifiers import architectures
from gbc.config import TrialConfig
from gbc.data.datasets import ImageDataset
from gbc.errors import BadInput
from gbc.studies.audit import audit, max_margin, policy_results, probe_sets
from gbc.studies.findings import Audit, Condition
from gbc.studies.first_layer import FirstLayer
from gbc.training.tasks import obtain
from tests.conftest import TINY, TINY_CLASSIFIER
from tests.support import missing


def test_probes_are_sets_of_the_size_of_the_training_set(images: ImageDataset) -> None:
    sets = probe_sets(images)
    assert list(sets) == ["training set", "other real images", "class means", "rows shuffled", "uniform noise"]
    for pictures, labels in sets.values():
        assert pictures.shape == (100, 1, 28, 28) and torch.bincount(labels).tolist() == [10] * 10
    shuffled, original = sets["rows shuffled"][0], sets["training set"][0]
    assert not torch.equal(shuffled, original)
    torch.testing.assert_close(shuffled.sum((1, 2, 3)), original.sum((1, 2, 3)))


@pytest.mark.long
def test_a_converged_classifier_knows_its_training_set(
    images: ImageDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The training images satisfy the closed form better than any probe; the verdict says so."""
    monkeypatch.setattr("gbc.kkt.lagrangian_gradient._STEPS", 10)  # the closed form has no multipliers
    classifier = {"name": "mlp", "hidden": 24, "weight_decay": 0.01, "lr": 0.1, "steps": 2500}
    config = TrialConfig.parse({**TINY, "classifier": classifier}, "test")
    inputs = obtain(config, tmp_path)
    report = audit(inputs.classifier.module, images, 0.01, inputs.regimes[0])
    closed = [condition for condition in report.conditions if condition.name.startswith("closed form")]
    assert [condition.name for condition in closed] == [
        "closed form, 1.weight",
        "closed form, 3.weight",
        "closed form, 5.weight",
        "closed form, biases and normalisation",
    ]
    for condition in closed:
        assert min(condition.values, key=condition.values.__getitem__) == "training set"
    assert "can work" in report.verdict()
    bare = audit(inputs.classifier.module, None, 0.01, {}, shape=(1, 28, 28))
    assert not bare.conditions and bare.freedom == {"eval": 2} == report.freedom and bare.policies == report.policies
    assert bare.regime == {"imbalance": inputs.regimes[0]["imbalance"]}
    assert "alone" in bare.verdict()


def test_the_verdict_follows_the_numbers() -> None:
    def condition(train: float, other: float, cosine: float) -> Condition:
        sets = ("training set", "other real images")
        return Condition("c", dict(zip(sets, (train, other), strict=True)), dict(zip(sets, (cosine, 0.1), strict=True)))

    near = Audit([condition(0.3, 0.9, 0.9)], {}).verdict()
    assert near.startswith("A KKT loss can work: in 'c' the two sides have a cosine of 0.90 and a residual of 0.300")  # golden
    far = Audit([condition(5.0, 90.0, 0.9)], {}).verdict()
    assert not missing(["can work", "scale", "5.00", "90.0"], far) and "scale" not in near
    assert Audit([condition(0.95, 0.99, 0.2)], {}).verdict().startswith("No condition ")


def test_what_moves_a_verdict_without_data() -> None:
    assert not missing(["has converged", "2.0e-03"], Audit([], {"imbalance": {"1": 1e-4, "3": 2e-3}}).verdict())
    assert not missing(["not converged", "0.40"], Audit([], {"imbalance": {"1": 1e-4, "3": 0.4}}).verdict())
    assert Audit([], {"imbalance": {}}).verdict().startswith("Without data ")


def test_zero_gradients_separate_by_their_size() -> None:
    small = Condition("zero gradient", {"training set": 0.1, "other real images": 0.9})
    verdict = Audit([small], {}).verdict()
    assert small.separates and not missing(["can work", "0.100", "0.900"], verdict) and "cosine" not in verdict


def test_every_policy_in_every_mode() -> None:
    """By the rules; what keeps the same tensors is measured once."""
    phi = architectures.build(ClassifierConfig(name="mlp_bn", hidden=12), (1, 28, 28), 10)
    example = torch.rand(4, 1, 28, 28)
    train, stored = (policy_results(phi, mode, example) for mode in ("train", "eval"))
    assert [choice.kept for choice in train] == [("7.weight", "7.bias"), ("7.bias",), ("7.bias",)]
    assert [choice.same_as for choice in train] == [None, None, "min_norm"]
    assert stored[2].degrees is None and "2: BatchNorm1d " in str(stored[2].refused)
    equal = policy_results(
        nn.Sequential(nn.Flatten(), nn.Linear(784, 4, bias=False), nn.Linear(4, 10, bias=False)), "eval", example
    )
    assert [choice.kept for choice in equal][1:] == [("1.weight", "2.weight")] * 2
    assert [choice.same_as for choice in equal] == [None, None, "min_norm"]


def test_the_parts_add_up_to_the_whole(images: ImageDataset) -> None:
    """Squares of the parts' residuals, each in units of the whole left-hand side, sum to ρ²."""
    phi = architectures.build(ClassifierConfig(name="mlp_bn", hidden=12), (1, 28, 28), 10)
    pictures, labels = images.train()
    sets = {"training set": (pictures[::5], labels[::5])}
    conditions = max_margin(phi, sets, policy_results(phi, "train", pictures[:4]))
    # Of a fresh network min_norm keeps the last bias alone, which is 0: no condition.
    assert [condition.name for condition in conditions] == ["max margin, last_layer"]
    (whole,), zeta = conditions, dict(phi.named_parameters())
    assert [part.name for part in whole.parts] == list(zeta)
    assert [part.name for part in whole.parts if part.cosines] == ["7.weight"]  # so its unit is that of the others
    squares = sum(part.values["training set"] ** 2 for part in whole.parts)
    assert squares**0.5 == pytest.approx(whole.values["training set"], rel=1e-4)


def test_an_audit_needs_data_or_a_shape() -> None:
    with pytest.raises(BadInput, match="shape"):
        audit(nn.Linear(2, 2), None, 0.1, {})


def test_a_report_without_data_is_readable() -> None:
    phi = architectures.build(ClassifierConfig(name="mlp", hidden=12), (1, 8, 8), 3)
    report = audit(phi, None, 0.1, {}, shape=(1, 8, 8))
    text = report.to_markdown()
    assert re.search(r"Λ .*: 2\.\n", text)
    assert "| last_layer | 1: 5.weight, 5.bias; 0: 1.weight, 1.bias and 2 more | 5.weight, 5.bias |" in text
    assert re.search(r"\| uniform \| 1: 5.bias; 0.667: 3.bias; 0.333: 1.weight, 1.bias [^|]*\| 5.bias,[^|]* min_norm \|", text)
    assert "layer 1: " in text and text.strip().endswith(report.verdict())
    json.dumps(report.to_json())


def test_an_audit_says_what_the_first_layer_explains(images: ImageDataset, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows along the strongest directions of the training images: these cost least, noise most."""
    monkeypatch.setattr("gbc.kkt.lagrangian_gradient._STEPS", 5)  # Λ is of no interest here
    phi = nn.Sequential(nn.Flatten(), nn.Linear(784, 12, bias=False), nn.ReLU(), nn.Linear(12, 10))
    pictures, _ = images.train()
    with torch.no_grad():
        phi[1].weight.copy_(torch.linalg.svd(pictures.flatten(1), full_matrices=False)[2][:12])  # type: ignore[union-attr]
    report = audit(phi, images, 0.1, {})
    assert isinstance(report.first_layer, FirstLayer)
    spectrum = report.first_layer.spectrum
    assert (spectrum.shape, spectrum.above) == ((12, 784), 0) and spectrum.strongest == pytest.approx(1)
    costs = report.first_layer.costs
    assert list(costs) == list(probe_sets(images))
    assert costs["training set"] < costs["other real images"] < 0.5 * costs["uniform noise"]
    assert list(report.first_layer.explained_variance) == [10] and 0.3 < report.first_layer.explained_variance[10] < 1
    tests, wanted = images.test()
    assert report.first_layer.accuracy == pytest.approx((phi(tests).argmax(dim=1) == wanted).float().mean().item())
    plain = report.to_json()["row_space"]
    assert plain["costs"] == costs and plain["edge"] == spectrum.edge and json.dumps(plain)
    text = report.to_markdown()
    sets = [f"{name} {costs[name]:.3f}" for name in costs]
    assert not missing(["layer 1: 0 of 12 ", "says nothing", f": {report.first_layer.accuracy:.3f}.", *sets], text)


def test_a_classifier_without_a_row_space_is_told_so() -> None:
    phi = nn.Sequential(nn.Flatten(), nn.BatchNorm1d(64), nn.Linear(64, 3))
    report = audit(phi, None, 0.1, {}, shape=(1, 8, 8))
    reason = report.to_json()["row_space"]["refused"]
    assert "BatchNorm1d (1)" in reason
    assert f"R{reason[1:]}.\n" in report.to_markdown()


def test_a_network_that_no_rule_fits_is_audited_with_last_layer_alone() -> None:
    phi = nn.Sequential(nn.Flatten(), nn.Linear(64, 4), nn.PReLU(), nn.Linear(4, 3))
    report = audit(phi, None, 0.1, {}, shape=(1, 8, 8))
    assert not missing(["2: ", "PReLU"], report.freedom["eval"])
    assert [choice.degrees is not None for choice in report.policies] == [True, False, False]


def test_the_command_writes_json_and_markdown(
    classifier_cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("gbc.kkt.lagrangian_gradient._STEPS", 10)  # what is written, not how well the multipliers fit
    config = tmp_path / "trial.yaml"
    config.write_text(yaml.safe_dump(TINY))
    command = ["audit", "--config", str(config), "--cache", str(classifier_cache), "--out", str(tmp_path / "out")]
    assert main(command) == 0
    shown = capsys.readouterr().out
    assert (tmp_path / "out" / "audit.md").read_text().strip() == shown.strip()
    report = json.loads((tmp_path / "out" / "audit.json").read_text())
    names = [condition["name"] for condition in report["conditions"]]
    assert names[:2] == ["max margin, last_layer, BatchNorm train", "max margin, last_layer, BatchNorm eval"]
    assert report["lambda"]["freedom"] == {"train": 6, "eval": 2}
    assert report["verdict"] in shown and "uniform, BatchNorm train | 1: 7.bias;" in shown
    assert report["conditions"][0]["parts"][0]["name"] == "1.weight"


def test_the_command_audits_weights_alone(tmp_path: Path, classifier_cache: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sets = [argument for key, value in TINY_CLASSIFIER.items() for argument in ("--set", f"classifier.{key}={value}")]
    command = ["audit", "--no-data", "--cache", str(classifier_cache), "--out", str(tmp_path), "--json"]
    assert main([*command, "--set", "dataset.per_class=10", *sets]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report == json.loads((tmp_path / "audit.json").read_text())
    assert "alone" in report["verdict"] and not report["conditions"]
    assert report["row_space"]["layer"] == "1" and not report["row_space"]["informative"] and "costs" not in report["row_space"]
    assert "layer 1: " in (tmp_path / "audit.md").read_text()
    assert "BatchNorm train: 6" in (tmp_path / "audit.md").read_text()

    assert (
        main([*command, "--set", "dataset.per_class=10", *sets, "--set", "experts=[{classifier: {hidden: 8, steps: 5}}]"]) == 0
    )
    several = json.loads(capsys.readouterr().out)
    assert several == [json.loads((tmp_path / f"audit-{number}.json").read_text()) for number in (1, 2)]


def test_points_are_not_audited(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sets = ["--set", "dataset.name=circle", "--set", "classifier.name=mlp", "--set", "classifier.steps=5"]
    assert main(["audit", "--cache", str(tmp_path), *sets]) == 2
    assert capsys.readouterr().err.count("\n") == 1
