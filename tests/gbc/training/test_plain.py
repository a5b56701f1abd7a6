"""Our training step against its textbook form: the same loss, the same gradients, step after step."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch

from gbc.classifiers import architectures
from gbc.classifiers.architectures import Classifier
from gbc.config import TrialConfig
from gbc.training.trainer import Trainer
from tests.benchmarks.plain import Plain
from tests.benchmarks.step_differences import differences

SMALL: dict[str, Any] = {
    "batch_size": 30, "width": 16, "channels": 8, "noise_dim": 8, "multiplier_width": 16, "eval_per_class": 2, "steps": 4,
    "report_every": 1, "beta": 0.1, "tv_weight": 0.1, "device": "cpu", "classifier": {"hidden": 24},
}  # fmt: skip
MLP = {"name": "mlp", "hidden": 24, "weight_decay": 5e-3}
CASES: dict[str, dict[str, Any]] = {
    "the paper's losses": {},
    "the quick preset's losses": {
        "bn_weight": 5.0, "ce_weight": 0.05, "lr_schedule": "cosine", "estimator": "relative", "multiplier_floor": 0.1,
        "row_space_weight": 1.0, "row_space_level": 0.04, "diversity_weight": 0.01,
    },
    "BatchNorm by its own statistics": {"bn_mode": "eval", "bn_weight": 5.0},
    "no BatchNorm, Λ of all tensors, the closed form": {
        "classifier": MLP, "lambda_policy": "uniform", "closed_weight": 0.3, "ce_weight": 0.05, "alpha_init": 0.5,
        "row_space_weight": 0.5,
    },
    "the closed form, BatchNorm": {"closed_weight": 0.3},
    "convolutions": {"classifier": {"name": "conv", "hidden": 32}},
    "residual blocks": {"classifier": {"name": "resnet", "hidden": 64}, "bn_weight": 1.0},
    "KKT losses that join in late": {"kkt_from": 0.5, "ce_weight": 0.1},
    "two classifiers of the same data": {
        "bn_weight": 1.0, "weights": {"bn": 0.5}, "experts": [{"classifier": MLP, "weights": {"stationarity": 2.0}}],
    },
    "two classifiers of other classes": {
        "bn_weight": 1.0, "dataset": {"classes": [0, 1, 2]},
        "experts": [{"classifier": {"hidden": 20}, "dataset": {"classes": [2, 3]}}],
    },
}  # fmt: skip


@pytest.fixture(params=CASES)
def settings(request: pytest.FixtureRequest) -> TrialConfig:
    return TrialConfig.parse({**SMALL, **CASES[request.param]}, request.param)


@pytest.fixture
def double() -> Iterator[None]:
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def made(settings: TrialConfig) -> list[Classifier]:
    """Not trained, but with no tensor at its first value, such as biases of 0; the same at each call."""
    rng = torch.Generator().manual_seed(0)
    classifiers = []
    for spec in settings.classifiers():
        names = tuple(map(str, spec.dataset.classes or range(10)))
        module = architectures.build(spec.classifier, (1, 8, 8), len(names))
        with torch.no_grad():
            for name, values in [*module.named_parameters(), *module.named_buffers()]:
                if name.endswith("running_var"):
                    values.uniform_(0.5, 1.5, generator=rng)
                elif values.is_floating_point():
                    values += 0.1 * torch.randn(values.shape, generator=rng)
        classifiers.append(Classifier(module, names, (1, 8, 8), 100))
    return classifiers


def test_loss_and_gradients_are_those_of_the_textbook(settings: TrialConfig) -> None:
    errors = differences(Trainer(settings, made(settings)), Plain(settings, made(settings)))
    assert max(errors.values()) < 1e-5, errors  # float32 sums in another order


@pytest.mark.usefixtures("double")
def test_in_double_precision_they_are_equal_to_rounding(settings: TrialConfig) -> None:
    errors = differences(Trainer(settings, made(settings)), Plain(settings, made(settings)))
    assert max(errors.values()) < 1e-11, errors  # second derivatives through the batch's statistics lose a few digits


@pytest.mark.usefixtures("double")
def test_the_losses_of_a_whole_run_are_equal(settings: TrialConfig) -> None:
    ours, plain = Trainer(settings, made(settings)), Plain(settings, made(settings))
    plain.start_as(ours)
    expected = [plain.step().item() for _ in range(settings.steps)]
    # Gradients that are 0 but for rounding become whole steps of Adam, of parameters that BatchNorm ignores but for its eps.
    assert [report.metrics["loss/total"] for report in ours.run()] == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("case", ["the quick preset's losses", "no BatchNorm, Λ of all tensors, the closed form"])
def test_one_gradient_a_sample_gives_the_same(case: str) -> None:
    settings = TrialConfig.parse({**SMALL, **CASES[case], "bn_mode": "eval"}, case)
    errors = differences(Trainer(settings, made(settings)), Plain(settings, made(settings), per_sample=True))
    assert max(errors.values()) < 1e-5, errors  # float32 sums in another order


def test_a_difference_is_seen() -> None:
    """The comparison itself: another weight of one loss must show."""
    settings = TrialConfig.parse(SMALL, "tests")
    ours = Trainer(settings.updated({"tv_weight": 0.101}, "tests"), made(settings))
    errors = differences(ours, Plain(settings, made(settings)))
    assert errors["generator"] > 1e-5 and errors["loss"] > 1e-5


def test_what_the_textbook_form_does_not_know_it_refuses() -> None:
    for change in (
        {"bank": 10},
        {"surrogate": 10.0},
        {"contrast_weight": 0.1},
        {"estimator": "halves"},
        {"row_space_weight": 1.0, "row_space_layers": "all"},
    ):
        settings = TrialConfig.parse({**SMALL, **change}, "tests")
        with pytest.raises(NotImplementedError, match="plain"):
            Plain(settings, made(settings))
    settings = TrialConfig.parse(SMALL, "tests")
    with pytest.raises(ValueError, match="bn_mode eval"):
        Plain(settings, made(settings), per_sample=True)
