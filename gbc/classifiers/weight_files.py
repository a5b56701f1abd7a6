"""Files of weights as training programs write them, read without running any code.

A file may be safetensors or torch's, and hold a state dict alone or among other things, as Lightning and many scripts save it.
Names may begin with what DataParallel, `torch.compile` or an enclosing module put before them: one common prefix is taken off.
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor, nn

from gbc.classifiers.custom import one_line
from gbc.errors import BadInput, CorruptFile

_SAFETENSORS: Final = ".safetensors"
_STATE_DICTS: Final = ("state_dict", "model_state_dict", "model", "network", "net", "weights")
"""Keys under which programs save a state dict beside other things, the usual ones first."""
_NAMED: Final = 5
"""So many keys are named in a message."""
_CONVERSION: Final = (
    "model = torch.load({path!r}, weights_only=False); torch.save(model.state_dict(), 'weights.pt')  "
    "# run this yourself if you trust the file"
)


def read_weights(path: Path) -> dict[str, Tensor]:
    """The state dict in a safetensors file, or in a torch file of plain values; one that lies under a usual key is found.

    Raises:
        BadInput: there is no such file, loading it would run code, it holds no state dict, or a tensor is not plain and finite.
        CorruptFile: the file is damaged, or of another kind.
    """
    try:
        content = path.read_bytes()
    except OSError as fault:
        raise BadInput(f"{path}: cannot be read: {fault.strerror}") from None
    weights = _unpack_safetensors(path, content) if path.suffix == _SAFETENSORS else _unpack_torch(path, content)
    if isinstance(weights, Mapping):
        weights = next((weights[key] for key in _STATE_DICTS if isinstance(weights.get(key), Mapping)), weights)
    if not isinstance(weights, Mapping) or not weights:
        raise BadInput(f"{path}: holds {type(weights).__name__}, not a state dict; save model.state_dict()")
    for name, tensor in weights.items():
        if not isinstance(name, str):
            raise BadInput(f"{path}: {name!r} is no name of a tensor; save model.state_dict() alone")
        if not isinstance(tensor, Tensor):
            raise BadInput(f"{path}: {name!r} is {type(tensor).__name__}, not a tensor; save model.state_dict() alone")
        if tensor.layout != torch.strided or tensor.is_meta or tensor.is_quantized or tensor.is_complex():
            raise BadInput(
                f"{path}: {name!r} is sparse, quantised, complex or without values; save plain tensors of real numbers"
            )
        if not tensor.isfinite().all():
            raise BadInput(f"{path}: {name!r} holds NaN or infinity; this classifier cannot be used")
    return dict(weights)


def load_weights(module: nn.Module, weights: Mapping[str, Tensor], source: str) -> str:
    """Load `weights` into `module`, in its precision; `source` names their file in errors.

    Returns the prefix that was taken off their names, "" if none was.

    Raises:
        BadInput: they belong to another architecture. The message names the tensors that do not fit, five at most.
    """
    expected = module.state_dict()
    prefix = _common_prefix(weights, expected)
    # A network of transformers is inside `libraries.Logits`, its weights are saved without that.
    inner = "" if prefix else _common_prefix(expected, weights)
    named = {inner + name.removeprefix(prefix): tensor for name, tensor in weights.items()}
    faults = []
    if missing := [name for name in expected if name not in named]:
        faults.append(f"the file has no {_listed(missing)}")
    if left_over := [name for name in named if name not in expected]:
        faults.append(f"the network has no {_listed(left_over)}")
    shapes = [
        f"{name!r} is {list(named[name].shape)}, the network wants {list(tensor.shape)}"
        for name, tensor in expected.items() if name in named and named[name].shape != tensor.shape
    ]  # fmt: skip
    if shapes:
        faults.append("; ".join(shapes[:_NAMED]))
    if faults:
        raise BadInput(f"{source}: weights of another architecture: {'; '.join(faults)}")
    module.load_state_dict(named)
    return prefix


def _common_prefix(weights: Iterable[str], expected: Iterable[str]) -> str:
    """The longest beginning, up to a dot, that all names share and without which more of them are expected."""
    names, known = list(weights), set(expected)
    prefix, best, fitting = "", "", len(known.intersection(names))
    for part in names[0].split(".")[:-1]:
        prefix += f"{part}."
        if not all(name.startswith(prefix) for name in names):
            break
        if (count := len(known.intersection(name.removeprefix(prefix) for name in names))) > fitting:
            best, fitting = prefix, count
    return best


def _listed(names: list[str]) -> str:
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return ", ".join(map(repr, names[:_NAMED])) + more


def _unpack_safetensors(path: Path, content: bytes) -> Any:
    from safetensors import SafetensorError
    from safetensors.torch import load

    try:
        return load(content)
    except (SafetensorError, ValueError) as fault:
        raise CorruptFile(f"{path}: damaged, or not a safetensors file ({one_line(fault)})") from None


def _unpack_torch(path: Path, content: bytes) -> Any:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about the pickle protocol of files that are refused afterwards
            return torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except Exception as fault:  # a pickle of other bytes fails in any way
        # A plain pickle begins with its protocol; torch stops at the first opcode it does not know.
        if "GLOBAL" in str(fault) or "TorchScript" in str(fault) or content.startswith(b"\x80"):
            conversion = _CONVERSION.format(path=str(path))
            raise BadInput(f"{path}: refused, loading it would run code; convert it to a state dict: {conversion}") from None
        raise CorruptFile(f"{path}: damaged, or not a torch state dict") from None
