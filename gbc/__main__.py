"""`python -m gbc`: the method without a sweep."""

from __future__ import annotations

import argparse
import json
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gbc.config import TrialConfig
    from gbc.report import Report


def parser() -> argparse.ArgumentParser:
    """The command line."""
    cli = argparse.ArgumentParser(
        prog="python -m gbc", description="Generator Born from Classifier: the method without a sweep."
    )
    commands = cli.add_subparsers(dest="command", required=True, metavar="COMMAND")

    data = commands.add_parser("data", help="the shipped data sets").add_subparsers(
        dest="action", required=True, metavar="ACTION"
    )
    build = data.add_parser("build", help="recreate the shipped files from full torchvision sets, byte for byte")
    build.add_argument("--data-root", required=True, metavar="DIR", type=Path)
    build.add_argument("--out", required=True, metavar="DIR", type=Path)
    build.set_defaults(run=_data_build)

    pretrain = commands.add_parser("pretrain", help="train a classifier and print its regime")
    pretrain.set_defaults(run=_pretrain)
    train = commands.add_parser("train", help="train one generator; run again to continue")
    train.add_argument("--out", required=True, metavar="DIR", type=Path, help="folder of the exported generator")
    train.set_defaults(run=_train)
    audit = commands.add_parser("audit", help="which conditions a classifier satisfies, and whether a KKT loss can work on it")
    audit.add_argument("--out", metavar="DIR", type=Path, help="also write audit.json and audit.md there")
    audit.set_defaults(run=_audit)
    baseline = commands.add_parser("baseline", help="what others do with a classifier and no data, in the same numbers")
    baseline.add_argument("name", metavar="NAME", help="activation, kkt-pixels, bn-inversion or ce-generator")
    baseline.add_argument("--out", required=True, metavar="DIR", type=Path, help="folder of samples.png and metrics.json")
    baseline.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="a trial's setting, e.g. steps=100")
    baseline.set_defaults(run=_baseline)
    circle = commands.add_parser("circle", help="the 2-D example of the paper, Figs. 4 and 5, with numbers")
    circle.add_argument("--out", required=True, metavar="DIR", type=Path, help="folder of circle.png and circle.json")
    circle.add_argument("--steps", type=int, metavar="N", help="optimiser steps of each generator")
    circle.set_defaults(run=_circle)
    for sub in (pretrain, train, audit):
        sub.add_argument("--config", type=Path, metavar="FILE", help="YAML with a trial's settings")
        sub.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="a trial's setting, e.g. lr=1e-3")
        sub.add_argument(
            "--classifier", metavar="NAME", help="conv, mlp, mlp_bn, resnet, or package.module:factory of your own"
        )
        sub.add_argument("--weights", metavar="FILE", help="weights of that classifier: safetensors or a torch state dict")
        sub.add_argument("--card", metavar="FILE", help="YAML about the weights (default: beside them, with suffix .yaml)")

    sample = commands.add_parser("sample", help="draw images from an exported generator")
    sample.add_argument("--label", type=int, action="append", help="a class; repeat for several (default: every class)")
    sample.add_argument("--count", type=int, default=64, help="images in all (default: 64)")
    sample.add_argument("--seed", type=int, default=0)
    sample.add_argument("--out", required=True, metavar="FILE", type=Path, help=".png for a sheet, .npz for arrays")
    sample.set_defaults(run=_sample)
    evaluate = commands.add_parser("evaluate", help="measure an exported generator against real images")
    evaluate.add_argument("--data-root", metavar="DIR", help="judge against the full data set in this torchvision root")
    evaluate.add_argument("--seed", type=int, default=0)
    evaluate.add_argument("--full", action="store_true", help="every measure, with an independent feature network (a minute)")
    evaluate.set_defaults(run=_evaluate)
    for sub in (sample, evaluate):
        sub.add_argument("--model", required=True, metavar="DIR", type=Path, help="folder of the exported generator")
    for sub in (pretrain, train, audit, baseline, circle, evaluate):
        sub.add_argument("--cache", type=Path, default=Path("mlruns/classifiers"), metavar="DIR", help="trained classifiers")
        sub.add_argument("--json", action="store_true", help="print the result as JSON")
    return cli


def main(argv: Sequence[str] | None = None) -> int:
    """Returns the exit code: 0 done, 1 diverged, 2 bad input, 130 interrupted and resumable."""
    arguments = parser().parse_args(argv)
    from gbc.errors import BadInput, Diverged

    signal.signal(signal.SIGTERM, _interrupt)
    try:
        arguments.run(arguments)
    except BadInput as fault:
        print(f"error: {fault}", file=sys.stderr)
        return 2
    except Diverged as fault:
        print(f"failed: {fault}; lower lr or the loss weights", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted; the same command continues", file=sys.stderr)
        return 130
    return 0


def _data_build(arguments: argparse.Namespace) -> None:
    from gbc import datasets

    for name in datasets.SHIPPED:
        path = datasets.build(name, arguments.data_root, arguments.out)
        print(f"{path}  {path.stat().st_size} bytes")


def _settings(arguments: argparse.Namespace) -> TrialConfig:
    from gbc.config import TrialConfig, classifier_flags, load_yaml, parse_assignment

    base = TrialConfig.parse(load_yaml(arguments.config) if arguments.config else {}, str(arguments.config))
    base = base.updated(dict(map(parse_assignment, arguments.set)), "--set")
    return base.updated(classifier_flags(arguments.classifier, arguments.weights, arguments.card), "command line")


def _pretrain(arguments: argparse.Namespace) -> None:
    from gbc import tasks

    world = tasks.obtain(_settings(arguments), arguments.cache, lambda _: _show_pretraining)
    if arguments.json:
        found = [{"folder": str(folder), **regime} for folder, regime in zip(world.folders, world.regimes, strict=True)]
        print(json.dumps(found if len(found) > 1 else found[0], indent=2))
        return
    for folder, regime in zip(world.folders, world.regimes, strict=True):
        _print_regime(folder, regime)


def _print_regime(folder: Path, regime: dict[str, Any]) -> None:
    margins = "  ".join(f"{name} {value:.2f}" for name, value in regime["margins"].items())
    print(
        f"{folder}\nsteps {regime['steps']}  loss {regime['loss']:.5f}  accuracy {regime['accuracy']:.4f}\nmargins  {margins}"
    )
    print("relative stationarity residual of each tensor (0: converged with weight decay), cosine of the two sides")
    for name, value in regime["residuals"].items():
        cosine = f"{regime['cosines'][name]:8.4f}" if name in regime["cosines"] else "   (before BatchNorm)"
        print(f"  {name:20} {value:10.3g} {cosine}")
    for name, value in regime["imbalance"].items():
        print(f"imbalance of ‖w_in‖² + b² and ‖w_out‖², median over the units of layer {name} (0: converged): {value:.3g}")


def _audit(arguments: argparse.Namespace) -> None:
    from gbc import datasets, tasks
    from gbc.audit import audit
    from gbc.checkpoint import write_atomic

    settings = _settings(arguments)
    world = tasks.obtain(settings, arguments.cache, lambda _: _show_pretraining)
    for subject, classifier, regime in zip(settings.subjects(), world.classifiers, world.regimes, strict=True):
        found = audit(classifier.module, datasets.load(subject.dataset), subject.classifier.weight_decay, regime)
        number = f"-{subject.task}" if len(world.classifiers) > 1 else ""
        if arguments.out:
            write_atomic(arguments.out / f"audit{number}.json", json.dumps(found.to_json(), indent=2).encode())
            write_atomic(arguments.out / f"audit{number}.md", found.to_markdown().encode())
        print(json.dumps(found.to_json(), indent=2) if arguments.json else found.to_markdown())


def _baseline(arguments: argparse.Namespace) -> None:
    from gbc import baselines
    from gbc.checkpoint import write_atomic
    from gbc.config import parse_assignment

    settings = baselines.settings_of(arguments.name, dict(map(parse_assignment, arguments.set)), "--set")

    def say(report: Report) -> None:
        shown = "  ".join(f"{name} {report.metrics[name]:.3f}" for name in ("loss/total", "ssim/coverage", "tstr/1nn"))
        print(f"step {report.step}/{settings.steps}  {shown}", file=sys.stderr)

    metrics = baselines.run(settings, arguments.out, arguments.cache, lambda _: _show_pretraining, say)
    text = json.dumps({"baseline": arguments.name, "settings": settings.model_dump(mode="json"), "metrics": metrics}, indent=2)
    write_atomic(arguments.out / "metrics.json", text.encode())
    if arguments.json:
        print(text)
        return
    for name in ("ssim/coverage", "tstr/1nn", "ssim/nearest", "cost/seconds_per_image", "cost/parameters"):
        print(f"{name:24} {metrics[name]:.4g}")
    print(arguments.out / "samples.png")


def _circle(arguments: argparse.Namespace) -> None:
    from gbc import circle
    from gbc.errors import BadInput

    if arguments.steps is not None and arguments.steps < 1:
        raise BadInput(f"--steps {arguments.steps}: must be at least 1")
    scores = circle.run(arguments.out, arguments.cache, arguments.steps, lambda line: print(line, file=sys.stderr))
    if arguments.json:
        print(json.dumps(scores, indent=2))
        return
    for name, found in scores.items():
        print(f"{name:36}" + "  ".join(f"{key} {value:.3f}" for key, value in found.items()))
    print(arguments.out / "circle.png")


def _train(arguments: argparse.Namespace) -> None:
    from gbc import checkpoint, export, pictures, tasks
    from gbc.config import TrialConfig
    from gbc.errors import BadInput
    from gbc.metrics import Judge
    from gbc.runtime import pick_device
    from gbc.trainer import Trainer

    settings, out = _settings(arguments), arguments.out
    if out.exists():
        raise BadInput(f"{out}: exists already; choose another --out or remove it")
    world = tasks.obtain(settings, arguments.cache, lambda _: _show_pretraining)
    trainer = Trainer(settings, world.classifiers, Judge.of(world.images, pick_device(settings.device)))
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
        shown = ("loss/total", "kkt/rho", "kkt/alpha", "ssim/coverage", "tstr/1nn", "time/steps_per_s")
        values = "  ".join(f"{name} {report.metrics[name]:.3f}" for name in shown if name in report.metrics)
        print(f"step {report.step}/{settings.steps}  {values}", file=sys.stderr)
    scores = {name: value for name, value in history[-1].items() if name != "step"}
    export.write(
        out, trainer.state_dict()["generator"], settings, world, scores,
        origin="Trained by `python -m gbc train`.", picture=picture if picture.exists() else None,
    )  # fmt: skip
    unfinished.unlink()
    picture.unlink(missing_ok=True)
    print(json.dumps({"out": str(out), "metrics": scores}, indent=2) if arguments.json else out)


def _sample(arguments: argparse.Namespace) -> None:
    import numpy as np

    from gbc import export, pictures
    from gbc.checkpoint import write_atomic
    from gbc.errors import BadInput

    if arguments.count < 1:
        raise BadInput(f"--count {arguments.count}: must be at least 1")
    if arguments.out.suffix not in (".png", ".npz"):
        raise BadInput(f"--out {arguments.out}: must end in .png or .npz")
    generator = export.load(arguments.model)
    classes = arguments.label or list(range(len(generator.class_names)))
    labels = [classes[index % len(classes)] for index in range(arguments.count)]
    images = generator.sample(labels, arguments.seed)
    if arguments.out.suffix == ".npz":
        import io

        content = io.BytesIO()
        np.savez_compressed(content, images=(images.numpy() * 255).round().astype(np.uint8), labels=np.array(labels))
        write_atomic(arguments.out, content.getvalue())
    else:
        columns = len(classes) if len(classes) > 1 else round(len(labels) ** 0.5) or 1
        write_atomic(arguments.out, pictures.png(pictures.tile(images, columns)))
    print(arguments.out)


def _evaluate(arguments: argparse.Namespace) -> None:
    import torch

    from gbc import datasets, evaluation, export, features, tasks
    from gbc.metrics import Judge, Verdict, controls

    generator = export.load(arguments.model)
    settings = generator.settings
    if arguments.data_root:
        settings = settings.updated({"dataset.data_root": arguments.data_root}, "--data-root")
    data = tasks.union([datasets.load(subject.dataset) for subject in settings.subjects()])
    assert isinstance(data, datasets.ImageDataset)
    labels = torch.arange(len(data.class_names)).repeat(settings.eval_per_class)
    images = generator.sample(labels, arguments.seed)
    if arguments.full:
        oracle = features.obtain(settings.dataset, data, arguments.cache)
        result = evaluation.evaluate(arguments.model.name, images, labels, data, oracle)
        print(json.dumps(result.plain(), indent=2) if arguments.json else result.text())
        return
    scores = {
        arguments.model.name: Verdict(Judge.of(data, "cpu"), images, labels).scores(),
        **controls(data, settings.eval_per_class),
    }
    if arguments.json:
        print(json.dumps(scores, indent=2))
        return
    names = list(next(iter(scores.values())))
    print(f"{'':26}" + "".join(f"{name:>16}" for name in names))
    for row, values in scores.items():
        print(f"{row:26}" + "".join(f"{values[name]:16.3f}" for name in names))


def _show_pretraining(step: int, steps: int, loss: float) -> None:
    if step % max(1000, steps // 10) == 0:
        print(f"classifier  step {step}/{steps}  loss {loss:.4f}", file=sys.stderr)


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main())
