"""Orders to a sweep from another terminal: `--stop`, `--pause` and `--enqueue`. The sweep's driver carries them out."""

from __future__ import annotations

import json
import time
from typing import Any, Final

from gbc.errors import BadInput
from gbc.settings import parse_assignment
from records.trial import TrialRecord
from search.files.lock import Driver, current_driver
from search.files.paths import existing_sweep, has_study, recorded_config, sweep_folder, sweep_names
from search.policy.budget import exhausted_budget, remedy
from search.spec.config import SweepConfig
from search.study.orders import Order, give
from search.study.store import recorded_trials, running_driver

_PATIENCE: Final = 30.0  # seconds
_POLL: Final = 0.5  # seconds


class RecordedSweep:
    """A sweep on record, to which orders are given."""

    def __init__(self, name: str) -> None:
        """Raises `BadInput` if there is no such sweep, or it cannot be read."""
        if name not in sweep_names() and (folder := sweep_folder(name)).is_dir() and current_driver(folder):
            raise BadInput(f"sweep {name!r} is being prepared; it takes orders once its first trial has begun")
        self.folder = existing_sweep(name)
        self.config: SweepConfig = recorded_config(self.folder)
        if not has_study(self.config):
            raise BadInput(f"sweep {name!r} has not begun yet")

    @property
    def driver(self) -> Driver | None:
        """The driver that runs it now."""
        return running_driver(self.config, self.folder)

    def trials(self) -> tuple[list[TrialRecord], float]:
        """Its trials and the seconds spent."""
        return recorded_trials(self.config, self.folder)

    def give(self, order: Order) -> None:
        """Write the order down."""
        give(self.config, self.folder, order)


def stop(name: str, *, as_json: bool, wait: float = _PATIENCE) -> int:
    """Tell the driver of a sweep to end now, and wait for that, `wait` seconds at most. Returns the exit code."""
    sweep = RecordedSweep(name)
    driver = sweep.driver
    if driver is None:
        return _answer(f"sweep {name} is not running: there is nothing to stop", as_json, sweep=name, running=False)
    sweep.give(Order("stop"))
    began = time.monotonic()
    while (still := sweep.driver) == driver and time.monotonic() - began < wait:
        time.sleep(_POLL)
    if still == driver:
        text = f"sweep {name} has the order to stop and has not ended yet ({driver.describe()}); see --status {name}"
    else:
        text = f"sweep {name} has stopped; the command that started it continues it, open trials included"
    return _answer(text, as_json, sweep=name, running=still == driver)


def pause(name: str, *, as_json: bool) -> int:
    """Tell the driver of a sweep to begin no trial and to end after those that run. Returns the exit code."""
    sweep = RecordedSweep(name)
    if running := sweep.driver is not None:
        sweep.give(Order("pause"))
        text = f"sweep {name} begins no new trial and ends after those that run; the command that started it continues it"
    else:
        text = f"sweep {name} is not running: there is nothing to pause"
    return _answer(text, as_json, sweep=name, running=running)


def end_trial(name: str, number: int, *, as_json: bool) -> int:
    """Order that an open trial ends as stopped early. Returns the exit code."""
    sweep = RecordedSweep(name)
    trials, _ = sweep.trials()
    if not 0 <= number < len(trials):
        known = f"it has 0 to {len(trials) - 1}" if trials else "it has none yet"
        raise BadInput(f"--trial {number}: sweep {name} has no such trial; {known}")
    if trials[number].finished:
        raise BadInput(f"--trial {number}: it has ended already ({trials[number].state})")
    sweep.give(Order("end", trial=number))
    running = sweep.driver is not None
    moment = "at its next report" if running else f"when sweep {name}, which is not running, is continued"
    return _answer(f"trial {number} ends as stopped early {moment}", as_json, sweep=name, trial=number, running=running)


def enqueue(name: str, text: str, *, as_json: bool) -> int:
    """Let a sweep try a setting next. Returns the exit code."""
    sweep = RecordedSweep(name)
    settings = parse_setting(text, sweep.config)
    sweep.give(Order("enqueue", settings=settings))
    running = sweep.driver is not None
    moment = "starts next" if running else f"starts first when sweep {name}, which is not running, is continued"
    reason = exhausted_budget(sweep.config, *sweep.trials())
    caveat = f"; but {remedy(sweep.config, reason)}" if reason else ""
    return _answer(f"the setting {text} {moment}{caveat}", as_json, sweep=name, settings=settings, running=running)


def parse_setting(text: str, config: SweepConfig) -> dict[str, Any]:
    """`lr=5e-3,beta=0.01` as settings that the space of `config` holds.

    Raises:
        BadInput: it is no such list, names a setting twice, or is none that a trial of the space may have.
    """
    setting: dict[str, Any] = {}
    for part in text.split(","):
        key, value = parse_assignment(part.strip(), "--enqueue")
        if key in setting:
            raise BadInput(f"--enqueue {key}: given twice")
        setting[key] = value
    if fault := config.search_space.fault_of(setting):
        key, message = fault
        raise BadInput(f"--enqueue{key and ' '}{key}: {message}")
    return setting


def _answer(text: str, as_json: bool, **facts: Any) -> int:
    print(json.dumps(facts, indent=2) if as_json else text)
    return 0
