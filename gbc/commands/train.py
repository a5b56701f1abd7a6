"""`python -m gbc train`: one generator, without a sweep."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from gbc.commands import options
from gbc.commands.options import Commands


def add(commands: Commands) -> None:
    """Declare the command."""
    parser = commands.add_parser("train", help="train one generator; run again to continue")
    parser.add_argument("--out", required=True, metavar="DIR", type=Path, help="folder of the exported generator")
    options.add_trial(parser)
    options.add_cache(parser)
    options.add_json(parser)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> None:
    """Train, saving a checkpoint at each report; export at the end."""
    import torch

    from gbc import checkpoint, export, pictures
    from gbc.config import TrialConfig
    from gbc.errors import BadInput
    from gbc.runtime import pick_device
    from gbc.training import tasks
    from gbc.training.trainer import Trainer

    settings, out = options.trial(arguments), arguments.out
    export.check(out, settings)
    inputs = tasks.obtain(settings, arguments.cache, options.announce)
    for line in (
        *tasks.accuracy_remarks(inputs),
        *tasks.remarks(tasks.findings(settings, inputs), settings),
        *tasks.row_space_remarks(settings, inputs),
    ):
        print(line, file=sys.stderr)
    trainer = Trainer(settings, inputs.classifiers, inputs.reference(pick_device(settings.device)))
    unfinished = out.with_name(out.name + ".ckpt")
    history: list[dict[str, float]] = []
    if unfinished.exists():
        state = checkpoint.load(unfinished)
        if TrialConfig.parse(state["settings"], str(unfinished)) != settings:
            raise BadInput(f"{unfinished}: was written with other settings; remove it, or choose another --out")
        trainer.load_state_dict(state["trainer"])
        history = state["history"]
        print(f"continues at step {trainer.step_count}", file=sys.stderr)
    picture = out.with_name(out.name + ".png")
    for report in trainer.run():
        history.append({"step": report.step, **report.metrics})
        state = {"settings": settings.model_dump(mode="json"), "history": history, "trainer": trainer.state_dict()}
        checkpoint.save(unfinished, state)
        if report.images is not None:
            checkpoint.write_atomic(picture, pictures.png(report.images))
        shown = ("loss/total", "kkt/rho", "kkt/alpha", "ssim/coverage", "tstr/1nn", "free/score", "time/steps_per_s")
        values = "  ".join(f"{name} {report.metrics[name]:.3f}" for name in shown if name in report.metrics)
        print(f"step {report.step}/{settings.steps}  {values}", file=sys.stderr)
    scores = {name: value for name, value in history[-1].items() if name != "step"}
    export.write(
        out, export.generator_weights(trainer.state_dict()), settings, inputs, scores,
        origin="Trained by `python -m gbc train`.", picture=picture if picture.exists() else None,
        threads=torch.get_num_threads(),
    )  # fmt: skip
    unfinished.unlink()
    picture.unlink(missing_ok=True)
    print(json.dumps({"out": str(out), "metrics": scores}, indent=2) if arguments.json else out)
