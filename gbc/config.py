"""Settings of a trial. YAML files, search spaces, MLflow parameters and checkpoint headers all follow these models."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Annotated, Any, Final, Literal, Self

from pydantic import Field, field_validator, model_validator

from gbc.settings import Config

ClassIndex = Annotated[int, Field(ge=0, le=255)]
LAST_SEED: Final = 2**63 - 1
MOST_STEPS: Final = 10**9
_TRANSFORMERS: Final = "huggingface"


class DatasetConfig(Config):
    """Training data of a classifier; Without `data_root` it comes with this package or one of its dependencies.

    `none` stands for a classifier of whose images there are none.
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
    resize: int | None = Field(None, ge=4, le=512, multiple_of=4, description="of images: the side of the square they become")
    part: Literal[1, 2] | None = Field(None, description="of circle: one half of the points, D1 or D2 of section 5.1")
    shape: tuple[int, ...] | None = Field(None, description="of none: [channels, height, width]; default: the card's")
    class_names: tuple[str, ...] | None = Field(None, description="of none; default: the card's")

    @property
    def data_free(self) -> bool:
        """True if there are no images: samples are compared with none."""
        return self.name == "none"

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
            found = {"weights": weights} if os.path.exists(weights) else {}
            return {"factory": f"{_TRANSFORMERS}:{folder}", **found}
        return {"factory": text} if library else {"name": text, "factory": None}

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
    weights: dict[str, float] = Field(default_factory=dict, description="factors on single loss weights, for it alone")


class TrialClassifierConfig(Config):
    """One classifier of a trial, its training data, and the task whose samples it receives."""

    classifier: ClassifierConfig
    dataset: DatasetConfig
    task: int
    """t, the classifier index that the generator is given (Algorithm 2)."""
    weights: dict[str, float] = Field(default_factory=dict)

    def factor(self, loss: str) -> float:
        """Factor on the weight of `loss` for this classifier; 1 if none is set."""
        return self.weights.get(loss, 1.0)


class TrialConfig(Config):
    """Settings of one training run of one generator: those of Table 2 in the supplement, then ours."""

    # Table 2: what the paper searches
    lr: float = Field(1e-3, gt=0, le=1, description="Adam's learning rate")
    batch_size: int = Field(128, ge=2, le=65536, description="M, generated samples a step")
    weight_decay: float = Field(1e-4, ge=0, le=1, description="of the generator and of the multiplier network")
    beta: float = Field(1.0, ge=0, le=1e6, description="weight of the duality loss, Eq. (7)")
    tv_weight: float = Field(3e-3, ge=0, le=1e6, description="weight of the total variation")

    # further losses; a loss of weight 0 is not computed
    stationarity_weight: float = Field(1.0, ge=0, le=1e6, description="weight of the stationarity loss, Eq. (5)")
    bn_weight: float = Field(0.0, ge=0, le=1e6, description="weight of BatchNorm-statistics matching")
    ce_weight: float = Field(0.0, ge=0, le=1e6, description="weight of the classifier's cross-entropy")

    closed_weight: float = Field(0.0, ge=0, le=1e6, description="weight of the closed form wd·ζ = −∇CE")
    row_space_weight: float = Field(0.0, ge=0, le=1e6, description="weight of the row space of the first layer")
    diversity_weight: float = Field(0.0, ge=0, le=1e6, description="weight of the diversity loss")
    border_weight: float = Field(0.0, ge=0, le=1e6, description="weight of the edges between samples and the black around them")
    reconstruction_weight: float = Field(0.0, ge=0, le=1e6, description="weight of Haim et al.'s loss, with free multipliers")

    # the KKT conditions
    delta: float = Field(0.1, gt=0, le=1e3, description="δ of Eq. (6), the width of the slack")
    alpha_init: float = Field(0.0, ge=-50, le=50, description="initial value of a learned α")
    lambda_policy: Literal["last_layer", "min_norm", "uniform", "given"] = Field(
        "last_layer", description="rule that chooses one solution Λ of Eq. (10)"
    )
    lambda_values: dict[str, float] | None = Field(None, description="λ of named tensors, for the policy `given`")
    bn_mode: Literal["train", "eval"] = Field("train", description="BatchNorm statistics of Φ: the batch's or the stored")

    estimator: Literal["norm", "relative", "cosine", "halves"] = Field(
        "norm", description="of the stationarity loss: Eq. (5); ρ; 1 − cosine of each tensor; or unbiased"
    )
    alpha: Literal["learned", "last_layer"] = Field(
        "learned", description="last_layer: α is fixed at its value for the last layer of a converged classifier"
    )
    multiplier_floor: float = Field(0.0, ge=0, le=1e3, description="lower bound of μ, in units of its initial scale")
    kkt_from: float = Field(0.0, ge=0, lt=1, description="the KKT losses start after this share of the run")
    surrogate: float = Field(0.0, ge=0, le=1e4, description="a: derivative σ(a·z) for the ReLU of Φ; 0: the usual one")

    # free multipliers
    multipliers: Literal["network", "free", "free_by_class"] = Field(
        "network",
        description="free: one λ for each image of generator pixels; free_by_class: one for each image and wrong class",
    )
    lambda_min: float = Field(0.0, ge=0, le=1e3, description="λ_min: lower bound of free multipliers")
    multiplier_rate: float = Field(1.0, gt=0, le=1e3, description="learning rate of free multipliers, in units of lr")

    # the row space
    row_space_eps: float = Field(1e-3, gt=0, le=1, description="ε: directions weaker than √ε times the strongest count little")
    row_space_level: float = Field(0.0, ge=0, lt=1, description="h: the share of a sample's energy outside that is free")
    row_space_layers: Literal["first", "all"] = Field("first", description="all: later layers too, by their own inputs")

    # latents
    bank: int = Field(
        0,
        ge=0,
        le=1_000_000,
        description="size of a fixed bank of latents; 0: only fresh latents; batch_size: every batch is the whole bank",
    )
    bank_share: float = Field(1.0, ge=0, le=1, description="share of a batch that is drawn from the bank")
    bank_jitter: float = Field(0.0, ge=0, le=10, description="noise around a latent of the bank, in standard deviations")

    # networks
    generator: Literal["convolutional", "pixels"] = Field("convolutional", description="pixels: the images themselves")
    candidates: int = Field(0, ge=0, le=10**7, description="number of images of generator pixels; 0: as many as are evaluated")
    pixel_start: float = Field(0.3, gt=0, le=10, description="standard deviation of random initial pixels, before the sigmoid")
    noise_dim: int = Field(64, ge=1, le=4096)
    width: int = Field(512, ge=1, le=65536, description="units of the generator's fully connected layers")
    channels: int = Field(64, ge=4, le=4096, description="channels of the generator's first feature map")
    multiplier_width: int = Field(256, ge=1, le=65536, description="units of the multiplier network's hidden layers")

    # the run
    steps: int = Field(1500, ge=1, le=MOST_STEPS, description="optimiser steps of the full horizon")
    report_every: int = Field(100, ge=1, le=MOST_STEPS, description="optimiser steps between reports")
    lr_schedule: Literal["constant", "cosine"] = "constant"
    ema_decay: float = Field(
        0.0,
        ge=0,
        lt=1,
        description="decay of the generator's moving average, which is then evaluated and exported; 0: no average",
    )
    eval_per_class: int = Field(50, ge=1, le=10_000, description="generated images of each class for the evaluation")
    student_steps: int = Field(
        0, ge=0, le=10_000, description="training steps of the network for tstr/cnn at each report; 0: no tstr/cnn"
    )
    seed: int = Field(0, ge=0, le=LAST_SEED)
    device: str = Field("auto", pattern=r"^(auto|cpu|cuda(:\d+)?)$")

    dataset: DatasetConfig = DatasetConfig()
    classifier: ClassifierConfig = ClassifierConfig()
    weights: dict[str, float] = Field(
        default_factory=dict, description="factors on single loss weights, for the first classifier alone"
    )
    experts: tuple[ExpertConfig, ...] = Field((), description="further classifiers (Algorithm 2)")

    def rooted(self, root: str) -> Self:
        """A copy that reads every data set from this torchvision root."""
        data = self.model_dump(mode="json")
        for part in (data, *data["experts"]):
            if part["dataset"]:
                part["dataset"]["data_root"] = root
        return self.parse(data, "--data-root")

    def classifiers(self) -> list[TrialClassifierConfig]:
        """Every classifier with its data, in order. Classifiers with the same data share a task, and so their samples."""
        first = TrialClassifierConfig(classifier=self.classifier, dataset=self.dataset, task=0, weights=self.weights)
        specs, task_of = [first], {self.dataset.digest(): 0}
        for expert in self.experts:
            data = expert.dataset or self.dataset
            task = task_of.setdefault(data.digest(), len(task_of))
            specs.append(TrialClassifierConfig(classifier=expert.classifier, dataset=data, task=task, weights=expert.weights))
        return specs

    @property
    def data_free(self) -> bool:
        """True if a classifier has no images: samples are then compared with none."""
        return any(spec.dataset.data_free for spec in self.classifiers())

    def loss_weights(self) -> dict[str, float]:
        """The weight of each loss in the total, {name: weight}: Eq. (7) and our further losses."""
        return {loss: getattr(self, setting) for loss, setting in LOSS_WEIGHTS.items()}

    @model_validator(mode="after")
    def _numbers_are_given_to_the_policy_given(self) -> Self:
        if (self.lambda_policy == "given") != (self.lambda_values is not None):
            raise ValueError(
                f"lambda_values belong to lambda_policy 'given' (it is {self.lambda_policy!r}): set both or neither"
            )
        return self

    @model_validator(mode="after")
    def _reports_divide_the_run(self) -> Self:
        if self.steps % self.report_every:
            raise ValueError(f"steps ({self.steps}) must be a multiple of report_every ({self.report_every})")
        return self

    @model_validator(mode="after")
    def _a_start_belongs_to_a_learned_alpha(self) -> Self:
        if self.alpha == "last_layer" and self.alpha_init:
            raise ValueError(f"alpha_init ({self.alpha_init}) is where a learned α starts; alpha is 'last_layer'")
        return self

    @model_validator(mode="after")
    def _pixels_stand_alone(self) -> Self:
        if self.generator == "pixels" and (self.bank or self.diversity_weight or any(e.dataset for e in self.experts)):
            raise ValueError("generator pixels has no latents: it takes no bank, no diversity and no expert with its own data")
        return self

    @model_validator(mode="after")
    def _pixels_have_no_average(self) -> Self:
        if self.generator == "pixels" and self.ema_decay:
            raise ValueError("ema_decay averages a generator's weights; generator pixels has none: set it to 0")
        return self

    @model_validator(mode="after")
    def _free_multipliers_belong_to_pixels(self) -> Self:
        if self.generator != "pixels" and (self.multipliers != "network" or self.candidates):
            raise ValueError("free multipliers and candidates are numbers of fixed images: set generator to pixels")
        if self.multipliers == "network" and (self.reconstruction_weight or self.lambda_min or self.multiplier_rate != 1):
            raise ValueError(
                "reconstruction_weight, lambda_min and multiplier_rate need free multipliers: set multipliers to free"
            )
        return self


LOSS_WEIGHTS: Final = {"duality": "beta"} | {
    setting.removesuffix("_weight"): setting for setting in TrialConfig.model_fields if setting.endswith("_weight")
}
"""The setting that holds the weight of each loss."""
