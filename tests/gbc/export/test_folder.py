"""An exported generator: the same samples in every format, with or without this package."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
import yaml
from PIL import Image

from gbc import export, pictures
from gbc.__main__ import main
from gbc.config import TrialConfig
from gbc.data import datasets
from gbc.errors import BadInput, CorruptFile
from gbc.export import formats, model_card
from gbc.export.drawing import BATCH
from gbc.metrics.scores import NEAREST
from gbc.training import tasks
from tests.conftest import TINY
from tests.support import missing
from tests.support.exports import TWO_TASKS, Trained, trained


@pytest.fixture(scope="module")
def one_task(classifier_cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Trained:
    return trained(classifier_cache, tmp_path_factory.mktemp("one") / "model", ["torch", "onnx"])


@pytest.fixture(scope="module")
def two_tasks(classifier_cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Trained:
    return trained(classifier_cache, tmp_path_factory.mktemp("two") / "model", ["torch", "onnx"], **TWO_TASKS)


@pytest.fixture(scope="module", params=["one_task", "two_tasks"])
def made(request: pytest.FixtureRequest) -> Trained:
    model: Trained = request.getfixturevalue(request.param)
    return model


def test_the_judged_samples_are_those_of_the_training_bit_for_bit(made: Trained) -> None:
    generator = export.load(made.folder)
    assert torch.equal(generator.judged(), made.images)
    torch.set_num_threads(2)  # whatever the process has
    assert torch.equal(generator.judged(), made.images)
    assert torch.get_num_threads() == 2


def test_the_logged_picture_is_drawn_again_pixel_for_pixel(made: Trained) -> None:
    generator = export.load(made.folder)
    columns = pictures.columns_for(len(generator.class_names))
    logged = np.asarray(Image.open(made.folder / export.PICTURE))[::2, ::2]  # every pixel is there twice
    images = generator.judged()[:NEAREST]
    drawn = pictures.pair_grid(images, images, columns)
    side = generator.shape[1] + 2
    generated = [row for start in range(0, len(logged), 2 * side) for row in range(start, start + side)]
    assert logged.shape == drawn.shape
    np.testing.assert_array_equal(logged[generated], drawn[generated])


def test_the_program_draws_them_bit_for_bit_and_onnx_within_its_tolerance(made: Trained) -> None:
    with np.load(made.folder / formats.JUDGED_INPUTS) as archive:
        inputs = dict(archive)
    program = torch.export.load(made.folder / "generator.pt2").module()
    tensors = [torch.from_numpy(array) for array in inputs.values()]
    assert torch.equal(program(*tensors), made.images)
    session = onnxruntime.InferenceSession(made.folder / "generator.onnx", providers=["CPUExecutionProvider"])
    assert np.abs(session.run(None, inputs)[0] - made.images.numpy()).max() <= formats.ONNX_TOLERANCE
    for count in (1, 3):  # any number of images
        few = {name: array[:count] for name, array in inputs.items()}
        expected = made.images[:count].numpy()
        assert np.abs(session.run(None, few)[0] - expected).max() <= formats.ONNX_TOLERANCE
        drawn = program(*(tensor[:count] for tensor in tensors)).detach().numpy()
        assert np.abs(drawn - expected).max() <= 1e-5  # the last bits of a product depend on its size


@pytest.mark.long
def test_the_lines_of_the_card_run_where_this_package_is_not(
    one_task: Trained, two_tasks: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = {}  # tolerance, folder, lines and samples by file, in two interpreters: one without torch
    for name, made in {"one": one_task, "two": two_tasks}.items():
        blocks = re.findall(r"```python\n(.*?)```", (made.folder / export.CARD).read_text(), flags=re.DOTALL)
        assert [("gbc" in block, "torch" in block, "onnx" in block) for block in blocks] == [
            (True, False, False), (False, True, False), (False, False, True)
        ]  # fmt: skip
        monkeypatch.chdir(made.folder.parent)
        scope: dict[str, torch.Tensor] = {}
        exec(blocks[0], scope)  # this one has it
        assert torch.equal(scope["logged"], made.images) and scope["images"].shape == (3, 1, 28, 28)
        for kind, block, tolerance in zip(("torch", "onnx"), blocks[1:], (1e-6, formats.ONNX_TOLERANCE), strict=True):
            wanted[kind, tmp_path / f"{kind}-{name}.npy"] = tolerance, made, block
    for kind in ("torch", "onnx"):
        # An editable installation would put the package on the path: these interpreters know it under no name.
        program = "import os, sys; sys.modules['gbc'] = sys.modules['search'] = None\nimport numpy as np\n"
        for (of, path), (_, made, block) in wanted.items():
            if of == kind:
                program += f"os.chdir({str(made.folder)!r})\nscope = {{}}\nexec({block!r}, scope)\n"
                program += f"images = scope['images']\nnp.save({str(path)!r}, np.asarray(scope['logged']))\n"
                program += "assert tuple(images.shape) == (3, 1, 28, 28) and 0 <= images.min() and images.max() <= 1\n"
        subprocess.run([sys.executable, "-c", program], check=True)
    for (_, path), (tolerance, made, _) in wanted.items():
        assert np.abs(np.load(path) - made.images.numpy()).max() <= tolerance


def test_the_card_says_what_it_was_born_from(made: Trained) -> None:
    text = (made.folder / export.CARD).read_text()
    generator = export.load(made.folder)
    front = yaml.safe_load(text.split("---")[1])
    sets = [spec.dataset.name for spec in generator.settings.classifiers()]
    assert front["datasets"] == sets and front["library_name"] == "gbc-search" and front["tags"]
    assert front["license"] == ("mit" if sets == ["fashion_mnist"] else "other")
    assert not missing(["accuracy", "margin", "B.5"], text)
    for source in [*generator.origin["classifiers"], generator.origin["data"]]:
        assert f"`{source['digest']}`" in text
    for name in sets:
        assert model_card.LICENCES[name].notice in text
    settings = yaml.safe_load(re.findall(r"```yaml\n(.*?)```", text, flags=re.DOTALL)[0])
    assert TrialConfig.parse(settings, "card") == generator.settings


@pytest.mark.parametrize("name", ["generator.pt2", "generator.onnx", "judged.npz"])
def test_an_altered_file_of_any_format_is_noticed(made: Trained, tmp_path: Path, name: str) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(made.folder, copy)
    content = bytearray((copy / name).read_bytes())
    content[len(content) // 2] ^= 1
    (copy / name).write_bytes(content)
    with pytest.raises(CorruptFile, match=f"{name}: .*{export.CONFIG}"):
        export.load(copy)
    assert main(["sample", "--model", str(copy), "--out", str(tmp_path / "a.png")]) == 2
    assert not (tmp_path / "a.png").exists()
    (copy / name).unlink()
    export.load(copy)  # what is not there is not asked for


def test_another_version_is_refused(made: Trained, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(made.folder, copy)
    header = json.loads((copy / export.CONFIG).read_text())
    (copy / export.CONFIG).write_text(json.dumps({**header, "version": 1}))
    with pytest.raises(BadInput, match=r"version 1.* 2.*export"):
        export.load(copy)


@pytest.mark.parametrize("changes", [{"classes": ["a"]}, {"weights": None, "files": 3}, {"judged": None}, {"shape": "x"}])
def test_an_altered_config_is_one_line(made: Trained, tmp_path: Path, changes: dict[str, object]) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(made.folder, copy)
    header = json.loads((copy / export.CONFIG).read_text())
    (copy / export.CONFIG).write_text(json.dumps({**header, **changes}))
    with pytest.raises(CorruptFile) as caught:
        export.load(copy)
    assert "\n" not in str(caught.value) and str(copy) in str(caught.value)


def test_drawing_in_parts_gives_what_the_module_gives(made: Trained) -> None:
    generator = export.load(made.folder)
    labels = torch.arange(1300) % len(generator.class_names)
    drawn = generator.sample(labels, seed=4)
    assert drawn.is_contiguous() and drawn.shape == (1300, 1, 28, 28)
    rng, expected = torch.Generator().manual_seed(4), []
    for part in labels.split(BATCH):
        noise = torch.randn(len(part), generator.module.noise_dim, generator=rng)
        drawn_tasks = generator._draw_tasks(part, rng) if generator.module.tasks > 1 else None
        with torch.no_grad():
            expected.append(generator.module(noise, part, drawn_tasks))
    assert (drawn - torch.cat(expected)).abs().max() <= 1e-5
    torch.set_num_threads(2)
    assert torch.equal(drawn, generator.sample(labels, seed=4))  # however many threads there are


def test_no_labels_are_refused_in_one_line(made: Trained) -> None:
    with pytest.raises(BadInput, match="label"):
        export.load(made.folder).sample([])


def test_formats_are_named_and_unknown_ones_refused() -> None:
    assert formats.parse_formats("safetensors") == [] and formats.parse_formats("onnx, safetensors,torch,onnx") == [
        "onnx",
        "torch",
    ]
    with pytest.raises(BadInput, match=r"--format: .*'onx'.*'onnx'"):
        formats.parse_formats("safetensors,onx")


def test_a_missing_extra_is_said_before_anything_is_written(
    classifier_cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)  # as if it were not installed
    settings = TrialConfig.parse(TINY, "tests")
    inputs = tasks.obtain(settings, classifier_cache)
    with pytest.raises(BadInput, match=r"--format onnx: .*onnxruntime.*pip install onnx "):
        export.write(tmp_path / "new", {}, settings, inputs, {}, origin="", picture=None, formats=["torch", "onnx"])
    assert list(tmp_path.iterdir()) == []


def test_every_shipped_data_set_has_a_licence() -> None:
    assert set(datasets.SHIPPED) <= set(model_card.LICENCES)
