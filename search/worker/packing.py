"""Trials that share a device as one stack (`gbc.training.pack`), each still a trial of its own for Ray, the study and MLflow.

A `PackService` trains: one for each GPU, or for each share of the CPUs. Ray's workers only wait for it: each hands its
trial's assignment over and passes on the rows that come back, so that whatever holds for a trial that trains in its own
worker (stopped early, retried, resumed, recorded) holds for one in a pack. Files are the same as well: a trial may go on
alone that was begun in a pack, and the other way round.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Hashable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final

from ray import tune

from search.worker.trial import Assignment, Keeper, Row, failure, note_of

_ROUND: Final = 25
"""Steps at most before somebody who wants to join or leave is heard."""
_PATIENCE: Final = 1.0
"""Seconds that a stack waits for the worker of a trial whose report is due; then it goes on without that trial."""


class Place:
    """One trial in the service."""

    def __init__(self, assignment: Assignment, root: str | None) -> None:
        self.assignment, self.root = assignment, root
        self.rows: deque[Row] = deque()
        """Those that its worker has not taken yet."""
        self.asked = False
        """Whether its worker is done with all rows and waits for the next. Only then is anything saved: a trial that is
        stopped has no checkpoint beyond its last report."""
        self.fault: Exception | None = None
        self.over = False
        self.keeper: Keeper | None = None
        self.stack: Any = None
        self.member: Any = None
        """In the stack; None while it is not."""
        self.held: Any = None
        """The member while its report is due and nobody asks for it."""
        self.state: dict[str, Any] | None = None
        """Of its trainer, to go on from."""

    def wants_to_train(self) -> bool:
        """Whether there is something to do for it."""
        return not self.over and (self.held is None or self.asked)


class PackService:
    """Trains the trials that were handed over, side by side; methods may be called from any thread."""

    def __init__(self, threads: int) -> None:
        """`threads` are torch's. A round of steps that takes longer than trials may be silent ends the process."""
        self._threads = threads
        self._changed = threading.Condition()
        self._places: dict[int, Place] = {}
        self._judges: dict[Hashable, Any] = {}
        self._stacks: dict[Hashable, Any] = {}
        threading.Thread(target=self._work, name="pack", daemon=True).start()

    def load(self) -> int:
        """How many trials are here."""
        return len(self._places)

    def join(self, assignment: Assignment, root: str | None) -> None:
        """Take a trial in, from its last checkpoint on; `root` is the storage's URL. One with the same number is replaced."""
        with self._changed:
            self._places[assignment["number"]] = Place(assignment, root)
            self._changed.notify_all()

    def leave(self, number: int) -> None:
        """Forget a trial; its files stay as they are."""
        with self._changed:
            self._places.pop(number, None)
            self._changed.notify_all()

    def next(self, number: int) -> Row | None:
        """The next row of a trial, waited for; None after the last.

        Raises:
            Exception: what went wrong where it is nobody's settings; Ray then tries again.
        """
        with self._changed:
            place = self._places.get(number)
            if place is None:
                return None
            if not place.rows and not place.over:
                place.asked = True
                self._changed.notify_all()
                self._changed.wait_for(lambda: place.rows or place.over or self._places.get(number) is not place)
            if place.rows:
                return place.rows.popleft()
            if place.fault is not None:
                raise place.fault
            return None

    # What follows runs in the thread that trains, which alone touches stacks and members.

    def _work(self) -> None:
        import torch

        from search.worker.hang_guard import watched

        torch.set_num_threads(self._threads)
        while True:
            with self._changed:
                self._changed.wait_for(lambda: any(place.wants_to_train() for place in self._places.values()))
                first = next(iter(self._places.values())).assignment
            rounds, limit = self._rounds(), first["hang_limit"]
            for _ in watched(rounds, limit, note_of(first)) if limit else rounds:
                pass

    def _rounds(self) -> Iterator[None]:
        """Steps of all who want to train, until nobody does."""
        while True:
            with self._changed:
                here = list(self._places.values())
            wanted = [place for place in here if place.wants_to_train()]
            if not wanted:
                return
            for place in wanted:
                if place.held is not None:
                    self._guarded(place, self._report)
                if place.member is None and not place.over:
                    self._guarded(place, self._seat)
            seated = [place for place in here if place.member is not None]
            for stack in self._stacks.values():
                mine = [place for place in seated if place.stack is stack]
                staying = {id(place.member) for place in mine}
                for member in [member for member in stack.members if id(member) not in staying]:
                    stack.remove(member)  # its trial has left
                if mine:
                    self._advance(stack, mine)
            yield

    def _seat(self, place: Place) -> None:
        """Into the stack of its kind, to go on from where it stood or from its last checkpoint."""
        from gbc.config import TrialConfig
        from gbc.metrics.scores import Judge
        from gbc.runtime import pick_device
        from gbc.training import pack, tasks

        assignment = place.assignment
        settings = TrialConfig.parse(assignment["settings"], f"trial {assignment['number']}")
        kind = pack.key(settings)
        if kind not in self._stacks:
            world = tasks.obtain(settings, Path(assignment["cache"]))
            data = settings.dataset.model_dump_json()
            if data not in self._judges:
                self._judges[data] = Judge.of(world.images, pick_device(settings.device))
            self._stacks[kind] = pack.Pack(world.classifiers, self._judges[data])
        if place.keeper is None:
            place.keeper = Keeper(assignment, settings, place.root)
            place.state = place.keeper.load()
            self._give(place, [row for row in place.keeper.history if row["step"] > assignment["acknowledged"]])
        place.stack = self._stacks[kind]
        place.member, place.state = place.stack.add(settings, place.state), None
        if place.member.done:
            self._end(place)

    def _advance(self, stack: Any, places: Sequence[Place]) -> None:
        """Steps to the next report of any member; those who are due then report."""
        ahead = min(
            place.member.config.report_every - place.member.step_count % place.member.config.report_every for place in places
        )
        try:
            for _ in range(min(ahead, _ROUND)):
                stack.step()
        except Exception as fault:
            for place in places:
                self._fail(place, fault)
            return
        due = [place for place in places if place.member.due]
        with self._changed:
            self._changed.wait_for(lambda: all(place.asked for place in due), timeout=_PATIENCE)
        for place in due:
            if place.asked:
                self._guarded(place, self._report)
            else:
                place.held, place.member = place.member, None
                stack.remove(place.held)

    def _report(self, place: Place) -> None:
        assert place.keeper is not None
        member = place.member or place.held
        report = place.stack.report(member)
        place.state = place.stack.state_dict(member)
        place.held = None
        self._give(place, [place.keeper.keep(report, place.state)])
        if member.done:
            self._end(place)

    def _guarded(self, place: Place, act: Callable[[Place], None]) -> None:
        try:
            act(place)
        except Exception as fault:
            self._fail(place, fault)

    def _fail(self, place: Place, fault: Exception) -> None:
        row = failure(fault, place.assignment, place.root)
        if row is not None:
            self._give(place, [row])
        else:
            place.fault = fault
        self._end(place)

    def _give(self, place: Place, rows: Sequence[Row]) -> None:
        if rows:
            with self._changed:
                place.rows.extend(rows)
                place.asked = False
                self._changed.notify_all()

    def _end(self, place: Place) -> None:
        if place.member is not None:
            place.stack.remove(place.member)
        place.member = place.held = place.state = None
        with self._changed:
            place.over = True
            self._changed.notify_all()


class Leaving(tune.Callback):
    """Tells the services of trials that have ended: a worker that Ray stopped says nothing any more."""

    def __init__(self, services: Sequence[Any]) -> None:
        self._services = services

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """It came to its end, or was stopped."""
        self._leave(trial)

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """It failed."""
        self._leave(trial)

    def _leave(self, trial: Any) -> None:
        for service in self._services:
            service.leave.remote(trial.config["number"])

    def __getstate__(self) -> dict[str, Any]:
        """Ray pickles callbacks into a file that nobody reads."""
        return {}


def start(count: int, threads: int, concurrency: int, *, gpu: bool) -> list[Any]:
    """Start `count` services as Ray's actors; they end with Ray, and are started again when they die.

    Each has `threads` of torch, takes up to `concurrency` trials and, with `gpu`, a GPU to itself.
    """
    import ray

    service = ray.remote(PackService).options(
        num_cpus=0,
        num_gpus=int(gpu),
        max_restarts=-1,
        max_concurrency=concurrency + 8,  # a trial's worker waits in one call; others ask in between
    )
    return [service.remote(threads) for _ in range(count)]


def rows_of(services: Sequence[Any], assignment: Assignment, root: str | None) -> Iterator[Row]:
    """The rows of a trial that one of the actors `services` trains: the one that has the fewest."""
    import ray

    number = assignment["number"]
    # A worker that died did not say goodbye, and two would write the same files.
    ray.get([service.leave.remote(number) for service in services])
    load = ray.get([service.load.remote() for service in services])
    service = services[load.index(min(load))]
    ray.get(service.join.remote(assignment, root))
    while (row := ray.get(service.next.remote(number))) is not None:
        yield row
