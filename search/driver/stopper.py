"""Ends Ray's run when a budget of the sweep is spent, or when it cannot go on."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ray import tune

from search.policy.budget import MOMENT, spent
from search.spec.faults import Abandon, Halt
from search.study.ledger import Ledger


class LedgerStopper(tune.Stopper):
    """Looks into the ledger, and at the clock: trials may be silent for long."""

    def __init__(self, ledger: Ledger, elapsed: Callable[[], float], halt: Halt) -> None:
        """`elapsed` gives the wall seconds spent on the sweep so far."""
        self._ledger, self._elapsed, self._halt = ledger, elapsed, halt

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        """Never a single trial."""
        return False

    def stop_all(self) -> bool:
        """Whether the sweep is over, its time to the last second; asked several times a second.

        Raises:
            Abandon: Ray is dead.
        """
        if self._halt.reason is not None:
            if not self._halt.records_fail:
                raise Abandon
            return True
        return spent(self._ledger.config, self._ledger.entries(), self._elapsed() - MOMENT) is not None

    def __getstate__(self) -> dict[str, Any]:
        """Ray pickles stoppers into a file that nobody reads; keep the open study out of it."""
        return {}
