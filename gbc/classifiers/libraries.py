"""Networks of other libraries by name: `torchvision:NAME`, `timm:NAME`, `huggingface:FOLDER`. Nothing is downloaded.

Their weights come from the user's file, as for a factory, or they are trained from their library's initialisation.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any, Final

import torch
from torch import Tensor, nn

from gbc.classifiers.custom import one_line
from gbc.errors import BadInput
from gbc.settings import suggest

_SAVED_WEIGHTS: Final = "model.safetensors"

Maker = Callable[[str, tuple[int, ...], int], nn.Module]
"""(name, shape of one image, number of outputs) → network."""


def is_library(factory: str) -> bool:
    """True for a factory that is the name of a network in a library."""
    return factory.partition(":")[0] in LIBRARIES


def make(factory: str, shape: tuple[int, ...], outputs: int) -> nn.Module:
    """The network LIBRARY:NAME for images of `shape`, with `outputs` classes and the library's random initialisation.

    Raises:
        BadInput: the library is not installed, has no such network, or makes none for such images.
    """
    library, _, name = factory.partition(":")
    if len(shape) != 3:
        raise BadInput(f"classifier {factory}: it takes images, and the data are points")
    try:
        return LIBRARIES[library](name, shape, outputs)
    except (BadInput, torch.OutOfMemoryError):
        raise
    except Exception as fault:
        raise BadInput(f"classifier {factory}: cannot be made for images of {list(shape)}: {one_line(fault)}") from fault


def source_digest(factory: str) -> str:
    """The text that stands for the code of a network: the library's version, or for a folder sixteen hex digits of its config.

    Raises:
        BadInput: as `make`.
    """
    library, _, name = factory.partition(":")
    if library == "huggingface":
        return hashlib.sha256(_config_file(name).read_bytes()).hexdigest()[:16]
    _imported(library)
    return f"{library} {importlib.metadata.version(library)}"


def check_weights(
    network: nn.Module, shape: tuple[int, ...], outputs: int, weights: Mapping[str, Tensor], files: tuple[str, str]
) -> None:
    """Check that `weights` have the input channels of `shape` and `outputs` classes, for which `network` was made by the card.

    `files` are the names of the weights and of the card, for errors.

    Raises:
        BadInput: they have others. The message names the tensor.
    """
    of_weights, of_card = files
    layers = [(name, layer) for name, layer in network.named_modules() if isinstance(layer, nn.Linear | nn.Conv2d)]
    for (name, layer), axis, wanted in ((layers[0], 1, shape[0]), (layers[-1], 0, outputs)):
        expected = f"{name}.weight"
        alike = [key for key in weights if _differ_by_prefix(key, expected)]
        key = min(alike, key=lambda key: abs(len(key) - len(expected)), default=None)
        if key is None or weights[key].ndim != layer.weight.ndim or (has := weights[key].shape[axis]) == wanted:
            continue
        if axis == 0:
            raise BadInput(f"{of_card}: {wanted} class_names, but {key!r} of {of_weights} has {has} classes")
        remedy = f"; resize: {[has, *shape[1:]]} repeats grey" if wanted == 1 else ""
        raise BadInput(f"{of_card}: the network takes {wanted} channels, but {key!r} of {of_weights} takes {has}{remedy}")


def _differ_by_prefix(first: str, second: str) -> bool:
    """True if two names are equal, or differ by a prefix alone."""
    return f".{first}".endswith(f".{second}") or f".{second}".endswith(f".{first}")


def torchvision_network(name: str, shape: tuple[int, ...], outputs: int) -> nn.Module:
    """A classifier of torchvision, whose first convolution takes as many channels as the images have."""
    models = importlib.import_module("torchvision.models")
    known = models.list_models(module=models)
    if name not in known:
        raise BadInput(f"classifier torchvision:{name}: torchvision has no such classifier; {suggest(name, known)}")
    arguments: dict[str, Any] = {"weights": None, "num_classes": outputs}
    if name.startswith("vit_"):
        arguments["image_size"] = shape[1]
    if name in ("googlenet", "inception_v3"):  # outputs of their side branches are no logits
        arguments |= {"aux_logits": False, "init_weights": False}
    network: nn.Module = models.get_model(name, **arguments)
    path, first = next((path, layer) for path, layer in network.named_modules() if isinstance(layer, nn.Conv2d))
    if first.in_channels != shape[0]:
        network.set_submodule(path, _with_channels(first, shape[0]))
    return network


def timm_network(name: str, shape: tuple[int, ...], outputs: int) -> nn.Module:
    """A classifier of timm for the size and the channels of the images."""
    timm = _imported("timm")
    if not timm.is_model(name):
        raise BadInput(f"classifier timm:{name}: timm has no such classifier; {suggest(name, timm.list_models())}")
    arguments: dict[str, Any] = {"pretrained": False, "num_classes": outputs, "in_chans": shape[0]}
    try:
        network: nn.Module = timm.create_model(name, **arguments, img_size=shape[1:])
    except TypeError:  # networks that take any size have no such argument
        network = timm.create_model(name, **arguments)
    return network


class Logits(nn.Module):
    """A network of transformers, which returns an object, as one that returns the logits in it."""

    def __init__(self, model: nn.Module) -> None:
        """`model` is an image classifier of transformers."""
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> Tensor:
        """Images [M, channels, height, width] to logits [M, C]."""
        logits: Tensor = self.model(pixel_values=x).logits
        return logits


def huggingface_network(name: str, shape: tuple[int, ...], outputs: int) -> nn.Module:
    """The image classifier that `config.json` in the folder `name` describes, for the size of the images and their classes."""
    config_file = _config_file(name)
    transformers = _imported("transformers")
    try:
        config = transformers.AutoConfig.from_pretrained(str(config_file.parent), local_files_only=True)
        config.num_labels = outputs
        for setting, value in (("num_channels", shape[0]), ("image_size", shape[1])):
            if isinstance(getattr(config, setting, None), int):
                setattr(config, setting, value)
        return Logits(transformers.AutoModelForImageClassification.from_config(config))
    except (OSError, ValueError, KeyError) as fault:
        reason = " ".join(str(fault).split())[:120]
        raise BadInput(f"{config_file}: transformers makes no image classifier of it: {reason}") from None


def renamed_weights(factory: str, path: Path) -> dict[str, Tensor] | None:
    """The weights in the folder of a network of transformers, under the names of this version; None for any other file.

    transformers keeps the names of its earlier versions in files, and knows the present ones.

    Raises:
        BadInput: weights are missing, or belong to another network.
    """
    library, _, folder = factory.partition(":")
    if library != "huggingface" or path.resolve() != (Path(folder) / _SAVED_WEIGHTS).resolve():
        return None
    transformers = _imported("transformers")
    transformers.utils.logging.disable_progress_bar()
    model, about = transformers.AutoModelForImageClassification.from_pretrained(
        folder, local_files_only=True, use_safetensors=True, output_loading_info=True, dtype="float32"
    )
    if wrong := sorted(map(str, (*about["missing_keys"], *about["mismatched_keys"]))):
        raise BadInput(f"{path}: weights of another architecture: {', '.join(wrong[:5])} missing or of another shape")
    weights: dict[str, Tensor] = Logits(model).state_dict()
    return weights


LIBRARIES: Final[dict[str, Maker]] = {
    "torchvision": torchvision_network,
    "timm": timm_network,
    "huggingface": huggingface_network,
}


def _config_file(folder: str) -> Path:
    path = Path(folder) / "config.json"
    try:
        json.loads(path.read_text())
    except OSError as fault:
        raise BadInput(f"{path}: cannot be read: {fault.strerror}") from None
    except ValueError:
        raise BadInput(f"{path}: is not JSON") from None
    return path


def _imported(library: str) -> ModuleType:
    try:
        return importlib.import_module(library)
    except ModuleNotFoundError as fault:
        if fault.name != library:
            raise
        extra = "huggingface" if library == "transformers" else library
        raise BadInput(f"{library} is not installed; it comes with `pip install -c constraints.txt -e '.[{extra}]'`") from None


def _with_channels(layer: nn.Conv2d, channels: int) -> nn.Conv2d:
    """A new convolution like `layer`, for images of another number of channels."""
    same: dict[str, Any] = {name: getattr(layer, name) for name in ("kernel_size", "stride", "padding", "dilation")}
    return nn.Conv2d(channels, layer.out_channels, bias=layer.bias is not None, **same)
