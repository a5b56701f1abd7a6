"""Synthetic sets as files: whole or not at all, balanced, of any size."""

from __future__ import annotations

import io
import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from torchvision.datasets import ImageFolder

from gbc import export
from gbc.__main__ import main
from gbc.errors import BadInput
from gbc.export import synthetic_sets
from tests.support import missing
from tests.support.exports import Trained, trained


@pytest.fixture(scope="module")
def made(classifier_cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Trained:
    return trained(classifier_cache, tmp_path_factory.mktemp("made") / "model")


@pytest.mark.parametrize("shape", [(1, 5, 9), (3, 6, 4)])
def test_a_small_png_is_read_as_it_was(shape: tuple[int, int, int]) -> None:
    images = np.random.default_rng(0).integers(0, 256, (3, *shape), dtype=np.uint8)
    for image, content in zip(images, synthetic_sets.small_pngs(images), strict=True):
        pixels = np.asarray(Image.open(io.BytesIO(content)))
        np.testing.assert_array_equal(pixels.reshape(*shape[1:], shape[0]), image.transpose(1, 2, 0))


def test_an_image_folder_holds_the_samples_and_trains_other_models(made: Trained, tmp_path: Path) -> None:
    out = tmp_path / "set"
    assert main(["sample", "--model", str(made.folder), "--count", "605", "--seed", "2", "--out", f"{out}/"]) == 0
    folder_of_images = ImageFolder(str(out))
    assert folder_of_images.classes[:2] == ["0-T-shirt", "1-Trouser"] and len(folder_of_images) == 605
    assert np.bincount(folder_of_images.targets).tolist() == [61] * 5 + [60] * 5  # balanced
    images = synthetic_sets.as_bytes(export.load(made.folder).sample([index % 10 for index in range(605)], seed=2))
    for path, label in folder_of_images.samples[::50]:
        number = int(Path(path).stem)
        assert number % 10 == label
        np.testing.assert_array_equal(np.asarray(Image.open(path)), images[number, 0])
    assert [path.name for path in tmp_path.iterdir()] == ["set"]


def test_arrays_hold_the_same_and_equal_sets_are_equal_files(made: Trained, tmp_path: Path) -> None:
    first_file, second_file = tmp_path / "one.npz", tmp_path / "two.npz"
    for out in (first_file, second_file):
        assert (
            main(["sample", "--model", str(made.folder), "--label", "3", "--label", "8", "--count", "600", "--out", str(out)])
            == 0
        )
    assert first_file.read_bytes() == second_file.read_bytes()
    labels = [3, 8] * 300
    with np.load(first_file) as arrays:
        assert arrays["labels"].dtype == np.int64 and arrays["labels"].tolist() == labels
        np.testing.assert_array_equal(arrays["images"], synthetic_sets.as_bytes(export.load(made.folder).sample(labels)))


def test_class_names_become_names_of_folders() -> None:
    assert synthetic_sets.folder_names(["a/b", "c", "é:"]) == ["0-a_b", "1-c", "2-é_"]
    assert synthetic_sets.folder_names(["x"] * 11)[2] == "02-x"  # in the order of labels by name too


@pytest.mark.parametrize("name", ["set", "set.npz"])
def test_what_is_broken_off_leaves_nothing(made: Trained, tmp_path: Path, name: str) -> None:
    wanted = synthetic_sets.SyntheticSet(export.load(made.folder), range(10), 2000, 0)

    def interrupt(_: int) -> None:
        assert list(tmp_path.iterdir())  # there is a temporary place
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        (synthetic_sets.write_arrays if name.endswith("npz") else synthetic_sets.write_folder)(
            tmp_path / name, wanted, interrupt
        )
    assert list(tmp_path.iterdir()) == []


def test_an_existing_folder_is_not_touched(made: Trained, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "mine").write_text("mine")
    assert main(["sample", "--model", str(made.folder), "--out", f"{tmp_path}/"]) == 2
    assert re.search(f"{tmp_path}.*--out", capsys.readouterr().err)
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]
    blocked = tmp_path / "mine" / "set"
    with pytest.raises(BadInput, match="mine"):
        synthetic_sets.write_folder(blocked, synthetic_sets.SyntheticSet(export.load(made.folder), [0], 5, 0), lambda _: None)


def test_progress_is_plain_lines_where_there_is_no_terminal(
    made: Trained, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["sample", "--model", str(made.folder), "--count", "6000", "--out", str(tmp_path / "set.npz")]) == 0
    shown = capsys.readouterr()
    lines = shown.err.splitlines()
    assert 5 <= len(lines) <= 10 and lines[-1] == "images 6000/6000" and shown.out == f"{tmp_path / 'set.npz'}\n"
    assert main(["sample", "--model", str(made.folder), "--count", "100", "--out", str(tmp_path / "set.npz")]) == 0
    assert capsys.readouterr().err == ""


def test_a_sheet_has_an_end(made: Trained, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["sample", "--model", str(made.folder), "--count", "10001", "--out", "a.png"]) == 2
    assert not missing(["--count 10001", "10000", "--out DIR/", "--out FILE.npz"], capsys.readouterr().err)


@pytest.mark.long
def test_memory_does_not_grow_with_the_size(made: Trained, tmp_path: Path) -> None:
    """In processes of their own: the peak of a process never falls."""
    program = f"""
import json, resource, sys
from pathlib import Path
import torch
from gbc import export
from gbc.export import synthetic_sets
torch.set_num_threads(1)
generator = export.load({str(made.folder)!r})
peaks = []
for count in (2_000, 40_000):
    wanted = synthetic_sets.SyntheticSet(generator, range(10), count, 0)
    synthetic_sets.write_arrays(Path({str(tmp_path)!r}) / "set.npz", wanted, lambda _: None)
    peaks.append(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
print(json.dumps(peaks))
"""
    completed = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True)
    small, large = (peak * (1 if sys.platform == "darwin" else 1024) for peak in json.loads(completed.stdout))
    assert large - small < 20e6  # the 38,000 images more are 30 MB of bytes, 119 MB as floats


def test_a_label_that_is_unknown_is_refused_before_anything_is_written(made: Trained, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="label 11 "):
        synthetic_sets.SyntheticSet(export.load(made.folder), [1, 11], 5, 0)
