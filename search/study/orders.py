"""Orders to a sweep from another terminal. They stand in the study, as attributes of it, until they are carried out.

Who gives an order writes that one attribute; everything else in a study is the driver's to write. A setting that was given is
carried out once a trial names the order, which is written with the trial: a driver that dies in between runs it neither twice
nor never.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final, Literal

from records.trial import TrialRecord
from search.spec import faults
from search.spec.config import SweepConfig
from search.spec.space import Value
from search.study.store import set_study_attribute, study_of

Kind = Literal["stop", "pause", "end", "enqueue"]
"""Stop the driver now; stop it after the trials that run; end a trial for good; try a setting next."""

_PREFIX: Final = "order/"


@dataclass(frozen=True)
class Order:
    """One order."""

    kind: Kind
    given: int = field(default_factory=time.time_ns)
    """The time at which it was given, in nanoseconds since 1970."""
    trial: int | None = None
    """The trial to end."""
    settings: dict[str, Value] = field(default_factory=dict)
    """The setting to try; what it leaves open is sampled."""

    @property
    def key(self) -> str:
        """The attribute that holds it. A second order to stop takes the place of the first; settings wait in a row."""
        detail = {"end": f"/{self.trial}", "enqueue": f"/{self.given:020d}"}
        return f"{_PREFIX}{self.kind}{detail.get(self.kind, '')}"

    @property
    def to_driver(self) -> bool:
        """True if it is for the driver that runs at this moment, and means nothing to the next one."""
        return self.kind in ("stop", "pause")

    def describe(self) -> str:
        """For people."""
        match self.kind:
            case "stop":
                return "stop now; open trials can be continued"
            case "pause":
                return "no new trials; it ends when those that run have ended"
            case "end":
                return f"end trial {self.trial} as stopped early, at its next report"
            case "enqueue":
                return f"next: {', '.join(f'{key}={value}' for key, value in self.settings.items())}"


def pending(attributes: Mapping[str, Any], trials: Sequence[TrialRecord]) -> list[Order]:
    """The orders among the attributes of a study that are not carried out, the earliest first."""
    done = {trial.order for trial in trials}
    waiting = [Order(**value) for key, value in attributes.items() if key.startswith(_PREFIX) and value and key not in done]
    ended = {trial.number for trial in trials if trial.finished}
    return sorted((order for order in waiting if order.trial not in ended), key=lambda order: order.given)


def setting_waits(orders: Iterable[Order]) -> bool:
    """True if a setting that was given by hand waits to be tried."""
    return any(order.kind == "enqueue" for order in orders)


def give(config: SweepConfig, folder: Path, order: Order) -> None:
    """Write an order into the study of a sweep that was started.

    Raises:
        BadInput: the study cannot be written.
    """
    set_study_attribute(config, folder, order.key, asdict(order))


@faults.readable()
def recorded_orders(config: SweepConfig, folder: Path, trials: Sequence[TrialRecord]) -> list[Order]:
    """The orders in the study of a sweep that are not carried out, `trials` being its trials.

    Raises:
        CorruptFile: the study's file is damaged.
        BadInput: the database cannot be reached.
    """
    return pending(study_of(config, folder).attributes(), trials)
