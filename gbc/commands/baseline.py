"""`python -m gbc baseline`: other methods that make images from a classifier without data."""

from __future__ import annotations

import argparse
import io
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from gbc.commands import options
from gbc.commands.options import Commands

if TYPE_CHECKING:
    from gbc.report import Report


def add(commands: Commands) -> None:
    """Declare the command."""
    parser = commands.add_parser("baseline", help="run another method that makes images from a classifier without data")
    parser.add_argument("name", metavar="NAME", help="activation, kkt-pixels, reconstruction, bn-inversion or ce-generator")
    parser.add_argument(
        "--out", required=True, metavar="DIR", type=Path, help="folder of samples.png, images.npz and metrics.json"
    )
    options.add_set(parser)
    options.add_cache(parser)
    options.add_json(parser)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> None:
    """Run one baseline and write its picture, images and numbers."""
    import numpy as np

    from gbc import pictures
    from gbc.checkpoint import write_atomic
    from gbc.export.synthetic_sets import as_bytes
    from gbc.studies import baselines
    from gbc.training import experiment, tasks

    settings = baselines.settings_of(arguments.name, options.assignments(arguments), "--set")

    def say(report: Report) -> None:
        names = [name for name in ("loss/total", "ssim/coverage", "tstr/1nn") if name in report.metrics]
        shown = "  ".join(f"{name} {report.metrics[name]:.3f}" for name in names)
        print(f"step {report.step}/{settings.steps}  {shown}", file=sys.stderr)

    outcome = experiment.run(settings, tasks.obtain(settings, arguments.cache, options.announce), say)
    if outcome.report.images is not None:
        write_atomic(arguments.out / "samples.png", pictures.png(outcome.report.images))
    arrays = io.BytesIO()
    np.savez_compressed(arrays, images=as_bytes(outcome.images), labels=outcome.labels.numpy())
    write_atomic(arguments.out / "images.npz", arrays.getvalue())
    metrics = {**outcome.report.metrics, **outcome.cost()}
    text = json.dumps({"baseline": arguments.name, "settings": settings.model_dump(mode="json"), "metrics": metrics}, indent=2)
    write_atomic(arguments.out / "metrics.json", text.encode())
    if arguments.json:
        print(text)
        return
    for name in ("ssim/coverage", "tstr/1nn", "ssim/nearest", "free/score", "cost/seconds_per_image", "cost/parameters"):
        if name in metrics:
            print(f"{name:24} {metrics[name]:.4g}")
    print(arguments.out / "samples.png")
