"""Data set `none`: the images of a classifier are not available, and its card describes them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from gbc.classifier_config import DatasetConfig
from gbc.data.samples import SIDE_STEP, Dataset
from gbc.errors import BadInput
from gbc.settings import digest

_OF_IMAGES: Final = ("per_class", "data_root", "download", "classes", "attribute", "path", "resize", "part")


@dataclass(frozen=True)
class DataFreeTask:
    """Classes and shape of the images of a classifier. There are no images: nothing can be trained or compared with them."""

    name: str
    class_names: tuple[str, ...]
    shape: tuple[int, ...]
    """(channels, height, width) of one image."""

    def digest(self) -> str:
        """Sixteen hex digits of the classes and the shape."""
        return digest({"class_names": self.class_names, "shape": self.shape})


TaskData = Dataset | DataFreeTask
"""The data of a task, or what is known of it without data."""


def data_free_task(config: DatasetConfig, shape: Sequence[int], class_names: Sequence[str], card: str) -> DataFreeTask:
    """The task of a classifier with `shape` and `class_names` on its card, which is named `card` in errors.

    Raises:
        BadInput: a setting of images, a shape or class names in `config` that the card contradicts, or a shape that no
            generator can make.
    """
    default = DatasetConfig(name=config.name)
    for setting in _OF_IMAGES:
        if getattr(config, setting) != getattr(default, setting):
            raise BadInput(f"dataset.{setting} is a setting of images; leave it out for dataset none, which has none")
    if config.shape is not None and config.shape != tuple(shape):
        raise BadInput(
            f"dataset.shape is {list(config.shape)}, but {card} says {list(shape)}; leave it out, or correct the card"
        )
    if config.class_names is not None and config.class_names != tuple(class_names):
        odd = [name for name in config.class_names if name not in class_names] or list(config.class_names)
        raise BadInput(
            f"dataset.class_names ({', '.join(odd[:5])}) are not those of {card} ({', '.join(class_names[:5])}, …), in this "
            "order; leave them out, or correct the card"
        )
    if len(shape) != 3:
        raise BadInput(f"{card}: shape {list(shape)} is of points; dataset none needs [channels, height, width]")
    if any(side % SIDE_STEP for side in shape[1:]):
        raise BadInput(f"{card}: shape {list(shape)}: height and width must be multiples of {SIDE_STEP} for a generator")
    return DataFreeTask(config.name, tuple(class_names), tuple(shape))
