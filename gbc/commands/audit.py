"""`python -m gbc audit`: which optimality conditions a classifier satisfies."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from gbc.commands import options
from gbc.commands.options import Commands


def add(commands: Commands) -> None:
    """Declare the command."""
    parser = commands.add_parser("audit", help="which conditions a classifier satisfies, and whether a KKT loss can work on it")
    parser.add_argument("--out", metavar="DIR", type=Path, help="also write audit.json and audit.md there")
    options.add_trial(parser)
    options.add_cache(parser)
    options.add_json(parser)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> None:
    """Measure every condition of every classifier of the trial."""
    from gbc import datasets, tasks
    from gbc.audit import audit
    from gbc.checkpoint import write_atomic

    settings = options.trial(arguments)
    world = tasks.obtain(settings, arguments.cache, options.announce)
    for subject, classifier, regime in zip(settings.subjects(), world.classifiers, world.regimes, strict=True):
        found = audit(
            classifier.module,
            datasets.load(subject.dataset),
            subject.classifier.weight_decay,
            regime,
            loss=subject.classifier.loss,
        )
        number = f"-{subject.task}" if len(world.classifiers) > 1 else ""
        if arguments.out:
            write_atomic(arguments.out / f"audit{number}.json", json.dumps(found.to_json(), indent=2).encode())
            write_atomic(arguments.out / f"audit{number}.md", found.to_markdown().encode())
        print(json.dumps(found.to_json(), indent=2) if arguments.json else found.to_markdown())
