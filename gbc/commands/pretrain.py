"""`python -m gbc pretrain`: a classifier and its regime."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from gbc.commands import options
from gbc.commands.options import Commands


def add(commands: Commands) -> None:
    """Declare the command."""
    parser = commands.add_parser("pretrain", help="train a classifier and print its regime")
    options.add_trial(parser)
    options.add_cache(parser)
    options.add_json(parser)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> None:
    """Train the classifiers, or take them from the cache, and print their regimes."""
    from gbc.training import tasks

    settings = options.trial(arguments)
    inputs = tasks.obtain(settings, arguments.cache, options.announce)
    findings = tasks.findings(settings, inputs)
    for line in tasks.accuracy_remarks(inputs):
        print(line, file=sys.stderr)
    if arguments.json:
        rows = [
            {"folder": str(folder), **regime, **finding}
            for folder, regime, finding in zip(inputs.folders, inputs.regimes, findings, strict=True)
        ]
        print(json.dumps(rows if len(rows) > 1 else rows[0], indent=2))
        return
    for folder, regime, finding in zip(inputs.folders, inputs.regimes, findings, strict=True):
        _print_regime(folder, regime)
        if "lambda" in finding:
            print(finding["lambda"]["sentence"])
        for setting, reason in finding.get("off", {}).items():
            print(f"without effect: {setting}, because {reason}")


def _print_regime(folder: Path, regime: dict[str, Any]) -> None:
    print(folder)
    for change in regime.get("changes", ()):
        print(change)
    if "loss" not in regime:
        print("the weights are as given; how far their training came cannot be measured without images")
        return
    margins = "  ".join(f"{name} {value:.2f}" for name, value in regime["margins"].items())
    print(f"steps {regime['steps']}  loss {regime['loss']:.5f}  accuracy {regime['accuracy']:.4f}\nmargins  {margins}")
    print("relative stationarity residual of each tensor (0: converged with weight decay), cosine of the two sides")
    for name, value in regime["residuals"].items():
        cosine = f"{regime['cosines'][name]:8.4f}" if name in regime["cosines"] else "   (before BatchNorm)"
        print(f"  {name:20} {value:10.3g} {cosine}")
    for name, value in regime["imbalance"].items():
        print(f"imbalance of ‖w_in‖² + b² and ‖w_out‖², median over the units of layer {name} (0: converged): {value:.3g}")
