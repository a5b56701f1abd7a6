"""From a command line to a sweep: the preset or file, then flags, then `--set`."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from gbc.config import TrialConfig, fitting_reports
from gbc.errors import BadInput
from gbc.report import DATA_FREE_OBJECTIVE, METRIC_DIRECTIONS, STUDENT_METRIC, STUDENT_STEPS
from gbc.settings import assign, flatten, load_yaml, shown, suggest
from search.spec.config import MOST_TRIALS, Objective, Resources, SweepConfig
from search.spec.flags import origins as flag_origins
from search.spec.presets import CONFIGS, presets
from search.spec.search_space import take_out

REPEAT_SETTINGS: Final = frozenset({"finalists", "seeds", "keep"})
"""Settings that `--repeat` makes, and that may change when a sweep is continued."""


def resolve(
    *,
    dataset: str,
    preset: str | None,
    config: Path | None,
    flags: Mapping[str, Any],
    assignments: Mapping[str, Any],
    slots: Callable[[Resources], int],
    space: Mapping[str, Any] | None = None,
    constraints: Sequence[str] | None = None,
) -> SweepConfig:
    """The sweep that the command line asks for: preset or file, then flags, then `--set`.

    `flags` are dotted sweep keys, and `repeat` (`_repeating_all`); `assignments` are trial keys and take a key out of the
    search space. A file that says `trials: {per_slot: n}` gets n trials for each that `slots` says can run at once. `space` is
    searched instead of the file's, without the file's first trials and constraints; `constraints` take the place of the file's.

    Raises:
        BadInput: anything that does not fit, named.
    """
    if "none" in (assignments.get("dataset"), assignments.get("dataset.name")):
        dataset = "none"  # the objective of another data set's preset would need images
    flags = dict(flags)
    repeat = flags.pop("repeat", None)
    path = config or _preset(dataset, preset or "quick")
    source, origins = str(path), flag_origins([*flags], [*assignments])
    data = _sweep_file(path)
    assign(data, "trial.dataset.name", data.get("trial", {}).get("dataset", {}).get("name", dataset), source)
    data.setdefault("preset", "custom" if config else preset or "quick")
    if space is not None:
        data["space"], origins["space"] = space, "space"
        for key in ("first_trials", "constraints"):  # they are of another space
            data.pop(key, None)
    if constraints is not None:
        data["constraints"], origins["constraints"] = constraints, "constraints"
    for key, value in flags.items():
        assign(data, key, value, origins[key], SweepConfig)
    for key, value in assignments.items():
        _check_belongs_to_a_trial(key)
        assign(data, f"trial.{key}", value, f"--set {key}", SweepConfig)
    data = SweepConfig.shaped(data, source, origins)
    set_by_flags = {key.removeprefix("trial."): value for key, value in flags.items() if key.startswith("trial.")}
    for key, value in {**set_by_flags, **assignments}.items():
        named = key == "classifier.factory" or (key == "classifier" and isinstance(value, str))
        _take_out_of_the_space(data, "classifier.name" if named else key)
    if data.get("second_objective"):
        data.setdefault("scheduler", {}).setdefault("name", "none")
    if data["trial"]["dataset"]["name"] == "none":
        data.setdefault("objective", {}).setdefault("metric", DATA_FREE_OBJECTIVE)
    _fit_reports(data, set_by_flags | dict(assignments))
    _add_students(data)
    data.setdefault("name", f"{data['trial']['dataset']['name']}-{data['preset']}")
    if isinstance(trials := data.get("trials"), dict):
        count = trials.get("per_slot")
        if trials.keys() != {"per_slot"} or type(count) is not int or not 1 <= count <= MOST_TRIALS:
            raise BadInput(f"{source}: trials: expected a number, or {{per_slot: NUMBER}}, found {shown(trials)}")
        SweepConfig.parse({**data, "trials": 1}, source, origins)  # what is wrong is said before the machine is asked
        data["trials"] = count * slots(Resources.parse(data.get("resources", {}), f"{source}: resources"))
        if data.get("sampler") == "grid":  # nobody named a number: all of it
            data["trials"] = MOST_TRIALS
    resolved = SweepConfig.parse(data, source, origins)
    if repeat is not None:
        resolved = SweepConfig.parse(data | _repeating_all(resolved, repeat, flags), source, origins)
    return resolved.model_copy(update={"trials": resolved.planned})


def _repeating_all(config: SweepConfig, repeat: int, flags: Mapping[str, Any]) -> dict[str, Any]:
    """The settings with which every setting of the sweep is a finalist, on `repeat` fresh seeds.

    Raises:
        BadInput: a number that makes no mean, or flags that say the same otherwise.
    """
    if repeat < 2:
        raise BadInput(f"--repeat {repeat}: a mean needs 2 seeds or more")
    for key, flag in (("finalists", "--finalists"), ("seeds", "--seeds"), ("scheduler.name", "--scheduler")):
        if key in flags:
            raise BadInput(f"--repeat runs every setting to its end and on fresh seeds; leave out {flag}")
    everything = {"finalists": config.planned, "seeds": repeat, "keep": max(config.keep, config.planned)}
    return everything | {"scheduler": {**config.scheduler.model_dump(mode="json", exclude_none=True), "name": "none"}}


def objective_flags(text: str) -> dict[str, Any]:
    """`--objective` as settings: one metric, or two with a comma, and then no early stopping.

    Raises:
        BadInput: as `Objective.from_text`, or more than two.
    """
    objectives = [Objective.from_text(part.strip()).model_dump(mode="json", exclude_none=True) for part in text.split(",")]
    if len(objectives) > 2:
        raise BadInput(f"--objective: {len(objectives)} metrics; a sweep takes one, or two with a comma")
    first = {f"objective.{key}": value for key, value in objectives[0].items()}  # what a file requires stays
    if len(objectives) == 1:
        return first | {"second_objective": None}
    return first | {"second_objective": objectives[1], "scheduler.name": "none"}


def requirement_flags(texts: Sequence[str]) -> dict[str, float]:
    """Each `--require METRIC=BOUND` as a setting; those of a file stay beside them.

    Raises:
        BadInput: an unknown metric, or a bound that is no number.
    """
    bounds = {}
    for text in texts:
        metric, equals, bound = text.partition("=")
        try:
            value = float(bound)
        except ValueError:
            value = math.nan
        if not equals or not math.isfinite(value):
            raise BadInput(f"--require {text!r}: expected METRIC=NUMBER, for example kkt/active=0.05")
        if metric not in METRIC_DIRECTIONS:
            raise BadInput(f"--require: unknown metric {metric!r}; {suggest(metric, list(METRIC_DIRECTIONS))}")
        bounds[f"objective.require.{metric}"] = value
    return bounds


def _sweep_file(path: Path) -> dict[str, Any]:
    """The contents of the file of a sweep. Raises `BadInput` if it cannot be read, or holds the settings of one trial."""
    data = load_yaml(path)
    of_a_trial = data.keys() & (TrialConfig.model_fields.keys() - SweepConfig.model_fields.keys())
    if of_a_trial and not data.keys() - TrialConfig.model_fields.keys():
        raise BadInput(
            f"{path}: the settings of one trial ({', '.join(sorted(of_a_trial)[:3])}, …), and a sweep has them under `trial`; "
            f"python -m gbc train --config {path} --out DIR runs that trial alone"
        )
    return SweepConfig.shaped(data, str(path))


def _check_belongs_to_a_trial(key: str) -> None:
    """Refuse a setting of the sweep in `--set`, and name its flag, or the file where it can stand."""
    first = key.partition(".")[0]
    if first in TrialConfig.model_fields or first not in SweepConfig.model_fields:
        return
    flag = flag_origins([key], [])[key]
    remedy = f"write {flag}" if flag.startswith("--") else "write it in a file and run --config FILE"
    raise BadInput(f"--set {key}: is a setting of the sweep, not of its trials; {remedy}")


def _take_out_of_the_space(data: dict[str, Any], key: str) -> None:
    """Search a setting no more that `data["trial"]` fixes, nor what was searched only beside other values of it."""
    fixed = flatten(TrialConfig().model_dump(mode="json")) | flatten(data["trial"])
    fixed["classifier.name"] = fixed["classifier.factory"] or fixed["classifier.name"]
    for name in [name for name in data.get("space", {}) if f"{name}.".startswith(f"{key}.")]:
        take_out(name, fixed, data["space"], data.get("first_trials", []))


def _preset(dataset: str, preset: str) -> Path:
    known = presets()
    if dataset not in known:
        own = "" if suggest(dataset, known).startswith("did") else "; --images PATH takes images of your own"
        raise BadInput(f"--dataset: unknown dataset {shown(dataset)}; {suggest(dataset, known)}{own}")
    if preset in known[dataset]:
        return CONFIGS / f"{dataset}-{preset}.yaml"
    raise BadInput(f"--preset: unknown preset {shown(preset)} for {dataset}; known: {', '.join(known[dataset])}")


def _add_students(data: dict[str, Any]) -> None:
    """Let trials measure the accuracy of students of their images, if the sweep asks for that metric."""
    first, second = (data.get(key) or {} for key in ("objective", "second_objective"))
    if STUDENT_METRIC in [first.get("metric"), second.get("metric"), *(first.get("require") or {})]:
        data["trial"].setdefault("student_steps", STUDENT_STEPS)


def _fit_reports(data: dict[str, Any], named: Mapping[str, Any]) -> None:
    """Let reports and the first rung of a preset give way to the steps, or the reports, that the command line names.

    `named` are the trial's settings on the command line; what stands there is not changed.
    """
    trial, scheduler = data["trial"], data.get("scheduler", {})
    defaults = TrialConfig()
    steps, every = trial.get("steps", defaults.steps), trial.get("report_every", defaults.report_every)
    if not named.keys() & {"steps", "report_every"} or any(type(number) is not int or number < 1 for number in (steps, every)):
        return  # nothing was named, or the model says what is wrong with it
    if steps % every and "report_every" not in named:
        trial["report_every"] = every = fitting_reports(steps, every)
    grace = scheduler.get("grace")
    if type(grace) is int and (grace > steps or grace % every):
        del scheduler["grace"]
