"""The loop of generator and student: who climbs and who descends, what is remembered, and what it teaches."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from gbc import checkpoint, plain_yaml
from gbc.__main__ import main
from gbc.classifier_config import ClassifierConfig
from gbc.classifiers.architectures import Classifier
from gbc.classifiers.weight_files import read_weights
from gbc.config import TrialConfig
from gbc.data.blobs import blobs
from gbc.errors import BadInput, Diverged
from gbc.metrics.distillation import Lesson, classes_of
from gbc.training import tasks
from gbc.training.student_loop import METHODS, Answers, LoopSettings, Memory, StudentLoop
from gbc.training.trainer import Trainer
from tests.conftest import TINY
from tests.gbc.training.test_algorithm2 import BINARY
from tests.support import missing

STUDENT = ClassifierConfig(name="mlp", hidden=32)
DIGITS = {
    **TINY, "dataset": {"name": "digits", "per_class": 100}, "classifier": {"hidden": 64, "steps": 200, "lr": 0.1},
    "width": 64, "channels": 16, "batch_size": 40, "lr": 1e-2, "lr_schedule": "cosine", "steps": 150, "report_every": 150,
    "stationarity_weight": 0.0, "beta": 0.0, "ce_weight": 0.5, "diversity_weight": 0.1, "tv_weight": 0.1,
}  # fmt: skip


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def small(classifier: Classifier, settings: TrialConfig, method: str = "gbc", steps: int = 8) -> StudentLoop:
    return StudentLoop(settings, Lesson([classifier], STUDENT, steps), LoopSettings(method, student_steps=2, memory=50))


@pytest.mark.parametrize("method", ["gbc", "dfad"])
def test_the_generator_climbs_where_the_student_descends(method: str) -> None:
    """T(x) = (x, 0) and S(x) = (wx, 0) with x > 0 and w < 1: both disagreements grow with x and fall with w."""
    images = torch.tensor([[1.0], [2.0]], dtype=torch.float64, requires_grad=True)
    factor = torch.tensor(0.5, dtype=torch.float64, requires_grad=True)

    def answers() -> Answers:
        zero = torch.zeros_like(images)
        student = torch.cat([factor * images, zero], dim=1)
        return Answers(torch.cat([images, zero], dim=1), student, images, temperature=1.0, weight=3.0)

    (term,) = METHODS[method].generator_losses(answers())
    (upward,) = torch.autograd.grad(term.weight * term.value, images)
    assert (upward < 0).all()  # a descent of the generator's loss makes x larger
    if method == "dfad":
        torch.testing.assert_close(upward, torch.full_like(images, -3 * 0.5 / 4))  # −w·(1 − ½)/(M·C)
    student_loss = METHODS[method].student_loss(answers().teacher.detach(), answers().student, 1.0)
    (downward,) = torch.autograd.grad(student_loss, factor)
    assert downward < 0  # a descent of the student's loss makes w larger, towards 1


def test_dafl_has_its_three_losses_and_no_game() -> None:
    nothing = torch.zeros(2, 2)
    terms = METHODS["dafl"].generator_losses(Answers(nothing, nothing, nothing, 1.0, weight=1.0))
    assert {term.name: term.weight for term in terms} == {"one_hot": 1.0, "activation": 0.1, "information_entropy": 5.0}


def test_the_memory_keeps_the_newest_and_half_of_a_draw_is_new() -> None:
    memory, rng = Memory(4, (1, 1, 1), torch.device("cpu")), torch.Generator().manual_seed(0)

    def numbered(*numbers: int) -> Tensor:
        return torch.tensor(numbers, dtype=torch.float32).view(-1, 1, 1, 1)

    memory.add(numbered(0, 1, 2))
    assert set(memory.draw(100, 3, rng).flatten().tolist()) == {0, 1, 2}
    memory.add(numbered(3, 4))
    drawn = memory.draw(1000, 2, rng).flatten()
    assert set(drawn.tolist()) == {1, 2, 3, 4} and set(drawn[:500].tolist()) == {3, 4}
    memory.add(numbered(*range(5, 12)))
    assert set(memory.draw(1000, 7, rng).flatten().tolist()) == {8, 9, 10, 11}


def test_neither_step_moves_the_other_network_or_the_teacher(classifier: Classifier, settings: TrialConfig) -> None:
    loop = small(classifier, settings)
    before = [parameter.clone() for parameter in classifier.module.parameters()]
    student = [parameter.clone() for parameter in loop.student.parameters()]
    loop.trainer.step()
    assert all(map(torch.equal, student, loop.student.parameters()))
    generator = [parameter.clone() for parameter in loop.trainer.generator.parameters()]
    loop.memory.add(torch.rand(9, 1, 28, 28))
    loop._student_step(9)
    assert all(map(torch.equal, generator, loop.trainer.generator.parameters()))
    assert not all(map(torch.equal, student, loop.student.parameters()))
    assert all(map(torch.equal, before, classifier.module.parameters()))


@pytest.mark.parametrize("method", METHODS)
def test_a_loop_that_was_broken_off_gives_the_same_student(method: str, classifier: Classifier, settings: TrialConfig) -> None:
    whole, half = small(classifier, settings, method), small(classifier, settings, method)
    rounds = list(whole.run())
    assert len(rounds) == 4 and whole.trainer.step_count == 4
    first = half.run()
    begun = [next(first), next(first)]
    again = small(classifier, settings, method)
    checkpoint.save(Path("loop.ckpt"), half.state_dict())
    again.load_state_dict(checkpoint.load(Path("loop.ckpt")))
    assert begun + list(again.run()) == rounds
    assert all(map(torch.equal, whole.student.parameters(), again.student.parameters()))


def test_images_that_change_teach_more_than_fixed_ones(tmp_path: Path) -> None:
    """The fixed images are those of a generator of the same losses and steps; both students make as many steps as well."""
    settings = TrialConfig.parse(DIGITS, "tests")
    inputs = tasks.obtain(settings, tmp_path / "cache")
    lesson = Lesson(inputs.classifiers, ClassifierConfig(name="conv", hidden=128), steps=300)
    loop = StudentLoop(settings, lesson, LoopSettings(student_steps=2, weight=10.0))
    for _ in loop.run():
        pass
    alone = Trainer(settings, inputs.classifiers)
    for _ in range(loop.trainer.step_count):
        alone.step()
    fixed = lesson.teach(torch.cat([alone.batches.sample().images.detach() for _ in range(20)]))
    test, _ = inputs.images.test()
    answers = lesson.answers(test)
    shares = [(classes_of(each, test) == answers).float().mean().item() for each in (loop.student.eval(), fixed)]
    assert shares[0] > shares[1] + 0.05, shares


@pytest.mark.parametrize("method", METHODS)
def test_a_student_with_one_logit_learns_as_the_same_student_with_two(
    method: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two logits (−Φ/2, Φ/2) computed by the network itself; the teacher has one logit too."""
    (tmp_path / "one_logit.py").write_text(
        "import torch\nfrom torch import nn\n"
        "class Two(nn.Linear):\n"
        "    def forward(self, x):\n        x = super().forward(x)\n        return torch.cat([-x / 2, x / 2], dim=1)\n"
        "def one(last=nn.Linear):\n    return nn.Sequential(nn.Flatten(), nn.Linear(784, 8), nn.ReLU(), last(8, 1))\n"
        "def two():\n    return one(Two)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    settings = TrialConfig.parse({**TINY, "bn_weight": 0.0, **BINARY}, "tests")
    inputs = tasks.obtain(settings, tmp_path / "cache")
    assert inputs.classifier.module(torch.rand(3, 1, 28, 28)).shape == (3, 1)
    loops = []
    for name in ("one", "two"):
        lesson = Lesson(inputs.classifiers, ClassifierConfig(factory=f"one_logit:{name}"), steps=8)
        loops.append(StudentLoop(settings, lesson, LoopSettings(method, student_steps=2, memory=50)))
    losses = [list(loop.run()) for loop in loops]
    assert losses[0] == losses[1] and min(losses[0]) > 0
    for networks in zip(*((loop.student, loop.trainer.generator) for loop in loops), strict=True):
        assert all(map(torch.equal, *(network.parameters() for network in networks)))


def test_a_copy_of_a_classifier_with_one_logit_has_one(tmp_path: Path) -> None:
    settings = TrialConfig.parse({**TINY, "bn_weight": 0.0, **BINARY}, "tests")
    inputs = tasks.obtain(settings, tmp_path / "cache")
    lesson = Lesson(inputs.classifiers, ClassifierConfig(name="mlp", hidden=8), 2, start="teacher")
    loop = StudentLoop(settings, lesson, LoopSettings())
    images = blobs(200, inputs.classifier.shape, seed=9)
    assert loop.student.eval()(images).shape == (200, 1)
    assert (classes_of(loop.student, images) == lesson.answers(images)).float().mean() > 0.8
    assert math.isfinite(next(loop.run()))


def test_the_student_of_a_loop_can_start_as_a_copy_of_its_teacher(classifier: Classifier, settings: TrialConfig) -> None:
    hidden = len(classifier.module[1].weight) // 2  # type: ignore[index]
    lesson = Lesson([classifier], ClassifierConfig(name="mlp_bn", hidden=hidden), 2, start="teacher")
    loop = StudentLoop(settings, lesson, LoopSettings())
    images = blobs(200, classifier.shape, seed=9)
    agree = classes_of(loop.student.eval(), images) == lesson.answers(images)
    assert agree.float().mean() > 0.7
    assert math.isfinite(next(loop.run()))


@pytest.mark.parametrize("method", METHODS)
def test_a_classifier_without_layers_of_torch_teaches_too(method: str, classifier: Classifier, settings: TrialConfig) -> None:
    class Product(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(0.05 * torch.randn(784, 10, generator=torch.Generator().manual_seed(0)))

        def forward(self, images: Tensor) -> Tensor:
            return images.flatten(1) @ self.weight

    teacher = Classifier(Product(), classifier.class_names, classifier.shape, classifier.samples)
    assert len(list(small(teacher, settings.updated({"bn_weight": 0.0}, "tests"), method).run())) == 4


def test_a_loss_that_is_not_finite_ends_the_loop(classifier: Classifier, settings: TrialConfig) -> None:
    loop = small(classifier, settings)
    nn.init.constant_(next(loop.student.parameters()), torch.nan)
    with pytest.raises(Diverged):
        next(loop.run())


def test_what_has_no_new_images_is_refused(classifier: Classifier, settings: TrialConfig) -> None:
    for changes, method, named in (({}, "dafi", ["'dafi'", "'dafl'"]), ({"generator": "pixels"}, "gbc", ["pixels"])):
        with pytest.raises(BadInput) as fault:
            small(classifier, settings.updated(changes, "tests"), method)
        assert not missing(named, fault.value)


def test_the_command(classifier_cache: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Students of a classifier, then of an exported generator; a second run after a break; faults."""
    Path("trial.yaml").write_text(plain_yaml.dump(TINY))
    cache = ["--cache", str(classifier_cache)]
    command = [
        "distil",
        "--config",
        "trial.yaml",
        "--loop",
        "gbc",
        "--student",
        "mlp",
        "--hidden",
        "16",
        "--steps",
        "20",
        *cache,
    ]
    assert main([*command, "--json", "--out", "student.safetensors"]) == 0
    shown = capsys.readouterr()
    assert 0 < json.loads(shown.out)["student"] <= 1 and "step 20/20" in shown.err
    assert read_weights(Path("student.safetensors"))["1.weight"].shape == (16, 784)
    assert main(["train", "--config", "trial.yaml", "--out", "model", *cache]) == 0
    of_model = ["distil", "--model", "model", "--student", "mlp", "--hidden", "16", "--steps", "4", *cache]
    assert main([*of_model, "--loop", "dfad", "--set", "lr=1e-4"]) == 0
    capsys.readouterr()
    checkpoint.save(Path("other.ckpt"), {"identity": {}, "loop": {}})
    faults = {
        ("--disagreement", "-1"): ["--disagreement"], ("--student-lr", "0"): ["--student-lr"],
        ("--loop", "gab"): ["--loop", "'gab'", "'gbc'"],
        ("--samples", "set.npz"): ["--samples", "--loop"], ("--out", "other"): ["other.ckpt", "--out"],
        ("--per-class", "5"): ["--per-class", "--model"],
    }  # fmt: skip
    for flags, named in faults.items():
        assert main([*command, *flags]) == 2
        assert not missing(named, capsys.readouterr().err)
    assert main(["distil", "--model", "nowhere", "--student", "mpl"]) == 2
    assert "'mlp'" in capsys.readouterr().err  # the student is checked before anything is drawn or trained
    assert main(["distil", "--student", "mlp"]) == 2
    assert not missing(["--model", "--samples", "--blobs", "--loop"], capsys.readouterr().err)


def test_the_command_continues(
    classifier_cache: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("trial.yaml").write_text(plain_yaml.dump(TINY))
    command = ["distil", "--config", "trial.yaml", "--loop", "gbc", "--student", "mlp", "--hidden", "16", "--steps", "20"]
    command += ["--cache", str(classifier_cache)]
    assert main([*command, "--out", "whole.safetensors"]) == 0
    monkeypatch.setattr("gbc.commands.distil._SAVED_EVERY", 5)

    step = StudentLoop._student_step

    def until_the_twelfth(self: StudentLoop, newest: int) -> Tensor:
        if self.step_count == 12:
            raise KeyboardInterrupt
        return step(self, newest)

    monkeypatch.setattr(StudentLoop, "_student_step", until_the_twelfth)
    assert main([*command, "--out", "broken.safetensors"]) == 130 and Path("broken.safetensors.ckpt").exists()
    monkeypatch.setattr(StudentLoop, "_student_step", step)
    capsys.readouterr()
    assert main([*command, "--out", "broken.safetensors"]) == 0
    assert "continues at step 10" in capsys.readouterr().err and not Path("broken.safetensors.ckpt").exists()
    whole, broken = read_weights(Path("whole.safetensors")), read_weights(Path("broken.safetensors"))
    assert all(torch.equal(whole[name], broken[name]) for name in whole)
