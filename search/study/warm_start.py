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
from search.files.paths import WARM_START, existing, folder_of, recorded, started
from search.policy.ranking import ranked
from search.policy.samplers import Known, Prior
from search.spec.config import SweepConfig
from search.spec.space import settle
from search.spec.trial_record import LISTED, Entry
from search.study.tables import recorded_trials


def load(config: SweepConfig) -> Prior:
    """What the sweep knows beforehand: the first trials that `config` lists, and what it takes from the sweep that it names.

    The latter is read as it was noted at the start, once there is a note.

    Raises:
        BadInput: there is no such sweep, it is of another data set, has no full trial, or nothing of it fits the space.
        CorruptFile: the note is damaged, or lost since.
    """
    if config.warm_start is None:
        return listed(config)
    path = folder_of(config.name) / WARM_START
    if path.exists():
        return noted(path)
    if started(config):  # to take them again might give others: the other sweep may have gone on
        raise CorruptFile(f"{path}: missing; try --check {config.name} --repair, or choose another --name")
    return take(config, config.warm_start)


def noted(path: Path) -> Prior:
    """What a sweep noted at its start.

    Raises:
        CorruptFile: the note is damaged.
    """
    try:
        found = json.loads(path.read_text())
        return Prior(first=_parsed(found["first"]), history=_parsed(found["history"]))
    except (OSError, ValueError, TypeError, KeyError, RecursionError):
        raise CorruptFile(f"{path}: damaged; restore it, or choose another --name") from None


def note(config: SweepConfig, prior: Prior, sweep: Path) -> dict[str, str]:
    """Keep what a warm start took in the sweep's folder; also returned as {file name: text}, empty without a warm start."""
    if config.warm_start is None:
        return {}
    text = json.dumps(asdict(prior), indent=2)
    write_atomic(sweep / WARM_START, text.encode())
    return {WARM_START: text}


def take(config: SweepConfig, name: str) -> Prior:
    """The best settings of sweep `name` and its history, as far as they fit the space of `config`.

    Values become history only where they mean the same: the same objectives after the same number of steps.

    Raises:
        BadInput: as `load`.
    """
    if name == config.name:
        raise BadInput(f"--warm-start {name}: a sweep cannot start from itself; choose another --name")
    try:
        folder = existing(name)
        other = recorded(folder)
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
    full = ranked(other, entries)
    if not full:
        raise BadInput(f"--warm-start {name}: it has no trial that reached its full horizon yet")
    known = [_known(config, other, entry) for entry in full]
    eligible = [one for one, entry in zip(known, full, strict=True) if not entry.missed] or known
    fitting = [one for one in eligible if one.params]
    if not fitting:
        raise BadInput(f"--warm-start {name}: none of its settings lies in the space of this sweep")
    measured = [[(one.metric, one.direction) for one in sweep.objectives] for sweep in (config, other)]
    same = measured[0] == measured[1] and other.trial.steps == config.trial.steps
    history = [one for one in known if same and one.params.keys() == config.space.keys()]
    return Prior(first=(*listed(config).first, *_distinct(fitting)[: config.borrowed]), history=tuple(history))


def listed(config: SweepConfig) -> Prior:
    """The first trials that `config` lists itself."""
    return Prior(first=tuple(Known(LISTED, settings, ()) for settings in config.first_trials))


def _parsed(noted: list[dict[str, Any]]) -> tuple[Known, ...]:
    return tuple(Known(known["origin"], known["params"], tuple(known["values"])) for known in noted)


def _known(config: SweepConfig, other: SweepConfig, entry: Entry) -> Known:
    """What this sweep's space holds of a trial's settings; what the other sweep had fixed counts too."""
    settings = settle(other.trial, entry.params, 0).model_dump(mode="json")
    params = {key: settings[key] for key, dimension in config.space.items() if dimension.holds(settings[key])}
    return Known(f"{other.name}/trial-{entry.number:04d}", params, entry.objectives)


def _distinct(known: Sequence[Known]) -> tuple[Known, ...]:
    first: dict[str, Known] = {}
    for one in known:
        first.setdefault(json.dumps(one.params, sort_keys=True), one)
    return tuple(first.values())
