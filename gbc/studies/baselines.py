"""Other methods that make images from a classifier without data, with the same data, metrics and picture.

Each consists of settings of the trainer: pixels instead of a generator, or fewer losses.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from gbc.config import TrialConfig
from gbc.errors import BadInput
from gbc.settings import suggest

_PIXELS: Final = {"generator": "pixels", "lr": 0.05, "weight_decay": 0.0, "lr_schedule": "cosine", "batch_size": 500}
_NO_KKT: Final = {"stationarity_weight": 0.0, "beta": 0.0}
# The regime in which the closed form holds: weight decay, no BatchNorm, trained until convergence.
_CONVERGED: Final = {
    "name": "mlp", "hidden": 256, "weight_decay": 5e-3, "optimiser": "converge", "lr": 0.1, "steps": 6000, "polish": 200,
}  # fmt: skip


@dataclass(frozen=True)
class Baseline:
    """A method of the literature as settings of the trainer."""

    about: str
    settings: dict[str, Any]


BASELINES: Final[dict[str, Baseline]] = {
    "activation": Baseline(
        "activation maximisation, as in DeepDream (supplement B.3): every image climbs its own logit",
        {**_PIXELS, **_NO_KKT, "ce_weight": 1.0, "tv_weight": 0.3, "bn_mode": "eval", "steps": 300, "report_every": 100},
    ),
    "kkt-pixels": Baseline(
        "pixels under the closed form of a classifier that converged with weight decay",
        {
            **_PIXELS, **_NO_KKT, "classifier": _CONVERGED, "closed_weight": 1.0, "ce_weight": 0.3, "tv_weight": 0.1,
            "steps": 3000, "report_every": 500,
        },
    ),
    "reconstruction": Baseline(
        "pixels and free multipliers that make a converged classifier's parameters stationary, after Haim et al. (2022) and "
        "Buzaglo et al. (2023): twice as many images as it was trained on, a first layer that started small",
        {
            **_PIXELS, **_NO_KKT, "classifier": {**_CONVERGED, "hidden": 1000, "first_scale": 1e-4},
            # They use `free`, one for each image. The gradient of cross-entropy has one for each wrong class as well, and
            # then the training images alone are a solution for such a classifier.
            "multipliers": "free_by_class", "reconstruction_weight": 1.0, "surrogate": 100.0, "tv_weight": 0.0, "lr": 0.2,
            "eval_per_class": 100, "steps": 50_000, "report_every": 1000,
        },
    ),
    "bn-inversion": Baseline(
        "pixels that match BatchNorm's statistics and please the classifier (DeepInversion, Yin et al. 2020)",
        {**_PIXELS, **_NO_KKT, "bn_weight": 10.0, "ce_weight": 0.05, "tv_weight": 0.3, "steps": 1000, "report_every": 250},
    ),
    "ce-generator": Baseline(
        "a generator that only pleases the classifier: cross-entropy and total variation",
        {
            **_NO_KKT, "ce_weight": 1.0, "tv_weight": 0.3, "width": 256, "channels": 32, "lr": 5e-3,
            "lr_schedule": "cosine", "steps": 1000, "report_every": 250,
        },
    ),
}  # fmt: skip


def find(name: str) -> Baseline:
    """The baseline of that name.

    Raises:
        BadInput: there is no such baseline.
    """
    if name not in BASELINES:
        raise BadInput(f"unknown baseline {name!r}; {suggest(name, list(BASELINES))}")
    return BASELINES[name]


def settings_of(name: str, changes: dict[str, Any], source: str) -> TrialConfig:
    """The settings of baseline `name` with `changes` applied.

    Raises:
        BadInput: an unknown name or setting.
    """
    return TrialConfig.parse(find(name).settings, name).updated(changes, source)
