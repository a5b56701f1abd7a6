"""A node that dies is no fault of the trials on it."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

from ray import tune

_WORDS: Final = ("its node has died", "The actor is temporarily unavailable")
"""What Ray says of a worker whose node died: before anybody has noticed that, it says that it cannot reach the worker."""
_MOST: Final = 10


class NodeDeaths(tune.Callback):
    """Gives a trial whose node died back the retry that Ray took off for it, ten times at most.

    One more than was allowed is still needed at that moment: of a trial that has used up its retries the death of a node is
    the end, and `--retry-failed` lets it go on.
    """

    def __init__(self) -> None:
        """For one run of Tune."""
        self._given: dict[int, int] = {}

    def on_trial_recover(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """A worker died or raised, and another one takes over."""
        number, text = trial.config["number"], Path(trial.error_file).read_text() if trial.error_file else ""
        if of_a_node(text) and self._given.get(number, 0) < _MOST:
            self._given[number] = self._given.get(number, 0) + 1
            trial.max_failures += 1

    def __getstate__(self) -> dict[str, Any]:
        """Ray pickles callbacks into a file that nobody reads."""
        return {}


def of_a_node(log: str) -> bool:
    """Whether the last failure in a trial's error file is the death of a node."""
    last = log.rpartition("Failure # ")[2]
    return any(words in last for words in _WORDS)
