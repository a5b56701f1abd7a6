"""Settings of a classifier, of its training and of its data."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Annotated, Any, Final, Literal, Self

from pydantic import Field, field_validator, model_validator

from gbc.settings import Config

ClassIndex = Annotated[int, Field(ge=0, le=255)]
LossFactors = dict[str, Annotated[float, Field(ge=0, le=1e6)]]
"""Factors on the weights of losses, by name."""
LAST_SEED: Final = 2**63 - 1
MOST_STEPS: Final = 10**9
_TRANSFORMERS: Final = "huggingface"


class DatasetConfig(Config):
    """Training data of a classifier. Without `data_root` they come with this package or one of its dependencies.

    The name `none` says that the classifier's images are not available.
    """

    name: str = "fashion_mnist"
    per_class: int = Field(50, ge=1, le=10_000_000, description="training images of each class (the paper: 50)")
    data_root: str | None = Field(None, description="a torchvision root with the full set")
    download: bool = Field(False, description="let torchvision fetch the full set into data_root")
    classes: Annotated[tuple[ClassIndex, ...], Field(strict=False)] | None = Field(
        None, description="only these classes, numbered anew from 0 in this order"
    )
    attribute: str | None = Field(None, description="of celeba: the attribute that divides the two classes; default Male")
    path: str | None = Field(None, description="of images: a folder with one folder a class, or an .npz file")
    resize: int | None = Field(None, ge=8, le=512, multiple_of=4, description="of images: the side of the square they become")
    part: Literal[1, 2] | None = Field(None, description="of circle: one half of the points, D1 or D2 of section 5.1")
    shape: tuple[int, ...] | None = Field(None, description="of none: [channels, height, width]; default: the card's")
    class_names: tuple[str, ...] | None = Field(None, description="of none; default: the card's")

    @property
    def data_free(self) -> bool:
        """True if there are no images: samples are compared with none."""
        return self.name == "none"

    def rooted(self, root: str | None) -> Self:
        """A copy that reads the full set from this torchvision root, if one is given."""
        return self.model_copy(update={"data_root": root}) if root else self

    @classmethod
    def named(cls, text: str) -> dict[str, Any]:
        """A data set by its name alone."""
        return {"name": text}

    @field_validator("path")
    @classmethod
    def _absolute(cls, path: str | None) -> str | None:
        """From the root on: workers run in other folders."""
        return None if path is None else os.path.abspath(os.path.expanduser(path))

    @field_validator("classes")
    @classmethod
    def _classes_are_a_choice(cls, classes: tuple[int, ...] | None) -> tuple[int, ...] | None:
        if classes is None:
            return None
        if len(classes) < 2:
            raise ValueError("must name at least two classes, for example [0, 1]")
        repeated = [label for label in classes if classes.count(label) > 1]
        if repeated:
            raise ValueError(f"names class {repeated[0]} twice")
        return classes

    @model_validator(mode="after")
    def _download_needs_a_root(self) -> Self:
        if self.download and self.data_root is None:
            raise ValueError("download needs data_root, the folder to download into")
        return self


class ClassifierConfig(Config):
    """Φ and how it was trained (supplement C.2: full-batch gradient descent on mean cross-entropy with weight decay).

    A classifier of the user's own is a `factory` and, when it is trained already, `weights` with a `card`
    (`gbc.classifiers.custom.Card`).
    """

    name: str = "mlp_bn"
    hidden: int = Field(256, ge=1, le=65536, description="units of each hidden layer; channels follow from it")
    depth: int = Field(2, ge=1, le=64, description="hidden layers of mlp and mlp_bn")
    loss: Literal["cross_entropy", "exponential"] = Field(
        "cross_entropy", description="exponential: one output for two classes, supplement B.2"
    )
    optimiser: Literal["gd", "converge", "sgd"] = Field(
        "gd",
        description="gd: gradient descent, as the paper; converge: momentum, cosine decay, then L-BFGS; "
        "sgd: momentum and cosine decay on mini-batches of 128",
    )
    lr: float = Field(0.01, gt=0, le=10)
    weight_decay: float = Field(1e-4, ge=0, le=1)
    decay: Literal["not_scale_invariant", "all"] = Field(
        "not_scale_invariant", description="for converge: tensors with weight decay; all includes those before BatchNorm"
    )
    steps: int = Field(10_000, ge=1, le=MOST_STEPS, description="at most this many steps")
    polish: int = Field(600, ge=0, le=MOST_STEPS, description="at most this many iterations of L-BFGS; for converge")
    tolerance: float = Field(0.0, ge=0, description="stop early at this relative stationarity residual of every tensor")
    seed: int = Field(0, ge=0, le=LAST_SEED)
    first_scale: float = Field(
        1.0, gt=0, le=1, description="factor on the initial weights of the first layer; not used for a factory"
    )

    factory: str | None = Field(
        None, description="package.module:factory of your own network, torchvision:NAME, timm:NAME or huggingface:FOLDER"
    )
    weights: str | None = Field(None, description="a safetensors file or a torch state dict; then nothing is trained")
    card: str | None = Field(None, description="YAML about the weights; by default beside them, with suffix .yaml")

    @classmethod
    def named(cls, text: str) -> dict[str, Any]:
        """A classifier by its name alone: one with a colon is a factory, a folder with config.json is one of transformers.

        The weights of such a folder are its model.safetensors, if it has that.
        """
        library, _, folder = text.rpartition(":")
        if library == _TRANSFORMERS or (text and not library and os.path.isfile(os.path.join(folder, "config.json"))):
            folder = os.path.abspath(os.path.expanduser(folder))  # workers run in other folders
            weights = os.path.join(folder, "model.safetensors")
            saved = {"weights": weights} if os.path.exists(weights) else {}
            return {"factory": f"{_TRANSFORMERS}:{folder}", **saved}
        return {"factory": text} if ":" in text else {"name": text, "factory": None}

    @model_validator(mode="before")
    @classmethod
    def _a_name_with_a_colon_is_a_factory(cls, data: Any) -> Any:
        if isinstance(data, dict) and ":" in str(data.get("name")) and not data.get("factory"):
            named = {key: value for key, value in cls.named(str(data["name"])).items() if not data.get(key)}
            return {**data, **named, "name": cls.model_fields["name"].default}
        return data

    @field_validator("factory")
    @classmethod
    def _factory_is_module_and_name(cls, factory: str | None) -> str | None:
        if factory is not None and factory.startswith(f"{_TRANSFORMERS}:/"):
            return factory
        if factory is not None and not re.fullmatch(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*", factory):
            raise ValueError("must be written package.module:factory, torchvision:NAME, timm:NAME or huggingface:FOLDER")
        return factory

    @model_validator(mode="after")
    def _a_card_belongs_to_weights(self) -> Self:
        if self.card is not None and self.weights is None:
            raise ValueError("card describes weights, and there are none")
        return self

    @property
    def label(self) -> str:
        """Name for people: that of the factory, or of the entry in `CLASSIFIERS`."""
        return re.sub(r"[^\w.-]", "_", re.split("[:/]", self.factory)[-1]) if self.factory else self.name


def classifier_flags(classifier: str | None, weights: str | None, card: str | None) -> dict[str, str | None]:
    """The command line's `--classifier`, `--weights` and `--card` as settings of a trial, with dotted keys.

    A classifier with a colon is a factory, else a name. Paths become absolute: workers run in other folders.
    """
    flags: dict[str, str | None] = {}
    if classifier is not None:
        flags |= {f"classifier.{key}": value for key, value in ClassifierConfig.named(classifier).items()}
    for name, path in (("weights", weights), ("card", card)):
        if path is not None:
            flags[f"classifier.{name}"] = str(Path(path).resolve())
    return flags


class ExpertConfig(Config):
    """A further classifier that the generator must satisfy."""

    classifier: ClassifierConfig = ClassifierConfig()
    dataset: DatasetConfig | None = Field(None, description="its data; without, that of the first classifier")
    weights: LossFactors = Field(default_factory=dict, description="factors on single loss weights, for it alone")


class TrialClassifierConfig(Config):
    """One classifier of a trial, its training data, and the task whose samples it receives."""

    classifier: ClassifierConfig
    dataset: DatasetConfig
    task: int
    """t, the classifier index that the generator is given (Algorithm 2)."""
    weights: LossFactors = Field(default_factory=dict)

    def factor(self, loss: str) -> float:
        """Factor on the weight of `loss` for this classifier; 1 if none is set."""
        return self.weights.get(loss, 1.0)
