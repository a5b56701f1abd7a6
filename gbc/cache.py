"""Cache folders, each filled once by the first process that needs it: trained networks that all trials of a sweep share."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

import torch
from filelock import FileLock
from torch import nn

from gbc.checkpoint import write_atomic
from gbc.errors import BadInput, CorruptFile

WEIGHTS: Final = "model.safetensors"


def fill_once(folder: Path, make: Callable[[], Mapping[str, bytes]]) -> None:
    """Fill `folder` with the files (name → content) that `make` returns, unless the folder exists already.

    Several processes may call this at once: one fills the folder, the others wait. The folder appears complete or not at all.

    Raises:
        BadInput: the folder cannot be written.
    """
    cache = folder.parent
    try:
        cache.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=cache):
            pass  # a lock in a folder like /proc, which is not read-only and takes no files, waits for ever
        with FileLock(cache / f".{folder.name}.lock"):
            if not folder.exists():
                _store(folder, make())
    except OSError as fault:
        raise BadInput(f"{cache}: cannot be written: {fault.strerror}") from None


def restore(folder: Path, module: nn.Module, record: str) -> dict[str, Any]:
    """Load the weights in `folder` into `module`, set it to eval mode and return the JSON file `record` beside them.

    Raises:
        CorruptFile: a file is missing, damaged or belongs to another architecture.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load as unpack

    try:
        content: dict[str, Any] = json.loads((folder / record).read_text())
        module.load_state_dict(unpack((folder / WEIGHTS).read_bytes()))
    except (OSError, ValueError, RuntimeError, SafetensorError) as fault:
        raise damaged_folder(folder, fault) from None
    module.eval()
    return content


def damaged_folder(folder: Path, fault: Exception) -> CorruptFile:
    """The one-line error for a cached folder that cannot be read."""
    reason = " ".join(str(fault).split())[:120]
    return CorruptFile(f"{folder}: the cached classifier is damaged ({reason}); delete the folder to obtain it again")


def weights_as_bytes(module: nn.Module) -> bytes:
    """The weights of `module` as the content of the file `WEIGHTS`, which `restore` reads."""
    from safetensors.torch import save

    # Each a tensor of its own: the format has no shared ones, as tied weights are, and none that are not contiguous.
    weights = module.state_dict().items()
    return save({name: tensor.cpu().clone(memory_format=torch.contiguous_format) for name, tensor in weights})


def _store(folder: Path, files: Mapping[str, bytes]) -> None:
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}.") as temporary:
        part = Path(temporary) / folder.name
        for name, content in files.items():
            write_atomic(part / name, content)
        os.replace(part, folder)
