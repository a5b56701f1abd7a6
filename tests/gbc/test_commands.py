"""`python -m gbc`, in process where that is enough; exports are loaded as a stranger would."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from gbc import export
from gbc.__main__ import main
from gbc.errors import BadInput, CorruptFile
from tests.conftest import TINY
from tests.support import missing

CONFIGS = Path(__file__).parents[2] / "configs"


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, classifier_cache: Path) -> Path:
    folder = tmp_path_factory.mktemp("trained")
    config = folder / "trial.yaml"
    config.write_text(yaml.safe_dump(TINY))
    out = folder / "model"
    assert main(["train", "--config", str(config), "--out", str(out), "--cache", str(classifier_cache)]) == 0
    return out


def test_train_leaves_an_exported_generator_and_nothing_else(trained: Path) -> None:
    assert sorted(path.name for path in trained.iterdir()) == [
        "README.md",
        "config.json",
        "generator.safetensors",
        "samples.png",
    ]
    assert sorted(path.name for path in trained.parent.iterdir()) == ["model", "trial.yaml"]
    card = (trained / "README.md").read_text()
    assert "## Privacy" in card and "ssim/coverage" in card and "T-shirt" in card
    assert "| black |" in card and "| other real images |" in card  # controls beside the scores


def test_five_lines_load_it_without_ray_optuna_or_mlflow(trained: Path) -> None:
    program = f"""
import sys
from gbc import export
generator = export.load({str(trained)!r})
images = generator.sample(labels=[0, 3, 9], seed=1)
assert images.shape == (3, 1, 28, 28) and 0 <= images.min() and images.max() <= 1
assert not {{"ray", "optuna", "mlflow", "torchvision", "search"}} & set(sys.modules)
"""
    subprocess.run([sys.executable, "-c", program], check=True)


def test_samples_depend_on_the_seed_alone(trained: Path) -> None:
    generator = export.load(trained)
    labels = list(range(10)) * 60  # more than one batch
    first, second = generator.sample(labels, seed=3), generator.sample(labels, seed=3)
    assert torch.equal(first, second)
    assert not torch.equal(first, generator.sample(labels, seed=4))
    assert not generator.module.training


@pytest.mark.parametrize("labels", [[], ["a"], [0.5], [True], 3, [[1, 2]], None, [2**70]])
def test_labels_that_are_no_list_of_numbers_are_refused(trained: Path, labels: object) -> None:
    with pytest.raises(BadInput, match=r"^labels: "):
        export.load(trained).sample(labels)  # type: ignore[arg-type]


def test_a_class_may_be_named(trained: Path) -> None:
    generator = export.load(trained)
    assert [generator.label_named(text) for text in ("3", "Dress", "ankle boot")] == [3, 3, 9]
    with pytest.raises(BadInput, match=r"--label: .*'Dres'.*'Dress'"):
        generator.label_named("Dres")


@pytest.mark.parametrize("label", [-1, 10])
def test_an_unknown_label_is_refused_with_the_known_ones(trained: Path, label: int) -> None:
    with pytest.raises(BadInput, match=f"label {label} .*0.*9.*T-shirt, "):
        export.load(trained).sample([0, label])


def test_altered_weights_are_noticed(trained: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    copy = tmp_path / "copy"
    shutil.copytree(trained, copy)
    weights = load_file(copy / export.WEIGHTS)
    weights["transposed.6.bias"] += 1e-3
    save_file(weights, copy / export.WEIGHTS)
    with pytest.raises(CorruptFile, match="altered"):
        export.load(copy)
    (copy / export.WEIGHTS).write_bytes(b"nonsense")
    with pytest.raises(CorruptFile, match="damaged"):
        export.load(copy)
    (copy / export.CONFIG).unlink()
    with pytest.raises(BadInput, match=r"config\.json: No such file"):
        export.load(copy)


def test_sample_writes_a_sheet_and_arrays(trained: Path, tmp_path: Path) -> None:
    sheet, arrays = tmp_path / "grid.png", tmp_path / "set.npz"
    assert main(["sample", "--model", str(trained), "--label", "3", "--count", "16", "--out", str(sheet)]) == 0
    assert Image.open(sheet).size == (4 * 30 * 2, 4 * 30 * 2)
    assert main(["sample", "--model", str(trained), "--count", "25", "--out", str(arrays)]) == 0
    with np.load(arrays) as archive:
        assert archive["images"].shape == (25, 1, 28, 28) and archive["images"].dtype == np.uint8
        assert archive["labels"].tolist() == [i % 10 for i in range(25)]


def test_evaluate_puts_controls_beside_the_scores(trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["evaluate", "--model", str(trained), "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)["scores"]
    assert list(rows) == ["model", "black", "uniform noise", "mean image", "class means", "other real images"]
    assert main(["evaluate", "--model", str(trained)]) == 0
    assert "ssim/coverage" in capsys.readouterr().out


@pytest.mark.long
def test_evaluate_in_full(
    trained: Path, classifier_cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("gbc.metrics.features.STEPS", 30)
    monkeypatch.setattr("gbc.metrics.student.STEPS", 5)
    monkeypatch.setattr("gbc.metrics.distillation.STEPS", 5)
    monkeypatch.setattr("gbc.metrics.student.STUDENTS", 1)
    command = ["evaluate", "--model", str(trained), "--cache", str(tmp_path), "--full"]
    assert main([*command, "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    first, *_, last = report["scores"]
    assert (first, last) == ("model", "other real images")
    assert {"prdc/coverage", "tstr/cnn", "kid", "ssim/coverage"} <= set(report["scores"]["model"])
    assert set(report["by_class"]["tstr/cnn"]) >= {"Trouser", "Bag"}
    assert 0 <= report["oracle_accuracy"] <= 1 and report["oracle_trained_on"]
    assert "distil/student" not in report["scores"]["model"]  # the classifier is not in that cache
    shutil.copytree(classifier_cache, tmp_path, dirs_exist_ok=True)
    assert main(command) == 0
    shown = capsys.readouterr().out
    assert not missing(["oracle/accuracy", "distil/teacher", "distil/student"], shown)
    assert len(list(tmp_path.glob("fashion_mnist-features-*"))) == 1  # the second time it was there


def test_pretrain_prints_the_regime(classifier_cache: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = tmp_path / "trial.yaml"
    config.write_text(yaml.safe_dump(TINY))
    assert main(["pretrain", "--config", str(config), "--cache", str(classifier_cache)]) == 0
    assert "7.weight" in capsys.readouterr().out
    assert main(["pretrain", "--config", str(config), "--cache", str(classifier_cache), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["steps"] == 60


def test_an_interrupted_training_goes_on_to_the_same_generator(trained: Path, classifier_cache: Path, tmp_path: Path) -> None:
    from gbc import checkpoint
    from gbc.classifiers import pretrain
    from gbc.config import TrialConfig
    from gbc.data import datasets
    from gbc.training.trainer import Trainer

    settings = TrialConfig.parse(TINY, "tests")
    data = datasets.load(settings.dataset)
    half = Trainer(settings, [pretrain.obtain(settings.classifier, data, classifier_cache)[0]])
    next(half.run())
    out = tmp_path / "model"
    state = {"settings": settings.model_dump(mode="json"), "history": [], "trainer": half.state_dict()}
    checkpoint.save(out.with_name("model.ckpt"), state)
    config = tmp_path / "trial.yaml"
    config.write_text(yaml.safe_dump(TINY))
    command = ["train", "--config", str(config), "--out", str(out), "--cache", str(classifier_cache)]
    assert main([*command, "--set", "lr=0.1"]) == 2  # other settings: refused, nothing overwritten
    assert main(command) == 0
    labels = list(range(10))
    assert torch.equal(export.load(out).sample(labels), export.load(trained).sample(labels))


@pytest.mark.parametrize(("count", "labels", "size"), [(64, [], (10, 7)), (5, [3], (2, 3)), (7, [1, 2], (10, 1))])
def test_any_number_of_samples_makes_a_sheet(
    trained: Path, tmp_path: Path, count: int, labels: list[int], size: tuple[int, int]
) -> None:
    chosen = [argument for label in labels for argument in ("--label", str(label))]
    out = tmp_path / "sheet.png"
    assert main(["sample", "--model", str(trained), "--count", str(count), "--out", str(out), *chosen]) == 0
    assert Image.open(out).size == (60 * size[0], 60 * size[1])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["train", "--out", "{trained}"], "exists already"),
        (["train", "--out", "new", "--set", "generator=pixels"], "generator pixels"),
        (["train", "--out", "new", "--set", "lr=hello"], "--set lr: 'hello'"),
        (["train", "--out", "new", "--config", "none.yaml"], "none.yaml: "),
        (["train", "--out", "new", "--config", str(CONFIGS / "mnist-quick.yaml")], "search/run.py --config"),
        (["train", "--out", "new", "--set", "dataset.name=cifar"], "dataset 'cifar'"),
        (["train", "--out", "new", "--set", "classifier.name=vit"], "classifier 'vit'"),
        (["train", "--out", "new", "--set", "device=cuda:9"], "'cuda:9'"),
        (["sample", "--model", "nowhere", "--out", "a.png"], "nowhere/config.json"),
        (["sample", "--model", "{trained}", "--out", "a.gif"], "--out a.gif: "),
        (["sample", "--model", "{trained}", "--out", "new/", "--label", "11"], "label 11 "),
        (["sample", "--model", "{trained}", "--out", "a.png", "--label", "11"], "label 11 "),
        (["evaluate", "--model", "{trained}", "--data-root", "nowhere"], "nowhere/FashionMNIST/raw"),
        (["evaluate", "--model", "{trained}", "--full", "--cache", "{trained}/README.md"], "README.md: "),
        (["data", "build", "--data-root", "nowhere", "--out", "new"], "nowhere/FashionMNIST/raw"),
        (["homogeneity", "--out", "new", "--weights", "none.pt"], "none.pt: "),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(
    arguments: list[str],
    message: str,
    trained: Path,
    classifier_cache: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    if arguments[0] == "train" and "device=cuda:9" in arguments:
        arguments = [*arguments, "--set", "classifier.hidden=8", "--set", "classifier.steps=1"]
    assert main([argument.format(trained=trained) for argument in arguments]) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("error: ") and message in error
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(
    ("command", "out"),
    [
        (["audit"], "/proc/x"),
        (["train"], "file/x"),
        (["circle"], "file/x/y"),
        (["baseline", "bn-inversion"], "/proc/x"),
        (["sample", "--model", "nowhere"], "/proc/x.png"),
    ],
)
def test_a_place_that_cannot_be_written_is_refused_before_any_work(
    command: list[str], out: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").touch()
    monkeypatch.setattr("gbc.commands.options.trial", None)  # it would be called
    assert main([*command, "--out", out]) == 2
    assert capsys.readouterr().err.startswith(f"error: --out {out}: ")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize("cache", ["/proc", "/proc/x", "file", "file/x"])
def test_a_cache_that_cannot_be_written_is_refused_before_a_classifier_is_trained(
    cache: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").touch()
    monkeypatch.setattr("gbc.classifiers.pretrain.train", None)  # it would be called
    monkeypatch.setattr("filelock.FileLock.acquire", None)  # in /proc it would wait for ever
    assert main(["pretrain", "--set", "dataset.name=digits", "--cache", cache]) == 2
    assert capsys.readouterr().err.startswith(f"error: {cache}: cannot be written")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["trian", "--out", "x"], "error: COMMAND: unknown 'trian'; did you mean 'train'?\n"),
        (["make"], "error: COMMAND: unknown 'make'; choose from pretrain, audit, "),
        (["audit", "--out", "--json"], "error: --out: needs a value; one that begins with a dash is written --out=VALUE\n"),
    ],
)
def test_what_cannot_be_parsed_is_one_line(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(arguments)
    error = capsys.readouterr().err
    assert error.startswith(message) and error.count("\n") == 1


def test_help_needs_no_heavy_import() -> None:
    program = """
import sys
from gbc.__main__ import parser
parser().format_help()
assert not {"torch", "numpy", "pydantic", "yaml"} & set(sys.modules), sys.modules.keys()
"""
    subprocess.run([sys.executable, "-c", program], check=True)
