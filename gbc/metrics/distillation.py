"""Distillation without data: a student learns from a classifier and from generated images.

The student never sees a real image. It is trained on generated images with the teacher's probabilities at a temperature (Hinton
et al. 2015), and measured on real test images beside the teacher and beside the same student taught by the same teacher on the
teacher's own training images, which the generated ones stand in for.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final

import torch
from torch import Tensor, nn

from gbc import losses
from gbc.classifier_config import ClassifierConfig
from gbc.classifiers import architectures, custom, narrowing
from gbc.classifiers.architectures import Classifier, two_logits
from gbc.data.samples import ImageDataset
from gbc.errors import BadInput, Diverged
from gbc.metrics.features import shifted
from gbc.optimisers import Adam

BATCH: Final = 128
TEMPERATURE: Final = 4.0
LR: Final = 1e-3
STUDENT: Final = ClassifierConfig(name="conv", hidden=128)
"""The student of the full evaluation, and of the command unless another is named."""
STEPS: Final = 400
"""Training steps of the student of the full evaluation, as many as of `tstr/cnn`. The command makes more."""
START_IMAGES: Final = 4000
"""Images that a narrower copy of the teacher is fitted to, if there are as many."""
_PART: Final = 1000
_EVERY: Final = 100
_CPU: Final = torch.device("cpu")

Progress = Callable[[str, int, int], None]
"""Called with (whose student, step, steps) at intervals."""


@dataclass(frozen=True)
class Distillation:
    """Accuracies on the real test images, and agreement with the teacher there; shares in [0, 1]."""

    teacher: float
    student: float
    agreement: float
    """Share of the test images that the student and the teacher put into the same class."""
    ceiling: float
    """Accuracy of the same student when the teacher's training images take the place of the generated ones."""
    ceiling_agreement: float
    training_images: int
    test_images: int

    def to_json(self) -> dict[str, Any]:
        """Plain data."""
        return asdict(self)

    def text(self) -> str:
        """A line for each network."""
        real = f"the same student, on {self.training_images} real images"
        return (
            f"{'':42}{'test accuracy':>15}{'agreement':>12}\n"
            f"{'teacher':42}{self.teacher:15.3f}{'':12}\n"
            f"{'student, taught on generated images':42}{self.student:15.3f}{self.agreement:12.3f}\n"
            f"{real:42}{self.ceiling:15.3f}{self.ceiling_agreement:12.3f}\n"
            f"{self.test_images} real test images, which neither has seen"
        )


@dataclass(frozen=True)
class Lesson:
    """A teacher and the way in which students learn from it."""

    teachers: Sequence[Classifier]
    """Classifiers of the same classes; their probabilities are averaged."""
    student: ClassifierConfig
    """Its architecture and seed."""
    steps: int
    temperature: float = TEMPERATURE
    lr: float = LR
    """The learning rate that the student starts with."""
    progress: Progress = lambda *_: None
    start: str = "random"
    """`random` weights, or `teacher`: those of a narrower copy of it (`gbc.classifiers.narrowing`)."""
    fresh_targets: bool = False
    """True if the teacher answers images as the student sees them, moved, at every step; else it answers each once, unmoved."""
    device: torch.device = _CPU
    """Device of the computations and of all results."""

    @torch.no_grad()
    def probabilities(self, images: Tensor, temperature: float) -> Tensor:
        """The mean of the teachers' probabilities at a temperature, [K, C]."""
        modules = [teacher.module.to(self.device).eval() for teacher in self.teachers]
        parts = [
            torch.stack([(two_logits(module(part)) / temperature).softmax(dim=1) for module in modules]).mean(dim=0)
            for part in images.to(self.device).split(_PART)
        ]
        return torch.cat(parts)

    def answers(self, images: Tensor) -> Tensor:
        """The class with the largest mean probability of the teachers for each image, [K]."""
        return self.probabilities(images, 1.0).argmax(dim=1)

    def new_student(self, images: Tensor) -> nn.Module:
        """A student before its training, in training mode. One that starts as a copy of the teacher is fitted to `images`.

        Raises:
            BadInput: the teachers have different classes, an unknown student, one with other outputs, or one that cannot
                start as a copy.
        """
        if len({teacher.class_names for teacher in self.teachers}) != 1:
            raise BadInput("the generator's classifiers have different classes; distil a generator of one task")
        teacher = self.teachers[0]
        classes = len(teacher.class_names)
        outputs = classes
        if self.start == "teacher":  # which may have one logit for two classes, and its copy then too
            with torch.no_grad():
                outputs = teacher.module.cpu().eval()(torch.zeros(1, *teacher.shape)).shape[1]
        network = architectures.build(self.student, teacher.shape, outputs)
        custom.check_outputs(network, teacher.shape, classes, f"student {self.student.factory or self.student.name}")
        if self.start == "teacher":
            if len(self.teachers) > 1:
                raise BadInput(f"--start teacher: a student is the copy of one classifier, and here are {len(self.teachers)}")
            order = torch.randperm(len(images), generator=torch.Generator().manual_seed(self.student.seed))
            first = order[:START_IMAGES].to(images.device)
            narrowing.narrow(teacher.module.cpu(), network, images[first].cpu())  # which takes seconds
        return network.to(self.device).train()

    def teach(self, pool: Tensor, student: str = "") -> nn.Module:
        """A student of the images `pool` [K, channels, height, width], in eval mode; `student` names it to `progress`.

        Raises:
            BadInput: as `new_student`.
            Diverged: the loss stopped being finite.
        """
        pool = pool.to(self.device)
        network = self.new_student(pool)
        targets = self.probabilities(pool, self.temperature)
        self._train(network, pool, targets, student)
        return network.eval()

    def _train(self, network: nn.Module, pool: Tensor, targets: Tensor, student: str) -> None:
        """Minimise T²·KL(teacher ‖ student) at temperature T over batches of the pool, shifted by up to two pixels."""
        rng = torch.Generator().manual_seed(self.student.seed)
        optimiser = Adam(network.parameters(), lr=self.lr)
        for step in range(self.steps):
            for group in optimiser.param_groups:
                group["lr"] = rate(self.lr, step, self.steps)
            index = torch.randint(len(pool), (BATCH,), generator=rng).to(self.device)
            images = shifted(pool[index], rng)
            target = self.probabilities(images, self.temperature) if self.fresh_targets else targets[index]
            optimiser.zero_grad()
            loss = losses.distillation(target, two_logits(network(images)), self.temperature)
            loss.backward()
            optimiser.step()
            if (step + 1) % _EVERY == 0 or step + 1 == self.steps:
                if not loss.isfinite():
                    raise Diverged(step + 1, "the student's loss")
                self.progress(student, step + 1, self.steps)


def same_classes(teachers: Sequence[Classifier], class_names: tuple[str, ...]) -> bool:
    """True if there are teachers, and all have these classes."""
    return {teacher.class_names for teacher in teachers} == {class_names}


def measure(lesson: Lesson, learned: nn.Module, data: ImageDataset) -> Distillation:
    """Measure the student `learned` on the test images of `data`, beside one that is taught on its training images.

    `learned` is on the lesson's device.

    Raises:
        Diverged: as `Lesson.teach`.
        BadInput: as `Lesson.teach`, or the data have other classes than the teachers.
    """
    if not same_classes(lesson.teachers, data.class_names):
        raise BadInput("the generator's classifiers have different classes; distil a generator of one task")
    best = lesson.teach(data.train()[0], "on the training images")
    test, labels = (tensor.to(lesson.device) for tensor in data.test())
    answers = lesson.answers(test)
    predicted, ceiling = classes_of(learned, test), classes_of(best, test)
    return Distillation(
        teacher=_share(answers == labels), student=_share(predicted == labels), agreement=_share(predicted == answers),
        ceiling=_share(ceiling == labels), ceiling_agreement=_share(ceiling == answers),
        training_images=len(data.train_labels), test_images=len(labels),
    )  # fmt: skip


def rate(lr: float, step: int, steps: int) -> float:
    """The learning rate of a student's step number `step` of `steps`: half a cosine from `lr` to 0."""
    return lr * 0.5 * (1 + math.cos(math.pi * step / steps))


@torch.no_grad()
def classes_of(network: nn.Module, images: Tensor) -> Tensor:
    """The class of each image by the network, [K]."""
    return torch.cat([two_logits(network(part)).argmax(dim=1) for part in images.split(_PART)])


def _share(hits: Tensor) -> float:
    return hits.float().mean().item()
