"""The user's own classifier: a factory that makes the network, a file of weights, and a card that describes them.

`weight_files` reads the file of weights.

    # fashion_net.yaml, beside fashion_net.safetensors
    class_names: [T-shirt, Trouser, Pullover, Dress, Coat, Sandal, Shirt, Sneaker, Bag, Ankle boot]
    shape: [1, 28, 28]        # channels, height, width
    samples: 500              # N, the number of its training images
    mean: [0.286]             # of each channel; leave out mean and std if it takes images in [0, 1] unchanged
    std: [0.353]
    resize: [3, 32, 32]       # if the network takes other images than those of `shape`: they are resized for it, bilinearly,
                              # and grey is repeated for each of its channels; mean and std then have a number for each of these

Files are only read. The only code that runs is the user's factory.
"""

from __future__ import annotations

import hashlib
import importlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, Self

import torch
from pydantic import Field, field_validator, model_validator
from torch import Tensor, nn

from gbc.classifier_config import ClassifierConfig
from gbc.classifiers import adaptation
from gbc.errors import BadInput
from gbc.runtime import differentiable_attention
from gbc.settings import Config, load_yaml, suggest


class Card(Config):
    """Description of a classifier that its file of weights does not contain."""

    class_names: tuple[str, ...] = Field(min_length=2)
    shape: tuple[int, ...] = Field(description="(channels, height, width) of one image, or (d,) of one point")
    samples: int = Field(ge=1, description="N, the number of its training images")
    resize: tuple[int, ...] | None = Field(None, description="what the network takes, if it is not `shape`: images are resized")
    mean: tuple[float, ...] | None = Field(None, description="of each channel, subtracted from images in [0, 1]")
    std: tuple[float, ...] | None = Field(None, description="of each channel, divides the difference")

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Shape of the images that the network itself takes; those that are judged and generated have `shape`."""
        return self.resize or self.shape

    @field_validator("class_names")
    @classmethod
    def _names_differ(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        if repeated := [name for name in names if names.count(name) > 1]:
            raise ValueError(f"names class {repeated[0]!r} twice")
        return names

    @model_validator(mode="after")
    def _sizes_fit(self) -> Self:
        if len(self.shape) not in (1, 3) or min(self.shape) < 1:
            raise ValueError("shape must be three numbers above 0: channels, height, width")
        if self.resize is not None and (len(self.resize) != 3 or len(self.shape) != 3 or min(self.resize) < 1):
            raise ValueError("resize must be three numbers above 0: channels, height, width of what the network takes")
        if self.resize is not None and self.shape[0] not in (1, self.resize[0]):
            raise ValueError(f"resize has {self.resize[0]} channels, shape {self.shape[0]}: only one channel can be repeated")
        return self

    @model_validator(mode="after")
    def _normalisation_fits(self) -> Self:
        if (self.mean is None) != (self.std is None):
            raise ValueError("mean and std belong together; give both or neither")
        for name, values in (("mean", self.mean), ("std", self.std)):
            if values is not None and len(values) != self.input_shape[0]:
                source = "resize" if self.resize else "shape"
                raise ValueError(f"{name} has {len(values)} numbers, but {source} has {self.input_shape[0]} channels")
        if self.std is not None and min(self.std) <= 0:
            raise ValueError("std must be above 0")
        return self


class Preprocessed(nn.Module):
    """Φ((resized x − mean) / std): a network for the images of its training, on images in [0, 1] as generators make them.

    It is linear in x and has no parameters, so Λ stays as it is. The row space is that of the images as the network sees them.
    """

    mean: Tensor | None
    std: Tensor | None
    rows: Tensor | None
    columns: Tensor | None

    def __init__(self, module: nn.Module, card: Card) -> None:
        """`card` describes what `module` takes."""
        super().__init__()
        self.module = module
        self.channels = card.input_shape[0]
        for name, values in (("mean", card.mean), ("std", card.std)):
            by_channel = (-1, *[1] * (len(card.shape) - 1))  # [channels, 1, 1], or [d] for points
            self.register_buffer(name, None if values is None else torch.tensor(values).view(by_channel))
        for axis, name in ((1, "rows"), (2, "columns")):
            self.register_buffer(name, _interpolation(card.shape[axis], card.resize[axis]) if card.resize else None)

    def forward(self, x: Tensor) -> Tensor:
        """Images [M, channels, height, width] in [0, 1], or points [M, d], to logits [M, C]."""
        if self.rows is not None and self.columns is not None:
            # Products with matrices, because torch's own resizing adds up gradients in a random order on a GPU.
            x = (self.rows @ x @ self.columns.t()).expand(-1, self.channels, -1, -1)
        if self.mean is not None and self.std is not None:
            x = (x - self.mean) / self.std
        logits: Tensor = self.module(x)
        return logits


def _interpolation(inside: int, outside: int) -> Tensor:
    """The matrix [outside, inside] of bilinear resizing along one axis; weights of a smaller image are widened, as PIL does."""
    identity = torch.eye(inside)[None, None]
    size = (outside, inside)
    return nn.functional.interpolate(identity, size, mode="bilinear", antialias=True, align_corners=False)[0, 0]


def with_preprocessing(module: nn.Module, card: Card) -> nn.Module:
    """`module` after the card's resizing and normalisation, if the card has one of them."""
    return module if card.mean is None and card.resize is None else Preprocessed(module, card)


def call_factory(factory: str, seed: int, shape: tuple[int, ...]) -> nn.Module:
    """The network that `factory`, written package.module:factory, returns when called without arguments.

    torch's random generator is set to `seed` for the call, and restored afterwards. Lazy layers are made for inputs of `shape`.

    Raises:
        BadInput: there is no such module or factory, it fails, or it does not return a network.
    """
    path, _, name = factory.partition(":")
    module = _imported(path, factory)
    if not hasattr(module, name):
        raise BadInput(f"classifier {factory}: {path} has no {name!r}; {suggest(name, _public(module))}")
    return new_network(getattr(module, name), factory, seed, shape)


def new_network(make: Callable[[], Any], factory: str, seed: int, shape: tuple[int, ...]) -> nn.Module:
    """The network that `make` returns, for inputs of `shape`; `factory` names it in errors. The seed is as in `call_factory`.

    Raises:
        BadInput: as `call_factory`.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        try:
            network = make()
        except (BadInput, torch.OutOfMemoryError):
            raise
        except Exception as fault:
            raise BadInput(
                f"classifier {factory}: the factory failed when called without arguments: {one_line(fault)}"
            ) from fault
    differentiable_attention()
    if not isinstance(network, nn.Module):
        raise BadInput(f"classifier {factory}: the factory returned {type(network).__name__}, not a torch.nn.Module")
    adaptation.replace_hardsigmoids(network)
    try:
        adaptation.materialise(network, shape, seed)
    except Exception as fault:
        raise BadInput(f"classifier {factory}: does not take images of shape {list(shape)}: {one_line(fault)}") from fault
    if not list(network.parameters()):
        raise BadInput(f"classifier {factory}: the network has no parameters")
    return network.requires_grad_(True)


def source_digest(factory: str) -> str:
    """Sixteen hex digits of the file that defines `factory`; they change with its code. Raises as `call_factory`."""
    file = getattr(_imported(factory.partition(":")[0], factory), "__file__", None)
    return hashlib.sha256(Path(file).read_bytes()).hexdigest()[:16] if file else ""


def read_card(config: ClassifierConfig) -> Card:
    """The card of `config.weights`: the file `config.card`, or the one beside the weights with suffix .yaml.

    Raises:
        BadInput: there is no card, or one of its fields is missing or invalid.
    """
    assert config.weights is not None
    path = card_path(config)
    if not Path(config.weights).exists():  # checked first: a card is of no use without its weights
        raise BadInput(f"{config.weights}: cannot be read: there is no such file")
    if not config.card and not path.exists():
        raise BadInput(
            f"{config.weights}: no card {path.name} beside it; write class_names, shape and samples there, or give --card"
        )
    return Card.parse(load_yaml(path), str(path))


def card_path(config: ClassifierConfig) -> Path:
    """The card of `config.weights`: the one that is named, or the one beside them."""
    assert config.weights is not None
    return Path(config.card) if config.card else Path(config.weights).with_suffix(".yaml")


@torch.no_grad()
def check_outputs(module: nn.Module, shape: tuple[int, ...], outputs: int, source: str) -> None:
    """Check the outputs of `module` for two black images, in eval mode; `source` names it in errors.

    One logit is enough for two classes: they are then (−Φ/2, Φ/2) (`architectures.two_logits`).

    Raises:
        BadInput: it does not take images of `shape`, or does not give logits [M, outputs] in float32.
    """
    training = module.training
    try:
        logits = module.eval()(torch.zeros(2, *shape))
    except Exception as fault:
        raise BadInput(f"{source}: does not take images of shape {list(shape)}: {one_line(fault)}") from fault
    finally:
        module.train(training)
    if not isinstance(logits, Tensor):
        raise BadInput(f"{source}: returns {type(logits).__name__}, not a tensor of logits [M, {outputs}]")
    if logits.shape != (2, outputs) and not (outputs == 2 and logits.shape == (2, 1)):
        expected = "one output (loss is exponential)" if outputs == 1 else f"one logit for each of the {outputs} classes"
        raise BadInput(f"{source}: returns {list(logits.shape)} for two images, not [2, {outputs}]: {expected}")
    if logits.dtype != torch.float32:
        raise BadInput(
            f"{source}: returns {str(logits.dtype).removeprefix('torch.')}, not float32; call .float() in the factory"
        )


def _imported(path: str, factory: str) -> Any:
    try:
        return importlib.import_module(path)
    except ModuleNotFoundError as fault:
        if fault.name is not None and (path == fault.name or path.startswith(fault.name + ".")):
            raise BadInput(
                f"classifier {factory}: there is no module {fault.name!r} here; run the command from the folder that holds it"
            ) from None
        raise BadInput(f"classifier {factory}: {path} cannot be imported: {one_line(fault)}") from fault
    except Exception as fault:
        raise BadInput(f"classifier {factory}: {path} cannot be imported: {one_line(fault)}") from fault


def _public(module: Any) -> list[str]:
    return [name for name, value in vars(module).items() if callable(value) and not name.startswith("_")]


def one_line(fault: BaseException) -> str:
    """The kind of an exception and the start of what it says."""
    text = " ".join(str(fault).split())
    return f"{type(fault).__name__}: {text[:120]}" if text else type(fault).__name__
