"""Real images for a generator that was trained without them: of its shape, with its labels."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from gbc.classifier_config import DatasetConfig
from gbc.data import datasets
from gbc.data.samples import ImageDataset
from gbc.errors import BadInput


def matched(config: DatasetConfig, shape: Sequence[int], class_names: Sequence[str]) -> tuple[ImageDataset, str | None]:
    """The images of `config` with the labels of `class_names`, and a remark where classes could not be matched by name.

    Images of the user's own become squares of the side of `shape` (channels, height, width). Classes are matched by their
    names, or by their order where a name differs.

    Raises:
        BadInput: as `datasets.load`, another shape, or another number of classes.
    """
    if config.name == "images" and config.resize is None and shape[1] == shape[2]:
        config = config.updated({"resize": shape[1]}, "--images")
    data = datasets.load(config)
    if data.shape != tuple(shape):
        raise BadInput(f"{config.path or config.name}: images of {list(data.shape)}; the generator makes {list(shape)}")
    if len(data.class_names) != len(class_names):
        raise BadInput(f"{config.path or config.name}: {len(data.class_names)} classes; the generator has {len(class_names)}")
    if data.class_names == tuple(class_names):
        return data, None
    if set(data.class_names) == set(class_names):
        order = [data.class_names.index(name) for name in class_names]
        return datasets.load(config.updated({"classes": order}, "dataset")), None
    pairs = [
        f"{expected} = {given}" for expected, given in zip(class_names, data.class_names, strict=True) if expected != given
    ]
    more = f" and {len(pairs) - 5} more" if len(pairs) > 5 else ""
    renamed = dataclasses.replace(data, class_names=tuple(class_names))
    return renamed, f"classes are matched by their order: {', '.join(pairs[:5])}{more}"
