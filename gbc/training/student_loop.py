"""Distillation without data in a loop: generator and student train in turn, so that images change while the student learns.

With T the teacher, S the student, D their disagreement and g(ε, y) the generator,

    S minimises the distillation loss of T(x) and S(x) over x = g(ε, y), new images and those that a memory keeps;
    g minimises Σ_k w_k L_k(x) − w D(T(x), S(x)), with L_k the losses of a trial (`gbc.kkt.weighted_losses`).

The game is that of Fang et al. (2019, DFAD), the memory that of Fang et al. (2021, CMI), the disagreement beside other losses
of the teacher that of Yin et al. (2020, Adaptive DeepInversion). Chen et al. (2019, DAFL) have the loop without D.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import torch
from torch import Tensor

from gbc import losses
from gbc.classifiers.architectures import LayerInputs, last_layer, normalising_by, two_logits
from gbc.config import LOSS_WEIGHTS, TrialConfig
from gbc.data.blobs import blobs
from gbc.errors import BadInput, Diverged
from gbc.kkt.trial_classifier import ForwardPass, forget_passes
from gbc.kkt.weighted_losses import Batch, Term
from gbc.metrics.distillation import BATCH, START_IMAGES, Lesson, rate
from gbc.metrics.features import shifted
from gbc.optimisers import Adam
from gbc.runtime import derive_seed
from gbc.settings import suggest
from gbc.training.trainer import Trainer


@dataclass(frozen=True)
class LoopSettings:
    """Settings of the loop, beside those of the trial and of the lesson."""

    method: str = "gbc"
    """A name in `METHODS`."""
    student_steps: int = 5
    """Steps of the student for each step of the generator."""
    memory: int = 10_000
    """Generated images that are kept for the student, the newest."""
    weight: float = 1.0
    """w, the weight of the disagreement in the generator's loss."""


@dataclass(frozen=True)
class Answers:
    """Answers of teacher and student to a batch of the generator, with its graph."""

    teacher: Tensor
    """Logits [M, C], the mean over several classifiers."""
    student: Tensor
    """Logits [M, C]."""
    features: Tensor
    """Inputs of the last layer of the first classifier, [M, d]."""
    temperature: float
    weight: float


@dataclass(frozen=True)
class Method:
    """A way to train the two networks."""

    about: str
    with_trial_losses: bool
    """True if the losses of the trial count too."""
    generator_losses: Callable[[Answers], list[Term]]
    student_loss: Callable[[Tensor, Tensor, float], Tensor]
    """The student's loss, a function of the teacher's and the student's logits, both [M, C], and the temperature."""


def soft_answers(teacher: Tensor, student: Tensor, temperature: float) -> Tensor:
    """`losses.distillation` for logits of both, [M, C]."""
    return losses.distillation((teacher / temperature).softmax(dim=1), student, temperature)


METHODS: Final[dict[str, Method]] = {
    "gbc": Method(
        "the losses of the trial, and the Jensen-Shannon disagreement of Adaptive DeepInversion (Yin et al. 2020)",
        True,
        lambda a: [Term("disagreement", -a.weight, losses.jensen_shannon(a.teacher, a.student, a.temperature))],
        soft_answers,
    ),
    "dafl": Method(
        "baseline (Chen et al. 2019): one-hot loss, activations and information entropy with the weights for MNIST; no game",
        False,
        lambda a: [
            Term("one_hot", 1.0, losses.one_hot_loss(a.teacher)),
            Term("activation", 0.1, losses.activation(a.features)),
            Term("information_entropy", 5.0, losses.information_entropy(a.teacher)),
        ],
        soft_answers,
    ),
    "dfad": Method(
        "baseline (Fang et al. 2019): the mean absolute difference of the logits, which one maximises and the other minimises",
        False,
        lambda a: [Term("disagreement", -a.weight, losses.logit_distance(a.teacher, a.student))],
        lambda teacher, student, _: losses.logit_distance(teacher, student),
    ),
}


class Memory:
    """The newest generated images, as many as fit."""

    def __init__(self, size: int, shape: Sequence[int], device: torch.device) -> None:
        """Room for `size` images of `shape` (channels, height, width)."""
        self.images = torch.zeros(size, *shape, device=device)
        self.added = 0
        """Images added so far."""

    def add(self, images: Tensor) -> None:
        """Keep `images` [M, channels, height, width], the last of them if not all fit, in place of the oldest."""
        size = len(self.images)
        kept = images[-size:]
        first = self.added + len(images) - len(kept)
        self.images[(first + torch.arange(len(kept), device=kept.device)) % size] = kept
        self.added += len(images)

    def draw(self, count: int, newest: int, rng: torch.Generator) -> Tensor:
        """`count` images, half of them from the `newest` and half from all; `rng` is on the CPU."""
        size = len(self.images)
        held = min(self.added, size)
        ages = torch.cat(
            [
                torch.randint(min(newest, held), (count // 2,), generator=rng),
                torch.randint(held, (count - count // 2,), generator=rng),
            ]
        )
        return self.images[(self.added - 1 - ages).to(self.images.device) % size]


class StudentLoop:
    """A run of the loop. One that continues from `state_dict()` gives the same student as one without a break."""

    def __init__(
        self, config: TrialConfig, lesson: Lesson, settings: LoopSettings, generator: Mapping[str, Tensor] | None = None
    ) -> None:
        """`generator` are the weights to start from, random ones without; `lesson.steps` are the student's.

        Raises:
            BadInput: an unknown method, a generator of pixels, or as `Lesson.new_student` and `Trainer`.
        """
        if settings.method not in METHODS:
            raise BadInput(f"--loop: unknown method {settings.method!r}; {suggest(settings.method, METHODS)}")
        if config.generator == "pixels":
            raise BadInput("generator pixels makes no new images for a student; set generator to convolutional")
        if len(lesson.teachers[0].shape) != 3:
            raise BadInput("--loop is for classifiers of images, not of points")
        self.lesson, self.settings, self.method = lesson, settings, METHODS[settings.method]
        rounds = math.ceil(lesson.steps / settings.student_steps)
        changes: dict[str, Any] = {"steps": rounds, "report_every": rounds, "student_steps": 0, "eval_per_class": 1}
        if not self.method.with_trial_losses:
            changes |= dict.fromkeys(LOSS_WEIGHTS.values(), 0.0) | {"bn_mode": "eval"}
        # A generator before its training makes nothing that a copy of the teacher could be fitted to.
        count = START_IMAGES if lesson.start == "teacher" else 1
        self.student = lesson.new_student(blobs(count, lesson.teachers[0].shape, lesson.student.seed))
        self.trainer = Trainer(config.updated(changes, "the loop"), lesson.teachers)
        if generator is not None:
            self.trainer.generator.load_state_dict(dict(generator))
            self.trainer.fit_multiplier_scale()
        self.trainer.further_losses = self._further_losses
        device = self.trainer.device
        # A convolution with few channels, as LeNet-5's, is faster by a third with its weights in this order on a CPU.
        for network in (self.student, *(classifier.phi for classifier in self.trainer.classifiers)):
            network.to(device).to(memory_format=torch.channels_last)
        self.optimiser = Adam(self.student.parameters(), lr=lesson.lr)
        self.rng = torch.Generator().manual_seed(derive_seed(lesson.student.seed, 1))
        self.memory = Memory(settings.memory, lesson.teachers[0].shape, device)
        self.step_count = 0
        """Steps of the student so far."""
        first = self.trainer.classifiers[0].phi
        self._last_inputs = _Inputs([last_layer(first, torch.zeros(2, *lesson.teachers[0].shape, device=device))])

    def run(self) -> Iterator[float]:
        """Make all steps; after each round, a step of the generator and those of the student, yield the student's mean loss.

        Raises:
            Diverged: the loss is not finite.
        """
        while self.step_count < self.lesson.steps:
            steps = min(self.settings.student_steps, self.lesson.steps - self.step_count)
            self.trainer.step()
            self._last_inputs.forget()
            fresh = torch.cat([batch.images for batch in self.trainer.last_batches])
            self.memory.add(fresh)
            loss = torch.stack([self._student_step(len(fresh)) for _ in range(steps)]).mean().item()
            if not math.isfinite(loss):
                raise Diverged(self.step_count, "the student's loss")
            yield loss

    def state_dict(self) -> dict[str, Any]:
        """Everything that the next step depends on, in types that a weights-only checkpoint can hold."""
        return {
            "step": self.step_count,
            "trainer": self.trainer.state_dict(),
            "student": self.student.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "rng": self.rng.get_state(),
            "memory": self.memory.images,
            "added": self.memory.added,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from `state_dict()` of a loop with the same settings. Raises BadInput as the trainer's."""
        self.trainer.load_state_dict(state["trainer"])
        self.student.load_state_dict(state["student"])
        self.optimiser.load_state_dict(state["optimiser"])
        self.rng.set_state(state["rng"])
        self.memory.images.copy_(state["memory"])
        self.memory.added, self.step_count = state["added"], state["step"]

    def teacher_logits(self, images: Tensor) -> Tensor:
        """The mean of the classifiers' logits by their stored statistics, [M, C], for images [M, channels, height, width]."""
        logits = []
        for classifier in self.trainer.classifiers:
            with normalising_by(classifier.phi, "eval"):
                logits.append(two_logits(classifier.phi(images)))
        return torch.stack(logits).mean(dim=0)

    def _further_losses(self, batch: Batch, passes: Sequence[ForwardPass]) -> list[Term]:
        """The method's losses of a batch of the generator. The student is as it is, its BatchNorm by the stored statistics."""
        teacher = self.teacher_logits(batch.images)
        self.student.eval()
        student = two_logits(self.student(batch.images))
        self.student.train()
        answers = Answers(teacher, student, self._last_inputs.only(), self.lesson.temperature, self.settings.weight)
        return self.method.generator_losses(answers)

    def _student_step(self, newest: int) -> Tensor:
        """One step of the student on images of the memory, moved by up to two pixels; returns its loss before the step."""
        images = shifted(self.memory.draw(BATCH, newest, self.rng), self.rng)
        with torch.no_grad():
            teacher = self.teacher_logits(images)
        for group in self.optimiser.param_groups:
            group["lr"] = rate(self.lesson.lr, self.step_count, self.lesson.steps)
        loss = self.method.student_loss(teacher, two_logits(self.student(images)), self.lesson.temperature)
        self.optimiser.zero_grad()
        loss.backward()
        self.optimiser.step()
        self.step_count += 1
        forget_passes(self.trainer.classifiers)
        return loss.detach()


class _Inputs(LayerInputs):
    """The inputs of one layer."""

    def only(self) -> Tensor:
        """Those of the last forward pass."""
        return self._inputs[0]
