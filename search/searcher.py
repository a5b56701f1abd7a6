"""Ray's Searcher over the ledger: first the trials that an earlier run left open, then new ones."""

from __future__ import annotations

from typing import Any

from ray.tune.search import Searcher

from search.budget import used_up
from search.faults import Halt
from search.ledger import Entry, Ledger
from search.trial import Assignment


class LedgerSearcher(Searcher):
    """Suggests assignments; what comes of them is recorded elsewhere (`search.recorder`)."""

    def __init__(self, ledger: Ledger, assign: Any, halt: Halt) -> None:
        """`assign` turns a ledger entry into the `Assignment` a worker gets; none once `halt` has a reason."""
        objective = ledger.config.objective
        super().__init__(metric=objective.metric, mode=objective.direction)
        self._ledger, self._assign, self._halt = ledger, assign, halt
        self._open = [entry for entry in ledger.entries() if not entry.finished]

    def suggest(self, trial_id: str) -> dict[str, Any] | str:
        """The next assignment as a plain dictionary, or FINISHED when a budget is used up."""
        with self._halt.guard():
            if self._halt.reason is None and (entry := self._next()) is not None:
                assignment: Assignment = self._assign(entry)
                return dict(assignment)
        return Searcher.FINISHED

    def _next(self) -> Entry | None:
        if self._open:
            return self._open.pop(0)
        if used_up(self._ledger.config, self._ledger.entries(), self._ledger.seconds):
            return None
        return self._ledger.ask()

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """Nothing: the recorder tells the ledger."""

    def save(self, checkpoint_path: str) -> None:
        """Nothing: the ledger is the record."""

    def restore(self, checkpoint_path: str) -> None:
        """Nothing: the ledger is the record."""

    def __getstate__(self) -> dict[str, Any]:
        """Ray pickles the searcher into a file that nobody reads; keep the open study out of it."""
        return {}
