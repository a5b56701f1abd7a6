from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.datasets import CelebA

from gbc import pictures
from gbc.classifier_config import DatasetConfig
from gbc.classifiers import pretrain
from gbc.config import TrialConfig
from gbc.data import datasets
from gbc.data.celeba import ATTRIBUTE_LIST, ATTRIBUTES, IMAGES, PARTITION_LIST, _read_lists
from gbc.data.datasets import ImageDataset
from gbc.data.samples import centred_square
from gbc.errors import BadInput, CorruptFile
from gbc.metrics.scores import METRICS, ReferenceSet, controls
from gbc.training.trainer import Trainer
from tests.conftest import TINY
from tests.support import missing
from tests.support.celeba_tree import plant


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    return plant(tmp_path)


def load(tree: Path, **settings: object) -> ImageDataset:
    return datasets.load(DatasetConfig(**{"name": "celeba", "data_root": str(tree.parent), "per_class": 3, **settings}))  # type: ignore[arg-type]


def refusal(tree: Path, **settings: object) -> str:
    with pytest.raises(BadInput) as caught:
        load(tree, **settings)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_an_attribute_is_a_task_of_two_classes(tree: Path) -> None:
    data = load(tree)
    assert data.class_names == ("not Male", "Male") and data.shape == (3, 32, 32)
    assert np.bincount(data.train_labels).tolist() == [3, 3]
    assert np.bincount(data.test_labels).tolist() == [2, 2]  # not the one of the validation split
    for images, labels in (data.train(), data.test()):
        red, _, blue = images.mean(dim=(2, 3)).unbind(dim=1)
        assert torch.equal(red > blue, labels == 1)


def test_the_papers_attributes_are_known() -> None:
    assert len(set(ATTRIBUTES)) == 40
    assert {"Male", "Mouth_Slightly_Open", "Pale_Skin"} <= set(ATTRIBUTES)  # Fig. 7


@pytest.mark.parametrize("attribute", ATTRIBUTES)
def test_every_attribute_is_read_from_its_own_column(tmp_path: Path, attribute: str) -> None:
    data = load(plant(tmp_path, train=1, test=1, attribute=attribute), attribute=attribute, per_class=1)
    red, _, blue = data.train()[0].mean(dim=(2, 3)).unbind(dim=1)
    assert data.class_names == (f"not {attribute}", attribute) and (red > blue).tolist() == [False, True]


def test_a_smaller_task_is_part_of_a_larger_one(tree: Path) -> None:
    small, large = load(tree, per_class=2), load(tree, per_class=4)
    for label in (0, 1):
        assert (small.train_images[small.train_labels == label] == large.train_images[large.train_labels == label][:2]).all()


def test_the_test_split_is_not_decoded_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gbc.data.celeba.TEST_PER_CLASS", 2)
    data = load(plant(tmp_path, test=5))
    assert np.bincount(data.test_labels).tolist() == [2, 2]


def test_the_crop_is_178_by_178_in_the_middle() -> None:
    pixels = np.zeros((218, 178, 3), np.uint8)
    pixels[:20], pixels[198:] = 255, 255  # all that the crop takes away
    assert centred_square(Image.fromarray(pixels), 32).max() == 0
    pixels[20], pixels[197] = 255, 255
    kept = centred_square(Image.fromarray(pixels), 32)
    assert kept.shape == (32, 32, 3) and kept[0].min() > 0 and kept[-1].min() > 0


def test_a_missing_root_is_asked_for() -> None:
    with pytest.raises(BadInput, match=r"celeba .*--data-root"):
        datasets.load(DatasetConfig(name="celeba"))


def test_a_generator_is_trained_and_judged_in_colour(tree: Path, tmp_path: Path) -> None:
    data = load(tree)
    settings = TrialConfig.parse({**TINY, "dataset": {"name": "celeba", "per_class": 3}}, "test")
    classifier, _, _ = pretrain.obtain(settings.classifier, data, tmp_path / "cache")
    *_, report = Trainer(settings, [classifier], ReferenceSet.of(data, "cpu")).run()
    assert all(0 <= report.metrics[name] <= 1 for name in METRICS)
    assert report.images is not None and report.images.shape == (2 * 34, 10 * 34, 3)  # a pair of rows, framed
    with Image.open(io.BytesIO(pictures.png(report.images))) as picture:
        assert picture.mode == "RGB" and picture.size == (2 * 10 * 34, 2 * 2 * 34)


def test_controls_work_in_colour(tree: Path) -> None:
    rows = controls(load(tree), per_class=1)
    assert rows["class means"]["tstr/1nn"] == 1.0  # red against blue
    assert rows["other real images"]["tstr/1nn"] == 1.0


def test_an_unknown_attribute_gets_a_suggestion(tree: Path) -> None:
    assert not missing(["attribute 'Smilling'", "'Smiling'"], refusal(tree, attribute="Smilling"))


@pytest.mark.parametrize("name", [IMAGES, ATTRIBUTE_LIST, PARTITION_LIST])
def test_a_missing_part_is_named(tree: Path, name: str) -> None:
    (tree / name).rename(tree / "elsewhere")
    assert not missing([f"{name} ", str(tree), "--download"], refusal(tree))


def test_an_empty_root_is_named(tmp_path: Path) -> None:
    assert not missing([f"{IMAGES} ", str(tmp_path / "celeba")], refusal(tmp_path / "celeba"))


def test_an_attribute_with_too_few_images_is_refused(tree: Path) -> None:
    assert not missing(["per_class", " 5,", "not Male", "4 images"], refusal(tree, per_class=5))
    assert not missing(["per_class", " 3,", "Bald", "0 images"], refusal(tree, attribute="Bald"))


def test_a_class_without_test_images_is_refused(tmp_path: Path) -> None:
    assert not missing(["celeba: ", "test", "not Male"], refusal(plant(tmp_path, test=0)))


@pytest.mark.parametrize(
    ("name", "content", "named"),
    [
        (ATTRIBUTE_LIST, "", [ATTRIBUTE_LIST, "line 2 ", "Male"]),
        (ATTRIBUTE_LIST, "1\nBald Young\n000001.jpg 1 1\n", [ATTRIBUTE_LIST, "line 2 ", "Male"]),
        (ATTRIBUTE_LIST, "1\nMale\n000001.jpg yes\n", [ATTRIBUTE_LIST, "line 3: ", "1 values"]),
        (ATTRIBUTE_LIST, "2\nMale\n000001.jpg 1\n000002.jpg 1 -1\n", [ATTRIBUTE_LIST, "line 4: "]),
        (ATTRIBUTE_LIST, "1\nMale\n000001.jpg 1\n", [PARTITION_LIST, "line 2: "]),
        (ATTRIBUTE_LIST, "\xff\n", [ATTRIBUTE_LIST, " as text"]),
        (PARTITION_LIST, "000001.jpg\n", [PARTITION_LIST, "line 1: "]),
        (PARTITION_LIST, "000001.jpg 0\n000002.jpg 3\n", [PARTITION_LIST, "line 2: "]),
    ],
)
def test_a_damaged_text_file_is_named(tree: Path, name: str, content: str, named: list[str]) -> None:
    (tree / name).write_bytes(content.encode("latin-1"))
    with pytest.raises(CorruptFile):
        load(tree)
    assert not missing(named, refusal(tree))


def test_torchvision_reads_the_same_labels(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The tree gets the lists that torchvision wants besides; its MD5 sums are those of the whole CelebA."""
    names = [line.split()[0] for line in (tree / PARTITION_LIST).read_text().splitlines()]
    for name, columns, header in (
        ("list_bbox_celeba.txt", 4, "count\nheader\n"),
        ("list_landmarks_align_celeba.txt", 10, "count\nheader\n"),
        ("identity_CelebA.txt", 1, ""),
    ):
        (tree / name).write_text(header + "".join(f"{image}{' 0' * columns}\n" for image in names))
    monkeypatch.setattr(CelebA, "_check_integrity", lambda _: True)
    ours = _read_lists(tree, "Male")
    for split in ("train", "valid", "test"):
        theirs = CelebA(tree.parent, split=split)
        assert ours[split][0] == theirs.filename
        assert ours[split][1].tolist() == theirs.attr[:, theirs.attr_names.index("Male")].tolist()


@pytest.mark.parametrize("content", [b"", b"not an image", None])
def test_a_corrupt_image_is_named(tree: Path, content: bytes | None) -> None:
    for path in (tree / IMAGES).iterdir():
        path.write_bytes(path.read_bytes()[:2000] if content is None else content)
    with pytest.raises(CorruptFile, match=r"00000\d\.jpg: "):
        load(tree)


def test_an_image_that_is_listed_but_not_there_is_named(tree: Path) -> None:
    for path in (tree / IMAGES).iterdir():
        path.unlink()
    assert not missing([".jpg: ", PARTITION_LIST], refusal(tree))


def test_a_download_keeps_torchvisions_checks(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The tree's MD5 sums are wrong, so torchvision wants to fetch every file; there is no network in tests."""
    asked: list[str] = []

    def refuse(file_id: str, root: str, filename: str, md5: str) -> None:
        asked.append(filename)
        raise RuntimeError("no network\nand more")

    monkeypatch.setattr("torchvision.datasets.celeba.download_file_from_google_drive", refuse)
    assert refusal(tree, download=True).endswith(": no network")
    assert asked == ["img_align_celeba.zip"]
