"""CelebA (Liu et al. 2015): faces with forty binary attributes, each of which gives a task of two classes (section 5.2)."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from gbc.classifier_config import DatasetConfig
from gbc.data.samples import ImageDataset, Labels, centred_square, subset, task_classes, task_dataset
from gbc.errors import BadInput, CorruptFile
from gbc.settings import suggest

SIDE: Final = 32
TEST_PER_CLASS: Final = 200
DEFAULT_ATTRIBUTE: Final = "Male"

# In the order and spelling of list_attr_celeba.txt.
ATTRIBUTES: Final = (
    "5_o_Clock_Shadow", "Arched_Eyebrows", "Attractive", "Bags_Under_Eyes", "Bald", "Bangs", "Big_Lips", "Big_Nose",
    "Black_Hair", "Blond_Hair", "Blurry", "Brown_Hair", "Bushy_Eyebrows", "Chubby", "Double_Chin", "Eyeglasses", "Goatee",
    "Gray_Hair", "Heavy_Makeup", "High_Cheekbones", "Male", "Mouth_Slightly_Open", "Mustache", "Narrow_Eyes", "No_Beard",
    "Oval_Face", "Pale_Skin", "Pointy_Nose", "Receding_Hairline", "Rosy_Cheeks", "Sideburns", "Smiling", "Straight_Hair",
    "Wavy_Hair", "Wearing_Earrings", "Wearing_Hat", "Wearing_Lipstick", "Wearing_Necklace", "Wearing_Necktie", "Young",
)  # fmt: skip

FOLDER: Final = "celeba"
IMAGES: Final = "img_align_celeba"
ATTRIBUTE_LIST: Final = "list_attr_celeba.txt"
PARTITION_LIST: Final = "list_eval_partition.txt"
_REMEDY: Final = "fetch CelebA again"
_SPLITS: Final = {"0": "train", "1": "valid", "2": "test"}


def celeba(config: DatasetConfig) -> ImageDataset:
    """Faces without and with `config.attribute`, 32×32 in colour.

    Training images come from the training split, and at most 200 test images of each class from the test split, because every
    worker would need time to decode all 19,962. `data_root` has torchvision's layout: `celeba/img_align_celeba` beside the text
    files. With `download`, torchvision fetches missing files and checks their MD5 sums. Without it, the folder may hold a part
    of CelebA, so the content is checked, but not the sums.

    Raises:
        BadInput: no data_root, an unknown attribute, a missing file, a failed download, or too few images of a class.
        CorruptFile: a text file or an image is damaged.
    """
    attribute = config.attribute or DEFAULT_ATTRIBUTE
    if attribute not in ATTRIBUTES:
        raise BadInput(f"unknown attribute {attribute!r} of celeba; {suggest(attribute, list(ATTRIBUTES))}")
    if config.data_root is None:
        raise BadInput(f"celeba does not ship with the package; name the folder that holds {FOLDER}/ with --data-root")
    class_names = (f"not {attribute}", attribute)
    folder = Path(os.path.expanduser(config.data_root)) / FOLDER  # where a home is missing, ~ stays, and is not found
    if config.download:
        _fetch(folder.parent)
    for name in (IMAGES, ATTRIBUTE_LIST, PARTITION_LIST):
        if not (folder / name).exists():
            raise BadInput(f"no {name} in {folder}: CelebA must lie there as torchvision has it; add --download to fetch it")

    labels_of, splits = _read_lists(folder, attribute), []
    for split, per_class in (("train", config.per_class), ("test", TEST_PER_CLASS)):
        names, labels = labels_of[split]
        picked = subset(labels, per_class, task_classes(config, class_names), fewer=split == "test")
        images = [_image(folder / IMAGES / names[index]) for index in picked]
        splits.append((np.array(images, np.uint8).reshape(-1, SIDE, SIDE, 3), labels[picked]))
    return task_dataset(config, class_names, *splits)


def _fetch(root: Path) -> None:
    """Let torchvision download CelebA into `root`; it does nothing if all MD5 sums are right."""
    from torchvision.datasets import CelebA

    class Files(CelebA):  # type: ignore[misc]  # the base has no types
        def __init__(self) -> None:
            # The constructor of the base turns every list into a tensor: over 1 GB of memory, of which we need one column.
            self.root = root

    try:
        Files().download()
    except Exception as fault:  # the errors of the package that downloads have no common base
        raise BadInput(f"{root}/{FOLDER}: CelebA could not be fetched: {_first_line(fault)}") from None


def _read_lists(folder: Path, attribute: str) -> dict[str, tuple[list[str], Labels]]:
    """For each split the file names, and labels: 1 if the image has the attribute, else 0."""
    has = _read_attribute(folder / ATTRIBUTE_LIST, attribute)
    path = folder / PARTITION_LIST
    names: dict[str, list[str]] = {split: [] for split in _SPLITS.values()}
    for number, line in enumerate(_lines(path), 1):
        match line.split():
            case [name, ("0" | "1" | "2") as split] if name in has:
                names[_SPLITS[split]].append(name)
            case _:
                raise CorruptFile(f"{path}: line {number}: expected the name of a listed image and 0, 1 or 2; {_REMEDY}")
    return {split: (files, np.array([has[name] for name in files], np.uint8)) for split, files in names.items()}


def _read_attribute(path: Path, attribute: str) -> dict[str, bool]:
    """True for images that have the attribute, by file name. The file holds a count, the column names, then the rows."""
    lines = _lines(path)
    columns = lines[1].split() if len(lines) > 1 else []
    if attribute not in columns:
        raise CorruptFile(f"{path}: line 2 names no attribute {attribute}; {_REMEDY}")
    column, width, has = columns.index(attribute) + 1, len(columns) + 1, {}
    for number, line in enumerate(lines[2:], 3):
        row = line.split()
        if len(row) != width or row[column] not in ("1", "-1"):
            raise CorruptFile(f"{path}: line {number}: expected a file name and {width - 1} values of 1 or -1; {_REMEDY}")
        has[row[0]] = row[column] == "1"
    return has


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="ascii").splitlines()
    except (OSError, UnicodeDecodeError):
        raise CorruptFile(f"{path}: cannot be read as text; {_REMEDY}") from None


def _image(path: Path) -> NDArray[np.uint8]:
    """An image, [32, 32, 3]. CelebA's images are 178×218: the usual crop of 178×178 is their largest centred square."""
    from PIL import Image

    try:
        with Image.open(path) as image:
            return centred_square(image.convert("RGB"), SIDE)
    except FileNotFoundError:
        raise BadInput(f"{path}: is listed in list_eval_partition.txt, but is not there; {_REMEDY}") from None
    except (OSError, ValueError, SyntaxError):  # PIL raises all three for damaged content
        raise CorruptFile(f"{path}: not a readable image; {_REMEDY}") from None


def _first_line(fault: Exception) -> str:
    return str(fault).strip().partition("\n")[0] or type(fault).__name__
