"""The section on the classifiers."""

from __future__ import annotations

from dataclasses import replace

from dashboards.sections.provenance import classifiers
from tests.dashboards.small_sweeps import full, sweep
from tests.support import missing


def test_lambda_and_what_limits_it_are_said() -> None:
    found = sweep(full(0, 0.3))
    sentence = "Λ by last_layer; 2 limits it"
    regime = {
        "steps": 5,
        "loss": 0.25,
        "lambda": {"sentence": sentence},
        "off": {"bn_weight": "no BatchNorm"},
        "changes": ["1: Softmax"],
    }
    assert not missing(
        ["steps 5", sentence, "bn_weight", "no BatchNorm", "Softmax"], classifiers(replace(found, regimes={"net": regime}))
    )
    damaged = {"steps": 5, "loss": 0.25, "lambda": "cut", "off": ["cut"], "changes": "cut"}
    text = classifiers(replace(found, regimes={"net": damaged}))
    assert "steps 5" in text and "cut" not in text
