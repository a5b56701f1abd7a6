"""Architectures that people bring, from a checkpoint to a generator, with the losses of the presets.

None is refused: losses that a network cannot have are off, and the others work.
"""

from __future__ import annotations

import math
import sys
from pathlib import Path
from typing import Any, Final

import pytest
import torch
import yaml

from gbc.classifier_config import ClassifierConfig
from gbc.classifiers import custom, pretrain
from gbc.config import TrialConfig
from gbc.data.datasets import ImageDataset
from gbc.kkt import availability
from gbc.training.trainer import Trainer
from tests.support.networks import lived_in
from tests.support.own_networks import LOSSES, NETWORKS, OFF

PRESET: Final = {**LOSSES, "steps": 2, "report_every": 2, "batch_size": 20, "eval_per_class": 2}
LIMITED_BY: Final = {"lenet": "10", "vit": "encoder.layers.encoder_layer_0.self_attention"}


@pytest.mark.parametrize("name", OFF)
def test_a_generator_is_born_from_it(
    name: str, settings: TrialConfig, images: ImageDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "people.py").write_text(NETWORKS)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "people", raising=False)
    theirs = lived_in(custom.call_factory(f"people:{name}", 1, (1, 28, 28))).eval()
    torch.save({"state_dict": theirs.state_dict(), "epoch": 9}, tmp_path / "net.pt")
    card = {"class_names": [str(label) for label in range(10)], "shape": [1, 28, 28], "samples": 100}
    (tmp_path / "net.yaml").write_text(yaml.safe_dump(card))
    own = ClassifierConfig(factory=f"people:{name}", weights=str(tmp_path / "net.pt"))
    trial = settings.updated({**PRESET, "classifier": own.model_dump(mode="json")}, "test")

    ours, regime, _ = pretrain.obtain(trial.classifier, images, tmp_path / "cache")
    x, labels = images.train()
    assert regime["accuracy"] == pytest.approx((theirs(x).argmax(dim=1) == labels).float().mean().item())
    findings: dict[str, Any] = availability.findings(ours, trial.classifier.weight_decay, trial)
    assert set(findings.get("off", {})) == OFF[name]
    assert findings["lambda"]["limited_by"] == LIMITED_BY.get(name)

    metrics = next(Trainer(trial, [ours]).run()).metrics
    wanted = {"total", "stationarity", "duality", "ce", "tv", "diversity", "row_space", *([] if OFF[name] else ["bn"])}
    assert {key.removeprefix("loss/") for key in metrics if key.startswith("loss/")} == wanted
    assert all(math.isfinite(value) for value in metrics.values()) and metrics["kkt/rho"] > 0
