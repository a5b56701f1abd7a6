"""Synthetic sets of any size as files: arrays, or a folder of images. The memory does not depend on the size.

Images are written in parts. The file or folder appears under its name when it is complete; an interruption leaves nothing.
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
OnWritten = Callable[[int], None]
"""Called with the number of images that were just written."""

_BLOCK: Final = 4096
_EPOCH: Final = (1980, 1, 1, 0, 0, 0)
"""Time stamp of files in an archive, so that equal images give equal files."""


class SyntheticSet:
    """`count` images whose labels alternate, so that the sizes of classes differ by at most one."""

    def __init__(self, generator: ExportedGenerator, classes: Sequence[int], count: int, seed: int) -> None:
        """`classes` are the generator's labels, at least one.

        Raises:
            BadInput: a label that the generator does not have.
        """
        generator.check_labels(torch.tensor(classes))
        self.generator, self.classes, self.count, self.seed = generator, tuple(classes), count, seed

    def check_room(self, out: Path, *, files: bool) -> None:
        """Check that the disk of `out` has room: images that are files of their own take a block each.

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
        """Labels of all images in order, in parts of `BATCH`."""
        turns = np.array(self.classes)
        for start in range(0, self.count, BATCH):
            yield turns[np.arange(start, min(start + BATCH, self.count)) % len(turns)]

    def images(self) -> Iterator[Tensor]:
        """Images [k, channels, height, width] in [0, 1], in order and in parts."""
        return self.generator.stream(map(torch.from_numpy, self.labels()), self.seed)


def write_arrays(path: Path, synthetic: SyntheticSet, on_written: OnWritten) -> None:
    """Write an .npz with `images` [K, channels, height, width] of bytes and `labels` [K].

    Raises:
        BadInput: it cannot be written.
    """
    with _replacing(path) as temporary, zipfile.ZipFile(temporary, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        with _array_member(archive, "images.npy", (synthetic.count, *synthetic.shape), np.uint8) as file:
            for images in synthetic.images():
                file.write(as_bytes(images).tobytes())
                on_written(len(images))
        with _array_member(archive, "labels.npy", (synthetic.count,), np.int64) as file:
            for labels in synthetic.labels():
                file.write(labels.astype(np.int64).tobytes())


def write_folder(path: Path, synthetic: SyntheticSet, on_written: OnWritten) -> None:
    """Write a folder for torchvision's ImageFolder: `3-Dress/000123.png`, with one numbering for the whole set.

    Raises:
        BadInput: it exists already, or cannot be written.
    """
    if path.exists():
        raise BadInput(f"{path}: exists already; choose another --out or remove it")
    number, digits = 0, max(6, len(str(synthetic.count - 1)))
    with _replacing(path) as temporary:
        folders = folder_names(synthetic.generator.class_names)
        for label in set(synthetic.classes):
            (temporary / folders[label]).mkdir(parents=True)
        for images in synthetic.images():
            for content in small_pngs(as_bytes(images)):
                label = synthetic.classes[number % len(synthetic.classes)]
                _write(f"{temporary}/{folders[label]}/{number:0{digits}}.png", content)
                number += 1
            on_written(len(images))


def _write(path: str, content: bytes) -> None:
    """Write a new file. Python's `open` would take as long as drawing the image."""
    file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
    try:
        if os.write(file, content) != len(content):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), path)
    finally:
        os.close(file)


def folder_names(class_names: Sequence[str]) -> list[str]:
    """Folder name of each label. Sorted by name they are in order of labels, so that ImageFolder numbers classes equally."""
    digits, plain = len(str(len(class_names) - 1)), [re.sub(r"[^\w .+-]", "_", name) for name in class_names]
    return [f"{label:0{digits}}-{name}" for label, name in enumerate(plain)]


def as_bytes(images: Tensor) -> NDArray[np.uint8]:
    """Images in [0, 1] as bytes, of the same shape."""
    # Not torch: its threads would wait for those that draw.
    return np.rint(images.numpy() * np.float32(255)).astype(np.uint8)


def small_pngs(images: NDArray[np.uint8]) -> Iterator[bytes]:
    """PNG files of images [k, channels, height, width] with one or three channels; for small ones four times as fast as Pillow.

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
def _array_member(archive: zipfile.ZipFile, name: str, shape: tuple[int, ...], kind: type) -> Iterator[IO[bytes]]:
    """An array in an archive, open for writing its bytes in C order."""
    header = {"descr": np.dtype(kind).str, "fortran_order": False, "shape": shape}
    member = zipfile.ZipInfo(name, _EPOCH)
    member.compress_type = zipfile.ZIP_DEFLATED
    with archive.open(member, "w", force_zip64=True) as file:
        np.lib.format.write_array_header_2_0(file, header)
        yield file


@contextmanager
def _replacing(path: Path) -> Iterator[Path]:
    """Temporary path for a file or folder, which is renamed to `path` when the context ends without an error."""
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
