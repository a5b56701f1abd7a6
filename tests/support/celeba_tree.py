"""A small folder in the layout that torchvision has for CelebA."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from gbc.data.celeba import ATTRIBUTE_LIST, ATTRIBUTES, FOLDER, IMAGES, PARTITION_LIST

WIDTH, HEIGHT = 178, 218


def plant(root: Path, *, train: int = 4, test: int = 2, attribute: str = "Male") -> Path:
    """`train` and `test` images with `attribute` and as many without; returns the folder.

    Those with it are reddish, the others bluish. No image has another attribute.
    """
    folder = root / FOLDER
    (folder / IMAGES).mkdir(parents=True)
    rng = np.random.default_rng(0)
    names, attributes, partition = [], [], []
    for split, count in ((0, train), (1, 1), (2, test)):
        for index in range(2 * count):
            has = index % 2 == 1
            pixels = rng.integers(0, 60, (HEIGHT, WIDTH, 3), dtype=np.uint8)
            pixels[..., 0 if has else 2] += 180
            name = f"{len(names) + 1:06}.jpg"
            Image.fromarray(pixels).save(folder / IMAGES / name)
            names.append(name)
            values = [1 if has and column == attribute else -1 for column in ATTRIBUTES]
            attributes.append(" ".join(f"{value:2}" for value in values))
            partition.append(str(split))
    header = f"{len(names)}\n{' '.join(ATTRIBUTES)} \n"  # with a blank at the end, as CelebA has it
    _write(folder / ATTRIBUTE_LIST, names, attributes, header)
    _write(folder / PARTITION_LIST, names, partition)
    return folder


def _write(path: Path, names: list[str], rows: list[str], header: str = "") -> None:
    path.write_text(header + "".join(f"{name} {row}\n" for name, row in zip(names, rows, strict=True)))
