"""The one schema: YAML files, search spaces, MLflow parameters and checkpoint headers are all these models."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Any, Final, Literal, Self

from pydantic import Field, field_validator, model_validator

from gbc.settings import Config

ClassIndex = Annotated[int, Field(ge=0, le=255)]
LAST_SEED: Final = 2**63 - 1
MOST_STEPS: Final = 10**9


class DatasetConfig(Config):
    """What the classifier was trained on. Without `data_root`: what ships with the package or its dependencies."""

    name: str = "fashion_mnist"
    per_class: int = Field(50, ge=1, le=10_000_000, description="training images of each class (the paper: 50)")
    data_root: str | None = Field(None, description="a torchvision root with the full set")
    download: bool = Field(False, description="let torchvision fetch the full set into data_root")
    classes: Annotated[tuple[ClassIndex, ...], Field(strict=False)] | None = Field(
        None, description="only these classes, numbered anew from 0 in this order"
    )
    attribute: str | None = Field(None, description="of celeba: what the two classes differ in; Male by default")
    part: Literal[1, 2] | None = Field(None, description="of circle: one half of the points, D1 or D2 of section 5.1")

    @classmethod
    def named(cls, text: str) -> dict[str, Any]:
        """A data set by its name alone."""
        return {"name": text}

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
    optimiser: Literal["gd", "converge"] = Field(
        "gd", description="gd: gradient descent, as the paper; converge: momentum, cosine decay, then L-BFGS"
    )
    lr: float = Field(0.01, gt=0, le=10)
    weight_decay: float = Field(1e-4, ge=0, le=1)
    decay: Literal["not_scale_invariant", "all"] = Field(
        "not_scale_invariant", description="of converge, which tensors decay: all, also those that feed BatchNorm"
    )
    steps: int = Field(10_000, ge=1, le=MOST_STEPS, description="at most this many steps")
    polish: int = Field(600, ge=0, le=MOST_STEPS, description="at most this many iterations of L-BFGS; for converge")
    tolerance: float = Field(0.0, ge=0, description="stop early at this relative stationarity residual of every tensor")
    seed: int = Field(0, ge=0, le=LAST_SEED)
    first_scale: float = Field(
        1.0, gt=0, le=1, description="factor on the start of the first layer; a factory has a start of its own"
    )

    factory: str | None = Field(None, description="package.module:factory of your own network; called without arguments")
    weights: str | None = Field(None, description="a safetensors file or a torch state dict; nothing is trained then")
    card: str | None = Field(None, description="YAML about the weights; by default beside them, with suffix .yaml")

    @classmethod
    def named(cls, text: str) -> dict[str, Any]:
        """A classifier by its name alone: one with a colon is a factory."""
        return {"factory": text} if ":" in text else {"name": text, "factory": None}

    @field_validator("factory")
    @classmethod
    def _factory_is_module_and_name(cls, factory: str | None) -> str | None:
        if factory is not None and not re.fullmatch(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*", factory):
            raise ValueError("must be written package.module:factory")
        return factory

    @model_validator(mode="after")
    def _a_card_belongs_to_weights(self) -> Self:
        if self.card is not None and self.weights is None:
            raise ValueError("card describes weights, and there are none")
        return self

    @property
    def label(self) -> str:
        """What to call it: the name of the factory, or of the entry in `CLASSIFIERS`."""
        return self.factory.partition(":")[2] if self.factory else self.name


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
    """One classifier under study: what it is, what it was trained on, which samples it is shown."""

    classifier: ClassifierConfig
    dataset: DatasetConfig
    task: int
    """t, the classifier index that the generator is given (Algorithm 2)."""
    weights: dict[str, float] = Field(default_factory=dict)

    def factor(self, loss: str) -> float:
        """What the weight of a loss is multiplied by for this classifier."""
        return self.weights.get(loss, 1.0)


class TrialConfig(Config):
    """One training run of one generator. The names of Table 2 in the supplement, then ours."""

    # Table 2: what the paper searches
    lr: float = Field(1e-3, gt=0, le=1, description="Adam's learning rate")
    batch_size: int = Field(128, ge=2, le=65536, description="M, generated samples a step")
    weight_decay: float = Field(1e-4, ge=0, le=1, description="of the generator and of the multiplier network")
    beta: float = Field(1.0, ge=0, le=1e6, description="weight of the duality loss, Eq. (7)")
    tv_weight: float = Field(3e-3, ge=0, le=1e6, description="weight of the total variation")

    # further losses; 0 leaves one out at no cost
    stationarity_weight: float = Field(1.0, ge=0, le=1e6, description="weight of the stationarity loss, Eq. (5)")
    bn_weight: float = Field(0.0, ge=0, le=1e6, description="weight of BatchNorm-statistics matching")
    ce_weight: float = Field(0.0, ge=0, le=1e6, description="weight of the classifier's cross-entropy")

    closed_weight: float = Field(0.0, ge=0, le=1e6, description="weight of the closed form wd·ζ = −∇CE")
    row_space_weight: float = Field(0.0, ge=0, le=1e6, description="weight of the row space of the first layer")
    diversity_weight: float = Field(0.0, ge=0, le=1e6, description="weight of the diversity loss")
    reconstruction_weight: float = Field(0.0, ge=0, le=1e6, description="weight of Haim et al.'s loss, with free multipliers")

    # the KKT conditions
    delta: float = Field(0.1, gt=0, le=1e3, description="δ of Eq. (6), the width of the slack")
    alpha_init: float = Field(0.0, ge=-50, le=50, description="α at the start, where it is learned")
    lambda_policy: Literal["last_layer", "min_norm", "uniform", "given"] = Field(
        "last_layer", description="which solution Λ of Eq. (10) is taken"
    )
    lambda_values: dict[str, float] | None = Field(None, description="λ of named tensors, for the policy `given`")
    bn_mode: Literal["train", "eval"] = Field("train", description="statistics Φ normalises by: the batch's or its own")

    estimator: Literal["norm", "relative", "cosine", "halves"] = Field(
        "norm", description="of the stationarity loss: Eq. (5); ρ; 1 − cosine of each tensor; or unbiased"
    )
    alpha: Literal["learned", "last_layer"] = Field(
        "learned", description="last_layer: α stays where the last layer of a converged classifier puts it"
    )
    multiplier_floor: float = Field(0.0, ge=0, le=1e3, description="μ is at least this, in units of its scale at the start")
    kkt_from: float = Field(0.0, ge=0, lt=1, description="share of the run after which the KKT losses join in")
    surrogate: float = Field(0.0, ge=0, le=1e4, description="a: Φ's ReLU gets the derivative σ(a·z); 0 keeps its own")

    # free multipliers
    multipliers: Literal["network", "free", "free_by_class"] = Field(
        "network",
        description="free: a number λ for each image of generator pixels, or for each and wrong class; steps take all",
    )
    lambda_min: float = Field(0.0, ge=0, le=1e3, description="λ_min: no free multiplier is smaller")
    multiplier_rate: float = Field(1.0, gt=0, le=1e3, description="learning rate of free multipliers, in units of lr")

    # the row space
    row_space_eps: float = Field(1e-3, gt=0, le=1, description="ε: directions weaker than √ε of the strongest count little")
    row_space_level: float = Field(0.0, ge=0, lt=1, description="h: the share of a sample's energy outside that is free")
    row_space_layers: Literal["first", "all"] = Field("first", description="all: later layers too, by their own inputs")

    # where latents come from
    bank: int = Field(
        0,
        ge=0,
        le=1_000_000,
        description="size of a fixed bank of latents; 0: fresh ones only; batch_size: every batch all of it",
    )
    bank_share: float = Field(1.0, ge=0, le=1, description="share of a batch that is drawn from the bank")
    bank_jitter: float = Field(0.0, ge=0, le=10, description="noise around a latent of the bank, in standard deviations")

    # networks
    generator: Literal["convolutional", "pixels"] = Field("convolutional", description="pixels: the images themselves")
    candidates: int = Field(0, ge=0, le=10**7, description="how many images generator pixels has; 0: as many as are judged")
    pixel_start: float = Field(0.3, gt=0, le=10, description="standard deviation of their random start, before the sigmoid")
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
        description="of the moving average of the generator that is judged and exported; 0: the generator itself",
    )
    eval_per_class: int = Field(50, ge=1, le=10_000, description="generated images of each class that are judged")
    student_steps: int = Field(
        0, ge=0, le=10_000, description="of a network that learns from the judged images at each report, for tstr/cnn; 0: none"
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
        """The same with every data set read from this torchvision root."""
        data = self.model_dump(mode="json")
        for part in (data, *data["experts"]):
            if part["dataset"]:
                part["dataset"]["data_root"] = root
        return self.parse(data, "--data-root")

    def classifiers(self) -> list[TrialClassifierConfig]:
        """Every classifier with its data, in order. Those of the same data share samples and with them a task."""
        first = TrialClassifierConfig(classifier=self.classifier, dataset=self.dataset, task=0, weights=self.weights)
        found, task_of = [first], {self.dataset.digest(): 0}
        for expert in self.experts:
            data = expert.dataset or self.dataset
            task = task_of.setdefault(data.digest(), len(task_of))
            found.append(TrialClassifierConfig(classifier=expert.classifier, dataset=data, task=task, weights=expert.weights))
        return found

    def loss_weights(self) -> dict[str, float]:
        """The weight of each loss in the total, Eq. (7) and what we add to it: {name: weight}."""
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
