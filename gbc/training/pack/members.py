"""Who is in a pack: settings that may share one, members that come and go."""

from __future__ import annotations

import time
from collections.abc import Hashable, Sequence
from typing import Any, Final

from gbc.classifiers.architectures import Classifier
from gbc.config import TrialConfig
from gbc.errors import BadInput
from gbc.kkt.classifier_term import Subject
from gbc.kkt.objectives import weights
from gbc.metrics.scores import Judge
from gbc.report import Report
from gbc.settings import digest
from gbc.training.pack.stack import Stack
from gbc.training.trainer import Trainer

_OWN: Final = frozenset({
    "lr", "lr_schedule", "weight_decay", "steps", "report_every", "seed", "alpha_init", "delta",
    "beta", "tv_weight", "stationarity_weight", "bn_weight", "ce_weight", "closed_weight", "diversity_weight",
    "row_space_weight", "row_space_level",
    "bank", "bank_share", "bank_jitter",
})  # fmt: skip
"""Settings in which members may differ; weights of losses only between numbers that are not 0."""


def key(config: TrialConfig) -> Hashable:
    """What settings that share a pack have in common.

    Raises:
        BadInput: settings with which no pack can do.
    """
    if config.kkt_from:
        raise BadInput(f"kkt_from is {config.kkt_from}: losses of a pack cannot join in late; set it to 0 or train alone")
    if config.multipliers != "network":
        raise BadInput("free multipliers are for a trial alone: they have a learning rate of their own; train without packs")
    if config.ema_decay:
        raise BadInput(f"ema_decay is {config.ema_decay}: packs keep no average; set it to 0 or train without packs")
    common = _common(config)
    if not common["losses"]:
        raise BadInput("every loss has weight 0: there is nothing to train; set stationarity_weight or another")
    return digest(common)


def _common(config: TrialConfig) -> dict[str, Any]:
    return config.model_dump(mode="json", exclude=set(_OWN)) | {
        "losses": [n for n, weight in weights(config).items() if weight]
    }


class Member:
    """One trial of a pack."""

    def __init__(self, trainer: Trainer) -> None:
        self._trainer = trainer
        self._began = time.perf_counter()

    @property
    def config(self) -> TrialConfig:
        """Its settings."""
        return self._trainer.config

    @property
    def step_count(self) -> int:
        """How many steps it has made."""
        return self._trainer.step_count

    @property
    def done(self) -> bool:
        """Whether it has made all its steps."""
        return self.step_count >= self.config.steps

    @property
    def due(self) -> bool:
        """Whether its settings ask for a report after the step it has just made."""
        return self.step_count % self.config.report_every == 0


class Pack:
    """Trials on the same classifiers that make their steps together. They join and leave at any time."""

    def __init__(self, classifiers: Sequence[Classifier], judge: Judge | None = None) -> None:
        """`classifiers` and `judge` as a `Trainer` takes them; they are every member's."""
        self._classifiers, self._judge = classifiers, judge
        self.members: list[Member] = []
        self._first: TrialConfig | None = None
        self._subjects: Sequence[Subject] = ()
        self._stack: Stack | None = None

    def add(self, config: TrialConfig, state: dict[str, Any] | None = None) -> Member:
        """A new member; `state` is the `state_dict()` of a trainer or of a member with the same settings.

        Raises:
            BadInput: settings that do not fit the pack, or whatever a `Trainer` says.
        """
        wanted = key(config)
        if self._first is not None and wanted != key(self._first):
            theirs, mine = _common(self._first), _common(config)
            name = next(name for name in mine if mine[name] != theirs[name])
            raise BadInput(f"{name} is {mine[name]!r} and in this pack {theirs[name]!r}: train it in another")
        trainer = Trainer(config, self._classifiers, self._judge, self._subjects)
        if state is not None:
            trainer.load_state_dict(state)
        self._first, self._subjects = self._first or config, self._subjects or trainer.subjects
        member = Member(trainer)
        self._unstack()
        self.members.append(member)
        return member

    def remove(self, member: Member) -> None:
        """Go on without it."""
        self._unstack()
        self.members.remove(member)

    def step(self) -> None:
        """One step of every member that is not at its end. The device is waited for only where who steps has changed."""
        active = [member for member in self.members if not member.done]
        if self._stack is None or self._stack.members != active:
            self._unstack()
            self._stack = Stack(active) if active else None
        if self._stack is not None:
            self._stack.step()

    def report(self, member: Member) -> Report:
        """What its trainer would say after as many steps; means are over the steps since its last report, at least one.

        Raises:
            Diverged: a loss of this member is not finite. Its neighbours go on as if it were not there.
        """
        self._hand_back(member)
        began, member._began = member._began, time.perf_counter()
        return member._trainer._report(began)

    def state_dict(self, member: Member) -> dict[str, Any]:
        """What its trainer would save: a trial may go on alone, or in another pack. Tensors are not copied, as there."""
        self._hand_back(member)
        return member._trainer.state_dict()

    def _hand_back(self, member: Member) -> None:
        if self._stack is not None and member in self._stack.members:
            self._stack.hand_back(self._stack.members.index(member))

    def _unstack(self) -> None:
        if self._stack is not None:
            for row in range(len(self._stack.members)):
                self._stack.hand_back(row)
            self._stack.let_go()
        self._stack = None
