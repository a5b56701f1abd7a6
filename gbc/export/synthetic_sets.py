"""Synthetic sets of any size as files: arrays, or a folder of images. Memory does not grow with the size.

Each takes images a part at a time and appears under its name when it is whole; what is broken off leaves nothing.
"""

from __future__ import annotations

import errno
import math
import os
import re
import shutil
import struct
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from gbc.errors import BadInput
from gbc.export.drawing import BATCH, ExportedGenerator

Labels = NDArray[np.int64]
Told = Callable[[int], None]
"""Hears how many images more are written."""

_BLOCK: Final = 4096
_EPOCH: Final = (1980, 1, 1, 0, 0, 0)
"""Of files in an archive: equal images make equal files."""


class SyntheticSet:
    """`count` images whose labels take turns, so that no class has two more than another."""

    def __init__(self, generator: ExportedGenerator, classes: Sequence[int], count: int, seed: int) -> None:
        """`classes` are the generator's labels, at least one.

        Raises:
            BadInput: a label the generator does not know.
        """
        generator.check_labels(torch.tensor(classes))
        self.generator, self.classes, self.count, self.seed = generator, tuple(classes), count, seed

    def check_room(self, out: Path, *, files: bool) -> None:
        """Whether the disk of `out` has room: images that are files of their own take a block each.

        Raises:
            BadInput: it has not.
        """
        there = next(path for path in out.resolve().parents if path.exists())
        each = max(_BLOCK, math.prod(self.shape)) if files else math.prod(self.shape) + np.dtype(np.int64).itemsize
        need, free = self.count * each, shutil.disk_usage(there).free
        if need > free:
            raise BadInput(
                f"--count {self.count}: takes about {need / 1e9:,.1f} GB, and {there} has {free / 1e9:,.1f} GB free; "
                f"at most {free // each} images fit"
            )

    @property
    def shape(self) -> tuple[int, int, int]:
        """(channels, height, width) of an image."""
        return self.generator.shape

    def labels(self) -> Iterator[Labels]:
        """Of all images in order, a part at a time."""
        turns = np.array(self.classes)
        for start in range(0, self.count, BATCH):
            yield turns[np.arange(start, min(start + BATCH, self.count)) % len(turns)]

    def images(self) -> Iterator[Tensor]:
        """[k, channels, height, width] in [0, 1], in order, a part at a time."""
        return self.generator.stream(map(torch.from_numpy, self.labels()), self.seed)


def write_arrays(path: Path, wanted: SyntheticSet, told: Told) -> None:
    """An .npz with `images` [K, channels, height, width] of bytes and `labels` [K].

    Raises:
        BadInput: it cannot be written.
    """
    with _replacing(path) as temporary, zipfile.ZipFile(temporary, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        with _member(archive, "images.npy", (wanted.count, *wanted.shape), np.uint8) as file:
            for images in wanted.images():
                file.write(as_bytes(images).tobytes())
                told(len(images))
        with _member(archive, "labels.npy", (wanted.count,), np.int64) as file:
            for labels in wanted.labels():
                file.write(labels.astype(np.int64).tobytes())


def write_folder(path: Path, wanted: SyntheticSet, told: Told) -> None:
    """A folder that torchvision's ImageFolder reads: `3-Dress/000123.png`, numbered through the whole set.

    Raises:
        BadInput: it exists already, or cannot be written.
    """
    if path.exists():
        raise BadInput(f"{path}: exists already; choose another --out or remove it")
    number, digits = 0, max(6, len(str(wanted.count - 1)))
    with _replacing(path) as temporary:
        folders = folder_names(wanted.generator.class_names)
        for label in set(wanted.classes):
            (temporary / folders[label]).mkdir(parents=True)
        for images in wanted.images():
            for content in small_pngs(as_bytes(images)):
                label = wanted.classes[number % len(wanted.classes)]
                _write(f"{temporary}/{folders[label]}/{number:0{digits}}.png", content)
                number += 1
            told(len(images))


def _write(path: str, content: bytes) -> None:
    """A new file. Python's own `open` takes as long as the drawing."""
    file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
    try:
        if os.write(file, content) != len(content):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), path)
    finally:
        os.close(file)


def folder_names(class_names: Sequence[str]) -> list[str]:
    """Of each label, so that their order by name is the order of labels, which is how ImageFolder numbers classes."""
    digits, plain = len(str(len(class_names) - 1)), [re.sub(r"[^\w .+-]", "_", name) for name in class_names]
    return [f"{label:0{digits}}-{name}" for label, name in enumerate(plain)]


def as_bytes(images: Tensor) -> NDArray[np.uint8]:
    """Images in [0, 1] as bytes, of the same shape."""
    # Not torch: its threads would wait here for those that draw.
    return np.rint(images.numpy() * np.float32(255)).astype(np.uint8)


def small_pngs(images: NDArray[np.uint8]) -> Iterator[bytes]:
    """PNG files of images [k, channels, height, width] with one channel or three; small ones four times as fast as Pillow.

    PNG specification, third edition: 8-bit greyscale or truecolour images in one IDAT chunk, every row with filter 0.
    """
    count, channels, height, width = images.shape
    rows = np.zeros((count, height, 1 + width * channels), np.uint8)
    rows[:, :, 1:] = images.transpose(0, 2, 3, 1).reshape(count, height, -1)
    start = b"\x89PNG\r\n\x1a\n" + _chunk(
        b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0 if channels == 1 else 2, 0, 0, 0)
    )
    end = _chunk(b"IEND", b"")
    for image in rows:
        yield start + _chunk(b"IDAT", zlib.compress(image, 1)) + end


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(data, zlib.crc32(kind)))


@contextmanager
def _member(archive: zipfile.ZipFile, name: str, shape: tuple[int, ...], kind: type) -> Iterator[IO[bytes]]:
    """An array in an archive, whose bytes in C order are then written."""
    described = {"descr": np.dtype(kind).str, "fortran_order": False, "shape": shape}
    entry = zipfile.ZipInfo(name, _EPOCH)
    entry.compress_type = zipfile.ZIP_DEFLATED
    with archive.open(entry, "w", force_zip64=True) as file:
        np.lib.format.write_array_header_2_0(file, described)
        yield file


@contextmanager
def _replacing(path: Path) -> Iterator[Path]:
    """A place beside `path` to write a file or folder at, which takes the name when the context ends without a fault."""
    temporary: Path | None = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}.{os.getpid()}-"))
        yield temporary / path.name
        os.replace(temporary / path.name, path)
    except OSError as fault:
        raise BadInput(f"{path}: cannot be written: {fault.strerror or fault}") from None
    finally:
        if temporary is not None:
            shutil.rmtree(temporary, ignore_errors=True)
