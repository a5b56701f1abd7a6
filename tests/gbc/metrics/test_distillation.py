"""A student that learns from generated images alone, measured on real ones."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from gbc import plain_yaml
from gbc.__main__ import main
from gbc.classifier_config import ClassifierConfig
from gbc.classifiers.architectures import Classifier
from gbc.classifiers.weight_files import read_weights
from gbc.data.blobs import blobs
from gbc.data.datasets import ImageDataset
from gbc.errors import BadInput, Diverged
from gbc.metrics.distillation import Lesson, measure
from tests.conftest import TINY
from tests.support import missing
from tests.support.exports import trained

STUDENT = ClassifierConfig(name="mlp", hidden=32)


def test_a_student_of_good_images_is_near_its_teacher_and_one_of_noise_is_not(
    classifier: Classifier, images: ImageDataset
) -> None:
    real, _ = images.train()
    lesson = Lesson([classifier], STUDENT, steps=150)
    student = lesson.teach(real, "on real images")
    good = measure(lesson, student, images)
    bad = measure(lesson, lesson.teach(torch.rand(100, 1, 28, 28), "on noise"), images)
    assert good.student == good.ceiling and good.agreement == good.ceiling_agreement  # the same images for both
    assert good.teacher - 0.15 < good.student and bad.student < good.student - 0.15
    assert (bad.teacher, bad.ceiling, bad.test_images) == (good.teacher, good.ceiling, 2000)
    test, labels = images.test()
    assert (student(test).argmax(dim=1) == labels).float().mean().item() == pytest.approx(good.student)


def test_the_teachers_probabilities_are_averaged(classifier: Classifier) -> None:
    """Two teachers that are sure of different classes leave the student with both."""

    def sure(label: int) -> Classifier:
        layer = nn.Linear(784, 10)
        nn.init.zeros_(layer.weight)
        with torch.no_grad():
            layer.bias.copy_(30 * nn.functional.one_hot(torch.tensor(label), 10))
        return Classifier(nn.Sequential(nn.Flatten(), layer), classifier.class_names, classifier.shape, classifier.samples)

    student = Lesson([sure(1), sure(4)], STUDENT, 200, temperature=1.0).teach(torch.rand(50, 1, 28, 28), "on noise")
    probabilities = student(torch.rand(5, 1, 28, 28)).softmax(dim=1).mean(dim=0)
    assert probabilities[[1, 4]].tolist() == pytest.approx([0.5, 0.5], abs=0.05)


@pytest.mark.parametrize("outputs", [1, 9])
def test_a_student_with_other_outputs_than_its_teacher_is_refused(
    outputs: int, classifier: Classifier, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One output would be broadcast over all classes, and nothing learned."""
    name = f"student_of_{outputs}"
    (tmp_path / f"{name}.py").write_text(
        f"from torch import nn\ndef network():\n    return nn.Sequential(nn.Flatten(), nn.Linear(784, {outputs}))"
    )
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(BadInput) as caught:
        Lesson([classifier], ClassifierConfig(factory=f"{name}:network"), 1).teach(torch.rand(9, 1, 28, 28), "on noise")
    assert not missing([f"{name}:network", f"[2, {outputs}]", "[2, 10]"], caught.value)


def test_classifiers_of_different_classes_are_refused(images: ImageDataset, classifier: Classifier) -> None:
    other = Classifier(classifier.module, tuple("abcdefghij"), classifier.shape, classifier.samples)
    with pytest.raises(BadInput, match="classes"):
        Lesson([classifier, other], STUDENT, 1).teach(torch.rand(9, 1, 28, 28), "on noise")
    with pytest.raises(BadInput, match="classes"):
        measure(Lesson([other], STUDENT, 1), nn.Identity(), images)


def test_a_student_that_starts_as_a_copy_of_its_teacher_knows_before_it_is_taught(
    classifier: Classifier, images: ImageDataset
) -> None:
    """The classifier is an `mlp_bn`. Half of it agrees with the whole on other images after no step."""
    hidden = len(classifier.module[1].weight) // 2  # type: ignore[index]
    half = ClassifierConfig(name="mlp_bn", hidden=hidden)
    test, _ = images.test()
    agreement = {}
    for start in ("random", "teacher"):
        lesson = Lesson([classifier], half, steps=0, start=start)
        student = lesson.teach(blobs(500, classifier.shape, seed=0))
        agreement[start] = (student(test).argmax(dim=1) == lesson.answers(test)).float().mean().item()
    assert agreement["teacher"] > 0.5 > 0.25 > agreement["random"], agreement
    with pytest.raises(BadInput, match=r"--start teacher.*2"):
        Lesson([classifier, classifier], half, 1, start="teacher").teach(torch.rand(9, 1, 28, 28))


@pytest.mark.parametrize("fresh", [False, True])
def test_fresh_targets_are_the_teachers_answers_to_the_images_as_they_are_moved(classifier: Classifier, fresh: bool) -> None:
    """The teacher says on which side a line is. Moved by two pixels it changes sides, which answers to the unmoved one miss."""
    layer = nn.Linear(784, 10)
    side = torch.where(torch.arange(784) % 28 < 14, -1.0, 1.0)
    with torch.no_grad():
        layer.weight.copy_(torch.outer(torch.tensor([-1.0, 1.0] + [0.0] * 8), side))
        layer.bias.copy_(torch.tensor([0.0, 0.0] + [-30.0] * 8))
    teacher = Classifier(nn.Sequential(nn.Flatten(), layer), classifier.class_names, classifier.shape, classifier.samples)
    lines = torch.zeros(28, 1, 28, 28)
    lines[torch.arange(28), :, :, torch.arange(28)] = 1
    student = Lesson([teacher], STUDENT, 200, fresh_targets=fresh).teach(lines[[14]])
    sides = [0, 0, 1, 1, 1] if fresh else [1] * 5
    assert student(lines[12:17]).argmax(dim=1).tolist() == sides


def test_a_student_that_diverges_is_no_result(classifier: Classifier) -> None:
    for wrong in ({"lr": 1e30}, {"temperature": 1e-40}):
        with pytest.raises(Diverged, match="student"):
            Lesson([classifier], STUDENT, 20, **wrong).teach(torch.rand(50, 1, 28, 28))


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory, classifier_cache: Path) -> Path:
    return trained(classifier_cache, tmp_path_factory.mktemp("exported") / "model").folder


def test_the_command(exported: Path, classifier_cache: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["distil", "--model", str(exported), "--cache", str(classifier_cache), "--student", "mlp", "--hidden", "16"]
    arguments += ["--count", "100", "--steps", "20"]
    assert main([*arguments, "--json", "--out", str(tmp_path / "student.safetensors")]) == 0
    shown = capsys.readouterr()
    assert set(json.loads(shown.out)) == {
        "teacher", "student", "agreement", "ceiling", "ceiling_agreement", "training_images", "test_images"
    }  # fmt: skip
    assert "step 20/20" in shown.err
    assert json.loads(shown.out)["training_images"] == 100
    assert read_weights(tmp_path / "student.safetensors")["1.weight"].shape == (16, 784)
    assert main([*arguments, "--out", str(tmp_path / "student.safetensors")]) == 2
    assert "student.safetensors" in capsys.readouterr().err
    faults = {("--temperature", "0"): "--temperature", ("--student", "vit"): "vit"}
    faults |= {("--device", name): name for name in ("tpu", "cuda:99")}
    capsys.readouterr()
    for flags, named in faults.items():
        assert main([*arguments, *flags]) == 2
        assert named in (line := capsys.readouterr().err) and line.count("\n") == 1


@pytest.mark.gpu
@pytest.mark.parametrize("source", [[], ["--start", "teacher"], ["--loop", "gbc"]], ids=" ".join)
def test_on_a_gpu_the_command_gives_the_student_that_it_gives_on_a_cpu(
    source: list[str], exported: Path, classifier_cache: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["distil", "--model", str(exported), "--cache", str(classifier_cache), "--student", "mlp_bn", "--hidden", "16"]
    arguments += ["--count", "100", "--steps", "20", "--json", *source]
    results = []
    for device in ("cpu", "cuda"):
        assert main([*arguments, "--device", device, "--out", str(tmp_path / f"{device}.safetensors")]) == 0
        results.append(json.loads(capsys.readouterr().out))
    assert results[1] == pytest.approx(results[0], abs=0.1)  # a loop draws other latents on a GPU
    on_cpu, on_gpu = (read_weights(tmp_path / f"{device}.safetensors") for device in ("cpu", "cuda"))
    assert {name: tensor.shape for name, tensor in on_cpu.items()} == {name: tensor.shape for name, tensor in on_gpu.items()}


def test_images_of_a_file_take_the_place_of_a_generator(
    exported: Path, classifier_cache: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file, cache = tmp_path / "set.npz", ["--cache", str(classifier_cache)]
    assert main(["sample", "--model", str(exported), "--count", "100", "--out", str(file)]) == 0
    (tmp_path / "trial.yaml").write_text(plain_yaml.dump(TINY))
    arguments = ["--student", "mlp", "--hidden", "16", "--steps", "20", "--json", *cache]
    trial = ["--config", str(tmp_path / "trial.yaml")]
    capsys.readouterr()
    assert main(["distil", "--samples", str(file), *trial, *arguments]) == 0
    of_file = json.loads(capsys.readouterr().out)
    assert main(["distil", "--model", str(exported), "--count", "100", *arguments]) == 0
    of_model = json.loads(capsys.readouterr().out)
    # The file holds the same images in bytes, so the teacher is the same and the student nearly.
    assert of_file["teacher"] == of_model["teacher"] and of_file["student"] == pytest.approx(of_model["student"], abs=0.05)
    np.savez(tmp_path / "small.npz", images=np.zeros((3, 8, 8), np.uint8), labels=np.arange(3))
    np.savez(tmp_path / "bare.npz", images=np.zeros((3, 28, 28), np.uint8))
    for name, named in {"small": ["[1, 8, 8]", "[1, 28, 28]"], "bare": ["labels"], "none": ["none.npz"]}.items():
        assert main(["distil", "--samples", str(tmp_path / f"{name}.npz"), *trial, *arguments]) == 2
        assert not missing([f"{name}.npz", *named], capsys.readouterr().err)


def test_blobs_take_the_place_of_a_generator_and_a_copy_that_of_a_random_start(
    classifier_cache: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "trial.yaml").write_text(plain_yaml.dump(TINY))
    arguments = ["distil", "--blobs", "--config", str(tmp_path / "trial.yaml"), "--student", "mlp_bn", "--hidden", "16"]
    arguments += ["--count", "300", "--steps", "2", "--json", "--cache", str(classifier_cache)]
    agreement = []
    for start in ("random", "teacher"):
        assert main([*arguments, "--fresh-targets", "--start", start]) == 0
        agreement.append(json.loads(capsys.readouterr().out)["agreement"])
    assert agreement[0] < agreement[1] - 0.2
    refused = {
        ("--start", "teacher", "--student", "lenet5"): ["--start teacher", "layers"],
        ("--start", "teacher", "--hidden", "4096"): ["--start teacher", "4096"],
        ("--loop", "gbc"): ["--blobs", "--loop"],
        ("--set", "dataset.name=circle", "--set", "dataset.per_class=6"): ["--blobs", "points"],
    }  # fmt: skip
    for flags, named in refused.items():
        assert main([*arguments, *flags]) == 2
        assert not missing(named, capsys.readouterr().err)
    for flag, value, named in (("--start", "middle", ["'middle'", "random"]), ("--samples", "set.npz", ["--blobs"])):
        with pytest.raises(SystemExit) as ended:
            main([*arguments, flag, value])
        assert ended.value.code == 2 and not missing([flag, *named], capsys.readouterr().err)
