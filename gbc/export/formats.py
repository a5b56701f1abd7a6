"""An exported generator for programs without this package: a `torch.export` program, and ONNX.

Both take noise [K, noise_dim], labels [K] and, with several tasks, t [K], for any K, and return images [K, channels, height,
width]. Every file is read back after writing, and must draw the evaluation samples again.
"""

from __future__ import annotations

import importlib
import io
import logging
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import torch
from torch import Tensor

from gbc.errors import BadInput
from gbc.settings import suggest

if TYPE_CHECKING:
    from gbc.export.drawing import ExportedGenerator

ALWAYS: Final = "safetensors"
JUDGED_INPUTS: Final = "judged.npz"
"""File with the inputs of the evaluation samples, for programs that cannot draw torch's noise."""
ONNX_TOLERANCE: Final = 1e-4
_NAMES: Final = ("noise", "labels", "tasks")


@dataclass(frozen=True)
class Format:
    """A file format of an exported generator."""

    file: str
    write: Callable[[Path, ExportedGenerator], None]
    """Writes the file and compares the images that it draws with those of the generator.

    Raises:
        BadInput: the images differ.
    """
    needs: tuple[str, ...] = ()
    """Modules that the format needs, those of the package's extra of the same name."""


def parse_formats(text: str) -> list[str]:
    """The formats in a text like `safetensors,torch,onnx`, without safetensors, which is always written.

    Raises:
        BadInput: an unknown format.
    """
    formats: list[str] = []
    for name in (part.strip() for part in text.split(",")):
        if name != ALWAYS and name not in FORMATS:
            raise BadInput(f"--format: unknown format {name!r}; {suggest(name, [ALWAYS, *FORMATS])}")
        if name != ALWAYS and name not in formats:
            formats.append(name)
    return formats


def require_packages(formats: Sequence[str]) -> None:
    """Check that the packages for these formats are installed.

    Raises:
        BadInput: a package is missing.
    """
    for name in formats:
        for module in FORMATS[name].needs:
            try:
                importlib.import_module(module)
            except ImportError as fault:
                needs = " ".join(FORMATS[name].needs)
                raise BadInput(
                    f"--format {name}: the package {fault.name or module} is missing; pip install {needs}, "
                    f"or '.[{name}]' in a copy of this repository"
                ) from None


def program_inputs(generator: ExportedGenerator) -> bytes:
    """The content of the file `JUDGED_INPUTS`: the evaluation latents by the names of the programs' inputs, in order."""
    import numpy as np

    content = io.BytesIO()
    arrays: dict[str, Any] = {name: tensor.numpy() for name, tensor in _judged_inputs(generator).items()}
    np.savez(content, **arrays)
    return content.getvalue()


def write_program(path: Path, generator: ExportedGenerator) -> None:
    """Write the generator as a `torch.export` program, which must draw the evaluation samples bit for bit."""
    torch.export.save(_program(generator), path)
    with generator.judging.training_threads(), torch.no_grad():
        images = torch.export.load(path).module()(*_judged_inputs(generator).values())
    if not torch.equal(images, generator.judged()):
        raise BadInput(f"{path.name}: the exported program does not draw the generator's images; nothing was written")


def write_onnx(path: Path, generator: ExportedGenerator) -> None:
    """Write the generator as one ONNX file, which must draw the evaluation samples within `ONNX_TOLERANCE`."""
    import onnx
    import onnxruntime

    inputs = _judged_inputs(generator)
    with _quiet():
        program = torch.onnx.export(
            _program(generator), dynamo=True, input_names=list(inputs), output_names=["images"], verbose=False
        )
    assert program is not None
    program.save(path, external_data=False)
    onnx.checker.check_model(str(path), full_check=True)
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    images = session.run(None, {name: tensor.numpy() for name, tensor in inputs.items()})[0]
    difference = (torch.from_numpy(images) - generator.judged()).abs().max().item()
    if not difference <= ONNX_TOLERANCE:
        raise BadInput(f"{path.name}: images differ from torch's by {difference:.1e}; nothing was written")


FORMATS: Final = {
    "torch": Format("generator.pt2", write_program),
    "onnx": Format("generator.onnx", write_onnx, ("onnx", "onnxruntime", "onnxscript")),
}


def _program(generator: ExportedGenerator) -> torch.export.ExportedProgram:
    batch = torch.export.Dim("batch", min=1)
    inputs = _judged_inputs(generator)
    # At least two: torch.export treats a size of one as a constant.
    example = tuple(tensor[:2] for tensor in inputs.values())
    with torch.no_grad():
        return torch.export.export(generator.module, example, dynamic_shapes={name: {0: batch} for name in inputs})


def _judged_inputs(generator: ExportedGenerator) -> dict[str, Tensor]:
    module = generator.module
    latents = generator.judging.latents(module.noise_dim)
    return dict(zip(_NAMES[: 3 if module.tasks > 1 else 2], latents, strict=False))


@contextmanager
def _quiet() -> Iterator[None]:
    """Suppress the exporter's warnings and its messages about its progress."""
    logger: Any = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
