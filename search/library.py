"""A sweep as a call: `search.sweep("fashion_mnist", trials=8)`. The command line makes the same calls."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from gbc.errors import BadInput
from search.spec import flags
from search.sweep_result import SweepResult

if TYPE_CHECKING:
    from rich.console import Console

    from search.driver.summary import Summary
    from search.spec.config import SweepConfig


class Interrupted(KeyboardInterrupt):
    """The sweep ended before a budget was used up: by Ctrl-C, SIGTERM, `--stop` or `--pause`. The same call continues it."""


def sweep(
    dataset: str | None = None,
    *,
    settings: Mapping[str, Any] | None = None,
    space: Mapping[str, Any] | None = None,
    constraints: Sequence[str] | None = None,
    quiet: bool = False,
    **options: Any,
) -> SweepResult:
    """Run a sweep to its end, as `python search/run.py` does; the same call resumes it, and returns at once when it has ended.

    Records go into `mlruns/` and `mlflow.db` in the current folder. `options` are the flags of the command, with underscores:
    `trials=8`, `time_budget="2h"`, `objective="tstr/1nn"`. `settings` fixes settings of a trial (`--set`), by dotted or nested
    keys. `space` is searched instead of the preset's, and then the preset's first trials and constraints are left out.
    `constraints` are comparisons of settings that every trial keeps. With `quiet` nothing is printed.

    In the main thread Ctrl-C, a notebook's stop button and SIGTERM end the sweep in good order. No signal reaches it in another
    thread: there `python search/run.py --stop NAME` ends it.

    Raises:
        BadInput: anything that the user must mend, in the line that the command prints.
        Interrupted: the sweep was ended from outside; the records are whole.
        search.spec.faults.Halted: a full disk or the like stopped it; the records are whole. If it is `abandoned`, the process
            must be started again.
    """
    from search.spec.faults import Halted

    try:
        _refuse_other_ray(options.get("address"))
        arguments = flags.from_options({"dataset": dataset, **options})
        config = requested(arguments, _assignments(settings, space), _plain(space), _plain(constraints))
        retry, report = bool(arguments.retry_failed), not arguments.no_report
        summary = run(config, _console(quiet), retry_failed=retry, report=report, pictures=arguments.pictures)
    except BadInput as fault:
        fault.args = (flags.without_secrets(str(fault)),)
        raise fault.with_traceback(None) from None
    except Halted as fault:
        raise Halted(flags.without_secrets(str(fault)), abandoned=fault.abandoned) from None
    except KeyboardInterrupt:
        raise Interrupted("interrupted; the same call continues") from None
    if not summary.finished:
        raise Interrupted(f"sweep {summary.name} was interrupted; the same call continues it")
    return SweepResult(summary, config)


def _console(quiet: bool) -> Console:
    """The console that the sweep writes to. A notebook gets lines, and no table that is drawn again and again.

    A kernel's output calls itself a terminal, but keeps every drawing.
    """
    from rich.console import Console

    return Console(quiet=quiet, markup=False, force_jupyter=False, force_terminal=False if Console().is_jupyter else None)


def requested(
    arguments: argparse.Namespace,
    assignments: Mapping[str, Any],
    space: Mapping[str, Any] | None = None,
    constraints: Sequence[str] | None = None,
    *,
    dry_run: bool = False,
) -> SweepConfig:
    """The sweep that is asked for, as its record continues it. `arguments` are those of `flags`, the rest is `resolve`'s.

    Raises:
        BadInput: anything that does not fit, named; a record that differs, or is damaged.
    """
    from search.driver import ray_runtime
    from search.driver.resources import Machine
    from search.driver.resume_checks import settle_with_record
    from search.spec.config import MAY_CHANGE, Resources
    from search.spec.locations import Places
    from search.spec.resolve import REPEAT_SETTINGS, resolve

    given = flags.settings(arguments)
    if given.get("second_objective") and not arguments.scheduler:
        print("note: with two objectives no trial is stopped early (scheduler none)", file=sys.stderr)
    if arguments.config and arguments.preset:
        raise BadInput("--config and --preset exclude each other; name one")
    locations = {key.removeprefix("places."): value for key, value in given.items() if key.startswith("places.")}
    Places.parse(locations, "the command line").check()

    def slots(resources: Resources) -> int:
        if arguments.address:
            return Machine.of_cluster(resources, ray_runtime.join(arguments.address)).concurrency
        return Machine.local(resources).concurrency

    config = resolve(
        dataset=arguments.dataset or ("images" if arguments.images else "fashion_mnist"),
        preset=arguments.preset,
        config=arguments.config,
        flags=given,
        assignments=assignments,
        slots=slots,
        space=space,
        constraints=constraints,
    )
    config.places.check()
    if not (dry_run and config.places.study_url):  # a dry run asks no server
        explicit = {key for key in MAY_CHANGE if getattr(arguments, key, None) is not None}
        explicit |= REPEAT_SETTINGS if arguments.repeat is not None else set()
        config = settle_with_record(config, explicit)
    config.places.check_together()
    return config


def run(
    config: SweepConfig, console: Console, *, retry_failed: bool = False, report: bool = True, pictures: str = "none"
) -> Summary:
    """Run what is left of a sweep, if anything is; raises as `search.driver.sweep.run_sweep`."""
    from search.driver import sweep
    from search.policy.budget import remedy

    summary = sweep.finished_summary(config, retry_failed=retry_failed, report=report)
    if summary:
        console.print(
            f"sweep {config.name} is finished already; {remedy(config, summary.ended_by or 'trials')}",
            highlight=False, soft_wrap=True,
        )  # fmt: skip
        return summary
    from search.driver.resources import Machine

    summary = sweep.run_sweep(
        config, Machine.for_sweep(config), console, retry_failed=retry_failed, report=report, pictures=pictures
    )
    if summary.ended_by in ("steps", "patience", "grid"):
        console.print(f"\nended: {remedy(config, summary.ended_by)}", highlight=False, soft_wrap=True)
    return summary


def _assignments(settings: Mapping[str, Any] | None, space: Mapping[str, Any] | None) -> dict[str, Any]:
    """The settings of a trial by dotted key; raises `BadInput`."""
    from gbc.settings import flatten

    plain = _plain(settings or {})
    if not isinstance(plain, dict):
        raise BadInput("settings: expected a mapping, for example {'lr': 1e-3}")
    flat = flatten(plain)
    if isinstance(space, Mapping) and (both := sorted(flat.keys() & space.keys())):
        raise BadInput(f"settings: {both[0]!r} is in the space as well; leave it out of one")
    return flat


def _plain(value: Any) -> Any:
    """Lists, mappings with texts as keys, and numbers of Python, also from NumPy's."""
    if isinstance(value, Mapping):
        return {str(key): _plain(element) for key, element in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(element) for element in value]
    return value.tolist() if hasattr(value, "tolist") else value


def _refuse_other_ray(address: object) -> None:
    """A sweep starts a Ray of its own, which a process has one of; raises `BadInput`."""
    ray = sys.modules.get("ray")
    if ray is not None and address is None and ray.is_initialized():
        raise BadInput("Ray runs in this process already; call ray.shutdown() first")
