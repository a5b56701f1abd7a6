"""Between Ray and the recorder: once the sweep must end, nothing that Ray still says is written down."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ray import tune

from search.spec.faults import Halt


class Shield(tune.Callback):
    """Passes Ray's events on to a recorder as long as the records can be written and Ray is whole.

    A worker that dies with Ray's daemons is not a worker that was lost, and a trial that ends because its disk is full has not
    ended.
    """

    def __init__(self, recorder: tune.Callback, halt: Halt) -> None:
        self._recorder, self._halt = recorder, halt

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """A worker took a trial."""
        self._pass(self._recorder.on_trial_start, iteration, trials, trial)

    def on_trial_result(self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **info: Any) -> None:
        """A worker reported, or says in `result["halt"]` why it cannot go on."""
        if "halt" in result:
            self._halt.stop(result["halt"])
        self._pass(self._recorder.on_trial_result, iteration, trials, trial, result)

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """A trial ended."""
        self._pass(self._recorder.on_trial_complete, iteration, trials, trial)

    def on_trial_recover(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """A worker was lost, and another one takes over."""
        self._halt.look()
        self._pass(self._recorder.on_trial_recover, iteration, trials, trial)

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """A worker was lost once too often."""
        self._halt.look()
        self._pass(self._recorder.on_trial_error, iteration, trials, trial)

    def on_step_end(self, iteration: int, trials: list[Any], **info: Any) -> None:
        """Ray looked for news."""
        self._pass(self._recorder.on_step_end, iteration, trials)

    def _pass(self, hook: Callable[..., None], *event: Any) -> None:
        if self._halt.reason is None:
            with self._halt.guard():
                hook(*event)

    def __getstate__(self) -> dict[str, Any]:
        """Ray pickles callbacks into a file that nobody reads; keep the open stores out of it."""
        return {}
