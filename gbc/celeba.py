"""CelebA (Liu et al. 2015): faces with forty yes-or-no attributes, each of which is a task of two classes (section 5.2)."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from gbc.config import DatasetConfig, suggest
from gbc.errors import BadInput, CorruptFile
from gbc.samples import ImageDataset, square, subset, task, wanted

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
LISTS: Final = (
    "list_attr_celeba.txt",
    "list_eval_partition.txt",
    "list_bbox_celeba.txt",
    "list_landmarks_align_celeba.txt",
    "identity_CelebA.txt",
)


def celeba(config: DatasetConfig) -> ImageDataset:
    """Faces without and with `config.attribute`, 32×32 in colour.

    Training images come from the training split, at most 200 test images of each class from the test split: to decode
    all 19,962 would cost every worker a minute. `data_root` holds torchvision's layout, `celeba/img_align_celeba` beside
    the text files; it may be a part of CelebA. MD5 sums are torchvision's business and checked with `download` alone:
    a user's own selection could not match them.

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
    folder = Path(config.data_root) / FOLDER
    reader = _fetched(config.data_root) if config.download else _own(folder)

    splits = []
    for split, per_class in (("train", config.per_class), ("test", TEST_PER_CLASS)):
        names, labels = _labels(reader, folder, split, attribute)
        picked = subset(labels, per_class, wanted(config, class_names), fewer=split == "test")
        images = [_image(folder / IMAGES / names[index]) for index in picked]
        splits.append((np.array(images, np.uint8).reshape(-1, SIDE, SIDE, 3), labels[picked]))
    return task(config, class_names, *splits)


def _fetched(root: str) -> Any:
    """The reader of torchvision, after a download into `root` unless all MD5 sums are right already; it checks them."""
    from torchvision.datasets import CelebA

    try:
        CelebA(root, split="valid", download=True)
    except Exception as fault:  # another package downloads, whose errors have no common base
        raise BadInput(f"{root}/{FOLDER}: CelebA could not be fetched: {_first_line(fault)}") from None
    return CelebA


def _own(folder: Path) -> Any:
    """The reader for a folder that the user vouches for: what has to be there is there, with any MD5 sums."""
    from torchvision.datasets import CelebA

    for name in (IMAGES, *LISTS):
        if not (folder / name).exists():
            raise BadInput(f"no {name} in {folder}: CelebA must lie there as torchvision has it; add --download to fetch it")

    class OwnFolder(CelebA):  # type: ignore[misc]  # the base has no types
        def _check_integrity(self) -> bool:
            return True

    return OwnFolder


def _labels(reader: Any, folder: Path, split: str, attribute: str) -> tuple[list[str], NDArray[np.uint8]]:
    """File names of one split, and 1 where the image has the attribute."""
    try:
        listing = reader(folder.parent, split=split)
        column = listing.attr_names.index(attribute)
    except (OSError, RuntimeError, ValueError, IndexError, TypeError) as fault:  # what parsing a wrong text raises
        raise CorruptFile(f"{folder}: a text file is damaged ({_first_line(fault)}); fetch CelebA again") from None
    return listing.filename, listing.attr[:, column].numpy().astype(np.uint8)


def _image(path: Path) -> NDArray[np.uint8]:
    """[32, 32, 3]. CelebA's images are 178×218: the usual crop of 178×178 is their largest centred square."""
    from PIL import Image

    try:
        with Image.open(path) as image:
            return square(image.convert("RGB"), SIDE)
    except FileNotFoundError:
        raise BadInput(f"{path}: is listed in list_eval_partition.txt, but is not there; fetch CelebA again") from None
    except (OSError, ValueError, SyntaxError):  # PIL raises all three for damaged content
        raise CorruptFile(f"{path}: not a readable image; fetch CelebA again") from None


def _first_line(fault: Exception) -> str:
    return str(fault).strip().partition("\n")[0] or type(fault).__name__
