"""An exported generator for those who do not have this package: a `torch.export` program, and ONNX.

Both take noise [K, noise_dim], labels [K] and, with several tasks, t [K], for any K, and give images [K, channels, height,
width]. What is written is read back and must draw the judged samples before it is anyone's.
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
"""The inputs that make the picture again, for programs that cannot draw torch's noise."""
ONNX_TOLERANCE: Final = 1e-4
_NAMES: Final = ("noise", "labels", "tasks")


@dataclass(frozen=True)
class Format:
    """A way to write a generator."""

    file: str
    write: Callable[[Path, ExportedGenerator], None]
    """Writes the file and compares what it draws.

    Raises:
        BadInput: it draws something else.
    """
    needs: tuple[str, ...] = ()
    """Modules of the extra of the same name."""


def named(text: str) -> list[str]:
    """The formats in `safetensors,torch,onnx`, without safetensors, which is always written.

    Raises:
        BadInput: an unknown one.
    """
    found = []
    for name in (part.strip() for part in text.split(",")):
        if name != ALWAYS and name not in FORMATS:
            raise BadInput(f"--format: unknown format {name!r}; {suggest(name, [ALWAYS, *FORMATS])}")
        if name != ALWAYS and name not in found:
            found.append(name)
    return found


def require(formats: Sequence[str]) -> None:
    """Whether these formats can be written here.

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
    """The content of `JUDGED_INPUTS`: the judged latents by the names of the programs' inputs, in order."""
    import numpy as np

    content = io.BytesIO()
    arrays: dict[str, Any] = {name: tensor.numpy() for name, tensor in _judged(generator).items()}
    np.savez(content, **arrays)
    return content.getvalue()


def write_program(path: Path, generator: ExportedGenerator) -> None:
    """The generator as a `torch.export` program, which must draw the judged samples bit for bit."""
    torch.export.save(_program(generator), path)
    with generator.judging.as_trained(), torch.no_grad():
        drawn = torch.export.load(path).module()(*_judged(generator).values())
    if not torch.equal(drawn, generator.judged()):
        raise BadInput(f"{path.name}: the exported program does not draw what the generator draws; nothing was written")


def write_onnx(path: Path, generator: ExportedGenerator) -> None:
    """The generator as one ONNX file, which must draw the judged samples to `ONNX_TOLERANCE`."""
    import onnx
    import onnxruntime

    judged = _judged(generator)
    with _quiet():
        found = torch.onnx.export(
            _program(generator), dynamo=True, input_names=list(judged), output_names=["images"], verbose=False
        )
    assert found is not None
    found.save(path, external_data=False)
    onnx.checker.check_model(str(path), full_check=True)
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    drawn = session.run(None, {name: tensor.numpy() for name, tensor in judged.items()})[0]
    apart = (torch.from_numpy(drawn) - generator.judged()).abs().max().item()
    if not apart <= ONNX_TOLERANCE:
        raise BadInput(f"{path.name}: images differ from torch's by {apart:.1e}; nothing was written")


FORMATS: Final = {
    "torch": Format("generator.pt2", write_program),
    "onnx": Format("generator.onnx", write_onnx, ("onnx", "onnxruntime", "onnxscript")),
}


def _program(generator: ExportedGenerator) -> torch.export.ExportedProgram:
    batch = torch.export.Dim("batch", min=1)
    judged = _judged(generator)
    # At least two: a size of one would be taken for a constant.
    example = tuple(tensor[:2] for tensor in judged.values())
    with torch.no_grad():
        return torch.export.export(generator.module, example, dynamic_shapes={name: {0: batch} for name in judged})


def _judged(generator: ExportedGenerator) -> dict[str, Tensor]:
    module = generator.module
    latents = generator.judging.latents(module.noise_dim)
    return dict(zip(_NAMES[: 3 if module.tasks > 1 else 2], latents, strict=False))


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the exporter's remarks on its own progress and insides."""
    logger: Any = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
