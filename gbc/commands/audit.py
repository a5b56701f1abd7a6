"""`python -m gbc audit`: the optimality conditions that a classifier satisfies."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from gbc.commands import options
from gbc.commands.options import Commands


def add(commands: Commands) -> None:
    """Declare the command."""
    parser = commands.add_parser("audit", help="measure which conditions a classifier satisfies, and if a KKT loss can work")
    parser.add_argument("--out", metavar="DIR", type=Path, help="also write audit.json and audit.md there")
    parser.add_argument("--no-data", action="store_true", help="use the parameters alone: Λ, its freedom, the balance of units")
    options.add_trial(parser)
    options.add_cache(parser)
    options.add_json(parser)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> None:
    """Measure every condition of every classifier of the trial."""
    from gbc.checkpoint import write_atomic
    from gbc.classifiers import pretrain
    from gbc.data import datasets
    from gbc.studies import audit

    specs, reports = options.trial(arguments).classifiers(), []
    for number, spec in enumerate(specs, start=1):
        config = spec.classifier
        blind = arguments.no_data or spec.dataset.data_free
        # The user's weights need no data; another classifier has to be trained on data first.
        data = None if blind and config.weights else datasets.load(spec.dataset)
        classifier, regime, _ = pretrain.obtain(config, data, arguments.cache, options.announce(config))
        result = audit.audit_classifier(config, classifier, regime, None if blind else data)
        if arguments.out:
            name = f"audit-{number}" if len(specs) > 1 else "audit"
            write_atomic(arguments.out / f"{name}.json", json.dumps(result.to_json(), indent=2).encode())
            write_atomic(arguments.out / f"{name}.md", result.to_markdown().encode())
        reports.append(result.to_json())
        if not arguments.json:
            print(result.to_markdown())
    if arguments.json:
        print(json.dumps(reports if len(reports) > 1 else reports[0], indent=2))
