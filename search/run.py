"""Search for the settings of a generator: `python search/run.py --dataset fashion_mnist`.

Run the same command again to continue an interrupted sweep.
"""

from __future__ import annotations

import argparse
import os
import shlex
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

if __package__ in (None, ""):  # run as a file: our folder must not shadow top-level modules
    sys.path[0] = str(Path(__file__).resolve().parents[1])
    sys.path.insert(1, str(Path.cwd()))  # where `python -m` would look for a factory of the user's

if TYPE_CHECKING:
    from rich.console import Console

    from search.driver.summary import Summary
    from search.spec.config import SweepConfig


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        from records.addresses import redacted

        super().error(redacted(message))  # a misspelt flag may have a password behind it


def parser() -> argparse.ArgumentParser:
    """The command line."""
    cli = _Parser(prog="python search/run.py", description=__doc__.splitlines()[0])
    what = cli.add_argument_group("what to search")
    what.add_argument("--dataset", default="fashion_mnist", help="name of the data set (default: fashion_mnist)")
    what.add_argument("--preset", help="configs/DATASET-PRESET.yaml: quick (default) or paper")
    what.add_argument("--config", type=Path, metavar="FILE", help="a sweep file of your own instead of a preset")
    what.add_argument("--name", help="name of the sweep (default: DATASET-PRESET)")
    what.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="fix a trial's setting, e.g. lr=1e-3 or classifier.hidden=1000",
    )
    what.add_argument("--classifier", metavar="NAME", help="conv, mlp, mlp_bn, resnet, or package.module:factory of your own")
    what.add_argument("--weights", metavar="FILE", help="weights of that classifier: safetensors or a torch state dict")
    what.add_argument("--card", metavar="FILE", help="YAML about the weights (default: beside them, with suffix .yaml)")
    what.add_argument(
        "--data-root", metavar="DIR", help="a torchvision root with the full data set instead of the shipped subset"
    )
    what.add_argument(
        "--download", action="store_true", default=None, help="let torchvision fetch the data set into --data-root"
    )
    how = cli.add_argument_group("how to search")
    how.add_argument("--trials", type=int, help="how many settings to try, earlier runs included")
    how.add_argument("--steps", type=int, help="optimiser steps of a full trial")
    how.add_argument(
        "--time-budget", metavar="TIME", help="wall time of all runs together, e.g. 45m or 8h (a bare number: minutes)"
    )
    how.add_argument("--max-steps", type=int, metavar="N", help="optimiser steps of all trials together")
    how.add_argument("--patience", type=int, metavar="K", help="end when the best has not improved in K full trials")
    how.add_argument("--sampler", choices=["tpe", "random", "cmaes", "gp", "qmc", "grid"], help="what proposes settings")
    how.add_argument("--scheduler", choices=["asha", "median", "none"], help="what stops bad trials early")
    how.add_argument(
        "--objective", metavar="METRIC[:min|max]", help="default: ssim/coverage; two with a comma give a Pareto front"
    )
    how.add_argument(
        "--require", action="append", default=[], metavar="METRIC=BOUND",
        help="only a trial that ends with at least so much (at most, of losses and rho) can be the best, e.g. kkt/active=0.05",
    )  # fmt: skip
    how.add_argument("--warm-start", metavar="SWEEP", help="try the best settings of another sweep first, and learn from it")
    how.add_argument("--warm-start-trials", type=int, metavar="K", help="how many settings of that sweep (default: 5)")
    how.add_argument("--seed", type=int)
    how.add_argument("--retries", type=int, metavar="N", help="new workers for a trial whose worker died (default: 2)")
    how.add_argument(
        "--hang-limit", metavar="TIME", help="replace a worker that is silent for so long, e.g. 30m (default: at least 10m)"
    )
    how.add_argument("--retry-failed", action="store_true", help="run failed trials again, under their numbers")
    how.add_argument(
        "--no-report", action="store_true", help="at the end, do not measure and register the best, and write no report"
    )
    how.add_argument("--keep", type=int, metavar="K", help="generators to keep on disk, the best (default: 5)")
    where = cli.add_argument_group("on what")
    where.add_argument("--concurrency", type=int, help="trials at a time (default: as many as fit)")
    where.add_argument("--cpus-per-trial", type=float)
    where.add_argument(
        "--gpus-per-trial", metavar="N|auto", help="share of a GPU, or several (default: auto, measured: what its memory holds)"
    )
    where.add_argument("--pack", type=int, help=argparse.SUPPRESS)  # refused with a word (`Resources`)
    where.add_argument("--address", metavar="auto|HOST:PORT", help="a running Ray cluster, which this machine is a node of")
    where.add_argument(
        "--storage", metavar="DIR|URL", help="where trials keep their files: a folder that all nodes share, s3://…, gs://…"
    )
    where.add_argument("--study-url", metavar="URL", help="keep the study in PostgreSQL: postgresql://USER@HOST:PORT/DATABASE")
    where.add_argument("--tracking-uri", metavar="URI", help="of an MLflow server (default: MLFLOW_TRACKING_URI, or mlflow.db)")
    look = cli.add_argument_group("look at sweeps instead of running one").add_mutually_exclusive_group()
    look.add_argument("--list", action="store_true", help="every sweep in this folder, and how it stands")
    look.add_argument("--status", metavar="NAME", help="one sweep, running or not; a running one is not disturbed")
    look.add_argument("--check", metavar="NAME", help="compare its study, MLflow runs and files; exit code 1 if they disagree")
    cli.add_argument("--repair", action="store_true", help="with --check: mend what can be mended, and say what was done")
    cli.add_argument("--dry-run", action="store_true", help="print the resolved sweep and run nothing")
    cli.add_argument("--json", action="store_true", help="print the result as JSON; progress goes to standard error")
    return cli


def main(argv: Sequence[str] | None = None) -> int:
    """Returns the exit code: 0 done, 1 every trial failed, 2 bad input, 130 interrupted or halted, and resumable."""
    arguments = parser().parse_args(argv)
    arguments.words = sys.argv[1:] if argv is None else argv
    from gbc.errors import BadInput
    from records.addresses import redacted
    from search.spec.faults import Halted

    signal.signal(signal.SIGTERM, _interrupt)
    try:
        return _run(arguments)
    except BadInput as fault:
        print(f"error: {redacted(fault)}", file=sys.stderr)
        return 2
    except Halted as fault:
        print(redacted(fault.describe()), file=sys.stderr)
        if fault.abandoned:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(130)
        return 130
    except KeyboardInterrupt:
        print("interrupted; the same command continues", file=sys.stderr)
        return 130


def _run(arguments: argparse.Namespace) -> int:
    if arguments.list or arguments.status or arguments.check or arguments.repair:
        return _look(arguments)
    from rich.console import Console

    config = _resolve(arguments)
    if arguments.dry_run:
        _print_resolved(config, as_json=arguments.json)
        return 0

    console = Console(stderr=arguments.json, markup=False)  # what failed may hold brackets
    from search.driver import sweep
    from search.policy.budget import remedy
    from search.spec.config import MAY_CHANGE

    explicit = {key for key in MAY_CHANGE if getattr(arguments, key) is not None}
    config = sweep.settle_with_record(config, explicit)
    config.places.check_together()
    summary = sweep.finished_summary(config, retry_failed=arguments.retry_failed, report=not arguments.no_report)
    if summary:
        console.print(
            f"sweep {config.name} is finished already; {remedy(config, summary.ended_by or 'trials')}",
            highlight=False, soft_wrap=True,
        )  # fmt: skip
    else:
        from search.driver.resources import Machine

        summary = sweep.run_sweep(
            config, Machine.for_sweep(config), console, retry_failed=arguments.retry_failed, report=not arguments.no_report
        )
        if summary.ended_by in ("steps", "patience", "grid"):
            console.print(f"\nended: {remedy(config, summary.ended_by)}", highlight=False, soft_wrap=True)
    exports = config.trial.generator != "pixels"
    _print_summary(summary, arguments, console, config.places.tracking_uri, exports=exports)
    if not summary.finished:
        return 130
    return 0 if summary.complete + summary.stopped else 1


def _look(arguments: argparse.Namespace) -> int:
    from gbc.errors import BadInput

    if arguments.repair and not arguments.check:
        raise BadInput("--repair needs to know which sweep; write --check NAME --repair")
    if arguments.check:
        from search.consistency import check

        return check.run(arguments.check, repair=arguments.repair, as_json=arguments.json)
    from search import status

    if arguments.status:
        return status.show_status(arguments.status, as_json=arguments.json)
    return status.show_list(as_json=arguments.json)


def _resolve(arguments: argparse.Namespace) -> SweepConfig:
    from gbc.config import classifier_flags
    from gbc.errors import BadInput
    from gbc.settings import parse_assignment
    from search.driver import ray_runtime
    from search.driver.resources import Machine
    from search.spec.config import Resources, objective_flags, requirement_flags, resolve
    from search.spec.locations import Places

    flags: dict[str, Any] = {
        "name": arguments.name,
        "trials": arguments.trials,
        "retries": arguments.retries,
        "keep": arguments.keep,
        "seed": arguments.seed,
        "sampler": arguments.sampler,
        "warm_start": arguments.warm_start,
        "warm_start_trials": arguments.warm_start_trials,
        "scheduler.name": arguments.scheduler,
        "trial.steps": arguments.steps,
        "trial.dataset.data_root": arguments.data_root and str(Path(arguments.data_root).resolve()),
        "trial.dataset.download": arguments.download,
        "time_budget": arguments.time_budget and parse_duration(arguments.time_budget, "--time-budget"),
        "hang_limit": arguments.hang_limit and parse_duration(arguments.hang_limit, "--hang-limit"),
        "max_steps": arguments.max_steps,
        "patience": arguments.patience,
        "resources.concurrency": arguments.concurrency,
        "resources.cpus_per_trial": arguments.cpus_per_trial,
        "resources.gpus_per_trial": arguments.gpus_per_trial and _gpus(arguments.gpus_per_trial),
        "resources.pack": arguments.pack,
        "places.address": arguments.address,
        "places.storage": arguments.storage,
        "places.study_url": arguments.study_url,
        "places.tracking_uri": arguments.tracking_uri,
    }
    flags = {key: value for key, value in flags.items() if value is not None}
    if arguments.objective:
        flags = objective_flags(arguments.objective) | flags
        if flags["second_objective"] and not arguments.scheduler:
            print("note: with two objectives no trial is stopped early (scheduler none)", file=sys.stderr)
    flags |= requirement_flags(arguments.require)
    given = classifier_flags(arguments.classifier, arguments.weights, arguments.card)
    flags |= {f"trial.{key}": value for key, value in given.items()}
    if arguments.config and arguments.preset:
        raise BadInput("--config and --preset exclude each other; name one")
    given_places = {key.removeprefix("places."): value for key, value in flags.items() if key.startswith("places.")}
    Places.parse(given_places, "the command line").check()

    def slots(resources: Resources) -> int:
        if arguments.address:
            return Machine.of_cluster(resources, ray_runtime.join(arguments.address)).concurrency
        return Machine.local(resources).concurrency

    config = resolve(
        dataset=arguments.dataset,
        preset=arguments.preset,
        config=arguments.config,
        flags=flags,
        assignments=dict(map(parse_assignment, arguments.set)),
        slots=slots,
    )
    config.places.check()
    return config


def _gpus(text: str) -> float | str:
    from gbc.errors import BadInput

    try:
        return text if text == "auto" else float(text)
    except ValueError:
        raise BadInput(f"--gpus-per-trial {text!r}: write a number, for example 0.25, or auto") from None


def parse_duration(text: str, flag: str) -> float:
    """`90s`, `45m`, `8h`, or a bare number of minutes, as minutes; `flag` is named where it is none of these.

    Raises:
        BadInput: it is none of these.
    """
    from gbc.errors import BadInput

    units = {"s": 1 / 60, "m": 1.0, "h": 60.0}
    number, unit = (text[:-1], text[-1]) if text[-1:] in units else (text, "m")
    try:
        return float(number) * units[unit]
    except ValueError:
        raise BadInput(f"{flag} {text!r}: write for example 90s, 45m or 8h") from None


def _print_resolved(config: SweepConfig, *, as_json: bool) -> None:
    import json

    import yaml

    data = config.record()
    print(json.dumps(data, indent=2) if as_json else yaml.safe_dump(data, sort_keys=False), end="\n" if as_json else "")


def _print_summary(
    summary: Summary, arguments: argparse.Namespace, console: Console, tracking_uri: str | None, *, exports: bool
) -> None:
    """`exports`: there is a generator that can be exported."""
    from records.addresses import public, redacted
    from records.format import duration, size
    from records.paths import REPORT
    from search.status import failure_lines, front_lines

    server = tracking_uri and public(tracking_uri)

    def say(text: str) -> None:
        console.print(text, highlight=False, soft_wrap=True)

    say(
        f"\nsweep {summary.name}: {summary.complete} complete, {summary.stopped} stopped early, {summary.failed} failed"
        f"{f', {summary.open} open' if summary.open else ''} in {duration(summary.seconds)}, {size(summary.bytes)} on disk"
    )
    for line in failure_lines(summary.failures):
        say(line)
    if summary.best_trial is not None:
        scores = ("ssim/coverage", "tstr/1nn", "ssim/nearest", "classifier/accuracy", "kkt/rho")
        say(
            f"best: trial-{summary.best_trial:04d}  "
            + "  ".join(f"{k} {summary.best_metrics[k]:.3f}" for k in scores if k in summary.best_metrics)
        )
        say(
            "      "
            + "  ".join(
                f"{key}={value:.3g}" if isinstance(value, float) else f"{key}={value}"
                for key, value in summary.best_params.items()
            )
        )
        for line in summary.verdict:
            say(f"      {line}")
        say(f"picture: {summary.picture}")
    for line in front_lines(summary.front):
        say(line)
    if summary.free_rank is not None:
        say(f"without data: free/score and tstr/1nn rank the complete trials alike to {summary.free_rank:.2f} (Spearman)")
    say("\nnext:")
    if not summary.finished:
        say(f"  continue  {shlex.join(['python', 'search/run.py', *map(redacted, arguments.words)])}")
    if server and server.startswith("http"):
        say(f"  compare   {server}        (open the experiment and select runs)")
    else:
        say(f"  compare   python search/ui.py --sweep {summary.name}        (MLflow's pages, with a link to its trials)")
    if summary.concluded:
        say(f"  look      {Path(summary.folder) / REPORT}        (in a browser; needs no server)")
    if summary.best_trial is not None and exports:
        say(f"  export    python search/export.py --sweep {summary.name} --out exports/{summary.name}")
    if arguments.json:
        print(summary.to_json())


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main())
