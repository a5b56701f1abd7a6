"""A warm start: another sweep's best settings are tried first, and samplers that learn know its full trials.

Both are taken once, when the sweep is started, and kept in its folder: the other sweep may go on, or go away. The other's
trials never enter this sweep's study, where they would be numbered, counted and ranked.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from gbc.checkpoint import write_atomic
from gbc.errors import BadInput, CorruptFile
from records.trial import LISTED, TrialRecord
from search.files.paths import WARM_START, existing_sweep, has_study, recorded_config, sweep_folder
from search.policy.ranking import ranked_trials
from search.policy.samplers import Prior, SourceTrial
from search.spec.config import SweepConfig
from search.spec.space import settle, values_of
from search.study.store import recorded_trials


def load(config: SweepConfig) -> Prior:
    """Return what the sweep knows beforehand: the first trials that `config` lists, and what it takes from another.

    The latter is read as it was noted at the start, once there is a note.

    Raises:
        BadInput: there is no such sweep, it is of another data set, has no full trial, or nothing of it fits the space.
        CorruptFile: the note is damaged, or lost since.
    """
    if config.warm_start is None:
        return listed(config)
    path = sweep_folder(config.name) / WARM_START
    if path.exists():
        return read_note(path)
    if has_study(config):  # to take them again might give others: the other sweep may have gone on
        raise CorruptFile(f"{path}: missing; try --check {config.name} --repair, or choose another --name")
    return borrow(config, config.warm_start)


def read_note(path: Path) -> Prior:
    """Read the note that a sweep made at its start.

    Raises:
        CorruptFile: the note is damaged.
    """
    try:
        note = json.loads(path.read_text())
        return Prior(first=_parsed(note["first"]), history=_parsed(note["history"]))
    except (OSError, ValueError, TypeError, KeyError, RecursionError):
        raise CorruptFile(f"{path}: damaged; restore it, or choose another --name") from None


def write_note(config: SweepConfig, prior: Prior, sweep: Path) -> dict[str, str]:
    """Write what a warm start took into the sweep's folder and return {file name: text}, empty without a warm start."""
    if config.warm_start is None:
        return {}
    text = json.dumps(asdict(prior), indent=2)
    write_atomic(sweep / WARM_START, text.encode())
    return {WARM_START: text}


def borrow(config: SweepConfig, name: str) -> Prior:
    """Return the best settings of sweep `name` and its history, as far as they fit the space of `config`.

    Values become history only where they mean the same: the same objectives after the same number of steps.

    Raises:
        BadInput: as `load`.
    """
    if name == config.name:
        raise BadInput(f"--warm-start {name}: a sweep cannot start from itself; choose another --name")
    try:
        folder = existing_sweep(name)
        other = recorded_config(folder)
    except BadInput as fault:
        raise BadInput(f"--warm-start: {fault}") from None
    if other.dataset != config.dataset:
        raise BadInput(f"--warm-start {name}: it is a sweep of {other.dataset}, not of {config.dataset}")
    if not config.space.keys() & other.space.keys():
        raise BadInput(
            f"--warm-start {name}: it searched {', '.join(other.space) or 'nothing'}, "
            f"and this sweep searches {', '.join(config.space) or 'nothing'}; they have no setting in common"
        )
    entries, _ = recorded_trials(other, folder)
    full = ranked_trials(other, entries)
    if not full:
        raise BadInput(f"--warm-start {name}: it has no trial that reached its full horizon yet")
    sources = [_source_trial(config, other, trial) for trial in full]
    eligible = [source for source, trial in zip(sources, full, strict=True) if not trial.missed] or sources
    space = config.search_space
    fitting = [source for source in eligible if source.params and space.fault_of(source.params) is None]
    if not fitting:
        raise BadInput(f"--warm-start {name}: none of its settings lies in the space of this sweep")
    measured = [[(objective.metric, objective.direction) for objective in sweep.objectives] for sweep in (config, other)]
    same = measured[0] == measured[1] and other.trial.steps == config.trial.steps
    history = [source for source in sources if same and space.is_whole(source.params)]
    return Prior(first=(*listed(config).first, *_distinct(fitting)[: config.borrowed]), history=tuple(history))


def listed(config: SweepConfig) -> Prior:
    """Return the first trials that `config` lists itself."""
    return Prior(first=tuple(SourceTrial(LISTED, settings, ()) for settings in config.first_trials))


def _parsed(rows: list[dict[str, Any]]) -> tuple[SourceTrial, ...]:
    return tuple(SourceTrial(row["origin"], row["params"], tuple(row["values"])) for row in rows)


def _source_trial(config: SweepConfig, other: SweepConfig, trial: TrialRecord) -> SourceTrial:
    """Return the settings of a trial that lie in this sweep's space; what the other sweep had fixed counts too."""
    params = config.search_space.fitting(values_of(settle(other.trial, trial.params, 0)))
    return SourceTrial(f"{other.name}/trial-{trial.number:04d}", params, trial.objectives)


def _distinct(sources: Sequence[SourceTrial]) -> tuple[SourceTrial, ...]:
    first: dict[str, SourceTrial] = {}
    for source in sources:
        first.setdefault(json.dumps(source.params, sort_keys=True), source)
    return tuple(first.values())
