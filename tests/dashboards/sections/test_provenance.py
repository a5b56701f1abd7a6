"""The section on the classifiers."""

from __future__ import annotations

import base64
import re
from dataclasses import replace

import yaml

from dashboards.sections.provenance import classifiers, reproduce
from gbc.config import TrialConfig
from tests.dashboards.small_sweeps import full, sweep
from tests.support import missing


def test_lambda_and_what_limits_it_are_said() -> None:
    recorded_sweep = sweep(full(0, 0.3))
    sentence = "Λ by last_layer; 2 limits it"
    regime = {
        "steps": 5,
        "loss": 0.25,
        "lambda": {"sentence": sentence},
        "off": {"bn_weight": "no BatchNorm"},
        "changes": ["1: Softmax"],
    }
    assert not missing(
        ["steps 5", sentence, "bn_weight", "no BatchNorm", "Softmax"],
        classifiers(replace(recorded_sweep, regimes={"net": regime})),
    )
    damaged = {"steps": 5, "loss": 0.25, "lambda": "cut", "off": ["cut"], "changes": "cut"}
    text = classifiers(replace(recorded_sweep, regimes={"net": damaged}))
    assert "steps 5" in text and "cut" not in text


def test_the_settings_of_the_best_train_it_alone_with_a_classifier_that_was_a_choice() -> None:
    recorded_sweep = sweep(full(0, 0.3))
    recorded_sweep.trials[0].params.update({"classifier.name": "conv", "classifier.hidden": 8})
    recorded_sweep.settings.data["trial"] |= {"classifier": {"steps": 20}}
    _, best = re.findall(r'href="data:[^,"]*base64,([^"]*)"', str(reproduce(recorded_sweep)))
    settings = TrialConfig.parse(yaml.safe_load(base64.b64decode(best)), "report")
    assert (settings.classifier.name, settings.classifier.hidden, settings.classifier.steps) == ("conv", 8, 20)
