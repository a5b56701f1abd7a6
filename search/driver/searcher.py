"""Ray's Searcher over the ledger: first the trials that an earlier run left open, then new ones."""

from __future__ import annotations

from typing import Any

from ray.tune.search import Searcher

from records.trial import Entry
from search.policy.budget import used_up
from search.spec.faults import Halt
from search.study.ledger import Ledger
from search.worker.trial import Assignment


class LedgerSearcher(Searcher):
    """Suggests assignments; what comes of them is recorded elsewhere (`search.driver.recorder`)."""

    def __init__(self, ledger: Ledger, assign: Any, halt: Halt) -> None:
        """`assign` turns a ledger entry into the `Assignment` a worker gets; none once `halt` has a reason."""
        objective = ledger.config.objective
        super().__init__(metric=objective.metric, mode=objective.direction)
        self._ledger, self._assign, self._halt = ledger, assign, halt
        self._open = [entry.number for entry in ledger.entries() if not entry.finished]
        self._given: dict[str, Assignment] = {}

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:
        """The next assignment as a plain dictionary, or FINISHED when a budget is used up; None while a trial may come back."""
        with self._halt.guard():
            if self._halt.reason is None and (entry := self._next()) is not None:
                self._given[trial_id] = self._assign(entry)
                return dict(self._given[trial_id])
        return None if self._given and self._halt.reason is None else Searcher.FINISHED

    def _next(self) -> Entry | None:
        if self._open:
            return self._ledger.entry(self._open.pop(0))
        if used_up(self._ledger.config, self._ledger.entries(), self._ledger.seconds):
            return None
        return self._ledger.ask()

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """The recorder tells the ledger; a trial that ran out of a GPU's memory is handed out again, with more of it.

        So is one whose worker died before it had begun: Ray gives such a trial up without a retry.
        """
        given = self._given.pop(trial_id)
        entry = self._ledger.entry(given["number"])
        crowded = entry.gpus > given["gpus"]
        if not entry.finished and (crowded or (error and self._ledger.may_retry(entry.number))):
            self._open.append(entry.number)

    def save(self, checkpoint_path: str) -> None:
        """Nothing: the ledger is the record."""

    def restore(self, checkpoint_path: str) -> None:
        """Nothing: the ledger is the record."""

    def __getstate__(self) -> dict[str, Any]:
        """Ray pickles the searcher into a file that nobody reads; keep the open study out of it."""
        return {}
