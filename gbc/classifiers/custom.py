"""The user's own classifier: a factory that makes the network, a file of weights, and a card that describes them.

`weight_files` reads the file of weights.

    # fashion_net.yaml, beside fashion_net.safetensors
    class_names: [T-shirt, Trouser, Pullover, Dress, Coat, Sandal, Shirt, Sneaker, Bag, Ankle boot]
    shape: [1, 28, 28]        # channels, height, width
    samples: 500              # N, the number of its training images
    mean: [0.286]             # of each channel; leave out mean and std if it takes images in [0, 1] unchanged
    std: [0.353]

Files are only read. The only code that runs is the user's factory.
"""

from __future__ import annotations

import hashlib
import importlib
from pathlib import Path
from typing import Any, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from gbc.classifiers import adaptation
from gbc.config import ClassifierConfig
from gbc.errors import BadInput
from gbc.runtime import differentiable_attention
from gbc.settings import Config, load_yaml, suggest


class Card(Config):
    """Description of a classifier that its file of weights does not contain."""

    class_names: tuple[str, ...] = Field(min_length=2)
    shape: tuple[int, ...] = Field(description="(channels, height, width) of one image, or (d,) of one point")
    samples: int = Field(ge=1, description="N, the number of its training images")
    mean: tuple[float, ...] | None = Field(None, description="of each channel, subtracted from images in [0, 1]")
    std: tuple[float, ...] | None = Field(None, description="of each channel, divides the difference")

    @model_validator(mode="after")
    def _normalisation_fits(self) -> Self:
        if (self.mean is None) != (self.std is None):
            raise ValueError("mean and std belong together; give both or neither")
        for name, values in (("mean", self.mean), ("std", self.std)):
            if values is not None and len(values) != self.shape[0]:
                raise ValueError(f"{name} has {len(values)} numbers, but shape has {self.shape[0]} channels")
        if self.std is not None and min(self.std) <= 0:
            raise ValueError("std must be above 0")
        if len(self.shape) not in (1, 3) or min(self.shape) < 1:
            raise ValueError("shape must be three numbers above 0: channels, height, width")
        return self


class Normalised(nn.Module):
    """Φ((x − mean) / std): a network trained on normalised images, for images in [0, 1] as generators make them."""

    mean: Tensor
    std: Tensor

    def __init__(self, module: nn.Module, mean: tuple[float, ...], std: tuple[float, ...]) -> None:
        """`mean` and `std` have one number for each channel."""
        super().__init__()
        self.module = module
        self.register_buffer("mean", torch.tensor(mean)[:, None, None])
        self.register_buffer("std", torch.tensor(std)[:, None, None])

    def forward(self, x: Tensor) -> Tensor:
        """Images [M, channels, height, width] in [0, 1] to logits."""
        logits: Tensor = self.module((x - self.mean) / self.std)
        return logits


def with_normalisation(module: nn.Module, card: Card) -> nn.Module:
    """`module` after the card's normalisation, if the card has one."""
    return module if card.mean is None or card.std is None else Normalised(module, card.mean, card.std)


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
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        try:
            network = getattr(module, name)()
        except torch.OutOfMemoryError:
            raise
        except Exception as fault:
            raise BadInput(
                f"classifier {factory}: the factory failed when called without arguments: {one_line(fault)}"
            ) from fault
    differentiable_attention()
    if not isinstance(network, nn.Module):
        raise BadInput(f"classifier {factory}: the factory returned {type(network).__name__}, not a torch.nn.Module")
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
    path = Path(config.card) if config.card else Path(config.weights).with_suffix(".yaml")
    if not Path(config.weights).exists():  # checked first: a card is of no use without its weights
        raise BadInput(f"{config.weights}: cannot be read: there is no such file")
    if not config.card and not path.exists():
        raise BadInput(
            f"{config.weights}: no card {path.name} beside it; write class_names, shape and samples there, or give --card"
        )
    return Card.parse(load_yaml(path), str(path))


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
