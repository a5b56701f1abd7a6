"""A run leaves no tensor on the CPU and reads none that the CPU cannot: shown on a pretended device."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch

from gbc.classifier_config import ClassifierConfig
from gbc.classifiers.architectures import Classifier
from gbc.config import TrialConfig
from gbc.data.blobs import blobs
from gbc.data.datasets import ImageDataset
from gbc.metrics.distillation import Lesson, measure
from gbc.metrics.scores import ReferenceSet
from gbc.training import experiment, trainer
from gbc.training.student_loop import METHODS, LoopSettings, StudentLoop
from gbc.training.tasks import TrialInputs
from gbc.training.trainer import Trainer
from tests.gbc.training.test_cuda_graph import FREE_MULTIPLIERS, Watch
from tests.support.pretended_gpu import WrongDevice, pretended_gpu

VARIANTS: dict[str, dict[str, Any]] = {
    "a generator with all that it can have": {
        "ema_decay": 0.9,
        "estimator": "halves",
        "closed_weight": 0.1,
        "contrast_weight": 0.1,
        "bank": 40,
        "bank_share": 0.5,
        "row_space_weight": 1.0,
        "surrogate": 50.0,
        "student_steps": 2,
    },
    "free multipliers": FREE_MULTIPLIERS,
}


@pytest.mark.parametrize("variant", VARIANTS.values(), ids=VARIANTS.keys())
def test_a_run_stays_on_its_device(
    variant: dict[str, Any],
    classifier: Classifier,
    settings: TrialConfig,
    images: ImageDataset,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A run from its first tensor to its second report, and on from a state that was saved."""
    with pretended_gpu(monkeypatch) as device:
        monkeypatch.setattr(trainer, "pick_device", lambda _: device)
        changed = settings.updated({"steps": 4, "report_every": 2, **variant}, "test")
        reports = (run := Trainer(changed, [classifier], ReferenceSet.of(images, device))).run()
        assert next(reports).images is not None
        for tensor in run._changing_tensors():
            assert tensor.device == device, tuple(tensor.shape)
        run.load_state_dict(run.state_dict())
        next(reports)


def test_what_a_finished_run_leaves_is_on_the_cpu(
    classifier: Classifier, settings: TrialConfig, images: ImageDataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An evaluation asks the classifiers about the images."""
    with pretended_gpu(monkeypatch) as device:
        for module in (trainer, experiment):
            monkeypatch.setattr(module, "pick_device", lambda _: device)
        short = settings.updated({"steps": 2, "report_every": 2}, "test")
        outcome = experiment.run(short, TrialInputs((classifier,), ({},), (), images))
        answers = classifier.module(outcome.images)
        assert answers.device == outcome.labels.device == torch.device("cpu")


@pytest.mark.parametrize("start", ["random", "teacher"])
@pytest.mark.parametrize("fresh", [False, True])
def test_a_lesson_stays_on_its_device(
    start: str, fresh: bool, classifier: Classifier, images: ImageDataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A student of images on the CPU is taught and measured on the device, and is the student of a lesson on the CPU."""
    pool, student = blobs(100, classifier.shape, seed=0), ClassifierConfig(name="mlp_bn", hidden=12)
    on_cpu = Lesson([classifier], student, 4, start=start, fresh_targets=fresh)
    expected = on_cpu.teach(pool)
    measured = measure(on_cpu, expected, images)
    with pretended_gpu(monkeypatch) as device:
        lesson = Lesson([classifier], student, 4, start=start, fresh_targets=fresh, device=device)
        learned = lesson.teach(pool)
        for tensor in (*learned.state_dict().values(), *classifier.module.state_dict().values()):
            assert tensor.device == device
        assert measure(lesson, learned, images) == measured
        assert all(torch.equal(ours.cpu(), theirs) for ours, theirs in pairs(learned, expected))
        assert on_cpu.answers(pool).device == torch.device("cpu")  # a lesson elsewhere takes its teachers back


@pytest.mark.parametrize("method", METHODS)
def test_a_loop_stays_on_its_device(
    method: str, classifier: Classifier, settings: TrialConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From a lesson on the device; the generator's step, in which the student answers, waits for nothing."""
    with pretended_gpu(monkeypatch) as device:
        monkeypatch.setattr(trainer, "pick_device", lambda _: device)
        lesson = Lesson([classifier], ClassifierConfig(name="mlp_bn", hidden=12), 4, start="teacher", device=device)
        loop = StudentLoop(settings, lesson, LoopSettings(method, student_steps=2, memory=50))
        assert len(list(loop.run())) == 2
        adam = (value for state in loop.optimiser.state.values() for value in state.values())
        for tensor in (*loop.student.state_dict().values(), loop.memory.images, *(each for each in adam if each.dim())):
            assert tensor.device == device, tuple(tensor.shape)
        loop.load_state_dict(loop.state_dict())
        with Watch() as watch:
            loop.trainer.step()
        assert watch.waited == []


def test_the_pretended_device_refuses_what_a_gpu_would(monkeypatch: pytest.MonkeyPatch) -> None:
    with pretended_gpu(monkeypatch) as device:
        on_device, on_cpu = torch.ones(3, device=device), torch.ones(3)
        for wrong in (
            lambda: on_device + on_cpu,
            lambda: on_device.add_(on_cpu),
            lambda: torch.stack([on_device, on_cpu]),
            on_device.numpy,
        ):
            with pytest.raises(WrongDevice):
                wrong()
        layer = torch.nn.Linear(3, 2).to(device)
        result = layer(on_device * torch.tensor(2.0) + on_cpu.to(device)).square().sum()
        result.backward()
        assert result.device == on_device.device == layer.weight.device == device
        assert layer.weight.grad is not None and layer.weight.grad.device == device
        assert on_device.cpu().device == on_cpu.device == torch.device("cpu") and (on_device.cpu() + on_cpu).numpy().sum() == 6
        rng = torch.Generator(device).manual_seed(0)
        assert rng.device == torch.randn(2, generator=rng, device=rng.device).device == device


def pairs(first: torch.nn.Module, second: torch.nn.Module) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """The tensors of two networks of one architecture."""
    return zip(first.state_dict().values(), second.state_dict().values(), strict=True)
