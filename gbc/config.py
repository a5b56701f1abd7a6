"""Settings of a trial. YAML files, search spaces, MLflow parameters and checkpoint headers all follow these models."""

from __future__ import annotations

from typing import Final, Literal, Self

from pydantic import Field, model_validator

from gbc.classifier_config import (
    LAST_SEED,
    MOST_STEPS,
    ClassifierConfig,
    DatasetConfig,
    ExpertConfig,
    LossFactors,
    TrialClassifierConfig,
)
from gbc.settings import Config


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
    contrast_weight: float = Field(0.0, ge=0, le=1e6, description="weight of the contrast with features of earlier batches")
    contrast_queue: int = Field(1024, ge=0, le=10**6, description="number of these features")
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
        description="size of a fixed bank of latents; 0: only fresh latents; batch_size: every batch is the whole bank, "
        "if it is a multiple of the number of classes",
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
    weights: LossFactors = Field(
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
            raise ValueError(
                f"steps ({self.steps}) must be a multiple of report_every ({self.report_every}); "
                f"report_every={fitting_reports(self.steps, self.report_every)} would fit"
            )
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


def fitting_reports(steps: int, every: int) -> int:
    """The largest interval of reports up to `every` that divides `steps` and gives a trial about four reports."""
    return next(size for size in range(min(every, max(1, steps // 4)), 0, -1) if steps % size == 0)
